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
for n in range(1, 25):
    reach(f'198.51.100.{n}', 443)
reach('10.0.0.1', 53)
