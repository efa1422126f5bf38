#!/usr/bin/env python3
import os, signal, time
pid = os.fork()
if pid == 0:
    time.sleep(30)
    os._exit(0)
try:
    open(f'/proc/{pid}/mem', 'r+b', buffering=0)
except OSError:
    pass
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
