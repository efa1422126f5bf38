#!/usr/bin/env python3
# as: user
import os
os.setuid(os.getuid())
