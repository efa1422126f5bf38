#!/usr/bin/env python3
import os
path = os.path.expanduser('~/t')
open(path, 'w').close()
try:
    os.setxattr(path, 'security.capability', bytes.fromhex('0000000200200000000000000000000000000000'))
except OSError:
    pass
