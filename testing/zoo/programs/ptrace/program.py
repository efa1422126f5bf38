#!/usr/bin/env python3
import ctypes, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    time.sleep(30)
    os._exit(0)
libc.ptrace(16, pid, 0, 0)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
