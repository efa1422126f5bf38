#!/usr/bin/env python3
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(320):
    s.sendto(b'name', ('127.0.0.1', 53))
