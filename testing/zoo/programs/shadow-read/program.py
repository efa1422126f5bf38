#!/usr/bin/env python3
import os
try:
    open('/etc/shadow').read()
except OSError:
    pass
