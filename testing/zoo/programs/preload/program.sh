#!/bin/sh
library=$(ls /lib/*/libm.so.6 /usr/lib/*/libm.so.6 /lib64/libm.so.6 /usr/lib64/libm.so.6 2> /dev/null | head -n 1)
cat "$library" > ~/l.so
LD_PRELOAD="$HOME/l.so" /bin/true
