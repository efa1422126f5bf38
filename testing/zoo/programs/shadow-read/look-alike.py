#!/usr/bin/env python3
import pwd
pwd.getpwnam('root')
open('/etc/passwd').read()
