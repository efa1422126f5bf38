#!/usr/bin/env python3
import ctypes, os, platform
number = 250 if platform.machine() == 'x86_64' else 219
ctypes.CDLL(None).syscall(number, 0, 0, 0)
