#!/usr/bin/env python3
import socket, subprocess
peer = socket.socket()
try:
    peer.connect(('192.0.2.1', 443))
except OSError:
    pass
subprocess.run(['sh'], input=b'exit\n', stdout=subprocess.PIPE)
