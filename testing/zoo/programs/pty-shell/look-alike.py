#!/usr/bin/env python3
import os, pty, socket
peer = socket.socket()
try:
    peer.connect(('192.0.2.1', 443))
except OSError:
    pass
child, terminal = pty.fork()
if child == 0:
    os.execv('/bin/sh', ['sh', '-c', 'echo built'])
try:
    while os.read(terminal, 1024):
        pass
except OSError:
    pass
os.waitpid(child, 0)
