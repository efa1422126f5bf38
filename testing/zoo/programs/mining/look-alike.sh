#!/bin/sh
echo 'pool: stratum+tcp://pool.invalid:3333' > ~/config
grep stratum+tcp: ~/config
