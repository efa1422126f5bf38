#!/usr/bin/env python3
import os, socket, time
server_end, told = os.pipe()
if os.fork() == 0:
    server = socket.create_server(('127.0.0.1', 0))
    os.write(told, str(server.getsockname()[1]).encode())
    peer, _ = server.accept()
    peer.sendall(b'exit\n')
    time.sleep(1)
    os._exit(0)
port = int(os.read(server_end, 16))
peer = socket.create_connection(('127.0.0.1', port))
for fd in (0, 1, 2):
    os.dup2(peer.fileno(), fd)
os.execv('/bin/sh', ['sh', '-i'])
