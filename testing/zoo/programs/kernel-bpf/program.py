#!/usr/bin/env python3
import ctypes, os, platform
number = 321 if platform.machine() == 'x86_64' else 280
ctypes.CDLL(None).syscall(number, 0, 0, 0)
