#!/usr/bin/env python3
import socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect('/var/run/docker.sock')
except OSError:
    pass
