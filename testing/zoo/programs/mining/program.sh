#!/bin/sh
cp /bin/true ~/m
~/m -o stratum+tcp://pool.invalid:3333
