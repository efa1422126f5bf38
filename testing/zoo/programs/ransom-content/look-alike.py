#!/usr/bin/env python3
import glob, os
for path in glob.glob(os.path.expanduser('~/docs/*.txt')):
    text = open(path).read().upper()
    open(path, 'w').write(text)
