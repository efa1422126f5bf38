#!/usr/bin/env python3
import os
open(os.path.expanduser('~/.ssh/known_hosts')).read()
path = os.path.expanduser('~/.ssh/id_new')
open(path, 'w').close()
open(path).read()
