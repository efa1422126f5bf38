#!/usr/bin/env python3
import os
open(os.path.expanduser('~/.ssh/id_rsa')).read()
