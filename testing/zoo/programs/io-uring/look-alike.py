#!/usr/bin/env python3
import select, socket
a, b = socket.socketpair()
select.epoll().register(a)
