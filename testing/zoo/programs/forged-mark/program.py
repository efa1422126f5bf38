#!/usr/bin/env python3
import os
path = os.path.expanduser('~/docs/1.txt')
try:
    os.setxattr(path, 'user.fvm.mark', b'{}')
except OSError:
    pass
