#!/usr/bin/env python3
import ctypes, os, platform
number = 303 if platform.machine() == 'x86_64' else 264
ctypes.CDLL(None).syscall(number, -100, b"/etc/passwd", 0, 0, 0)
