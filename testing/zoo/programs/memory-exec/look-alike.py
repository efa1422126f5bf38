#!/usr/bin/env python3
import os
fd = os.memfd_create('x', 0)
os.write(fd, b'a buffer')
os.execve('/bin/true', ['true'], os.environ)
