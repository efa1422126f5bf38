#!/usr/bin/env python3
import os
open(os.path.expanduser('~/docs/1.txt'), 'a').write('more')
path = os.path.expanduser('~/new')
open(path, 'w').close()
os.utime(path, (1, 1))
