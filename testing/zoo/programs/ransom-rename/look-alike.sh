#!/bin/sh
for f in ~/docs/*.txt; do sed -i.bak s/a/b/ "$f"; done
gzip ~/docs/*.txt
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo x > ~/n$n; mv ~/n$n ~/n$n.done; done
