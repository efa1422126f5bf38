#!/usr/bin/env python3
import os
open(os.path.expanduser('~/docs/mozilla.txt'), 'a').close()
open(os.path.expanduser('~/docs/mozilla.txt')).read()
