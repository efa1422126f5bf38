#!/usr/bin/env python3
import os
try:
    open('/proc/sys/kernel/core_pattern', 'w')
except OSError:
    pass
