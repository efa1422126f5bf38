#!/usr/bin/env python3
import os, socket
path = os.path.expanduser('~/own.sock')
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
socket.socket(socket.AF_UNIX).connect(path)
