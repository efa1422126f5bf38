#!/usr/bin/env python3
import os, shutil
path = os.path.expanduser('~/t')
shutil.copy('/bin/true', path)
fd = os.open(path, os.O_RDONLY)
os.unlink(path)
os.execve(fd, ['t'], os.environ)
