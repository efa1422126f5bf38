#!/usr/bin/env python3
import ctypes, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace(0, 0, 0, 0)
