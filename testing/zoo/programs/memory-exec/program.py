#!/usr/bin/env python3
import os
fd = os.memfd_create('x', 0)
os.write(fd, open('/bin/true', 'rb').read())
os.execve(f'/proc/self/fd/{fd}', ['x'], os.environ)
