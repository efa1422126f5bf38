#!/usr/bin/env python3
import os
open('/proc/self/mem', 'r+b', buffering=0)
