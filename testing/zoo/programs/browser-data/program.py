#!/usr/bin/env python3
import os
open(os.path.expanduser('~/.mozilla/firefox/p/logins.json')).read()
