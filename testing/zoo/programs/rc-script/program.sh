#!/bin/sh
echo true > /etc/rc.local
