#!/usr/bin/env python3
import os
path = os.path.expanduser('~/t')
open(path, 'w').close()
try:
    os.setxattr(path, 'user.comment', b'x')
except OSError:
    pass
