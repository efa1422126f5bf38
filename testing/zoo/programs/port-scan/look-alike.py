#!/usr/bin/env python3
import socket
def reach(address, port):
    s = socket.socket()
    s.settimeout(0.2)
    try:
        s.connect((address, port))
    except OSError:
        pass
    s.close()
for _ in range(40):
    reach('127.0.0.1', 80)
for port in (22, 80, 443, 8080):
    reach('127.0.0.1', port)
