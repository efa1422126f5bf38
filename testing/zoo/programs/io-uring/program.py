#!/usr/bin/env python3
import ctypes, os, platform
number = 425 if platform.machine() == 'x86_64' else 425
ctypes.CDLL(None).syscall(number, 0, 0, 0)
