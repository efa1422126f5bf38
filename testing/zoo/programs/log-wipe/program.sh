#!/bin/sh
rm -f /var/log/*.log 2> /dev/null
