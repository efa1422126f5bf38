#!/bin/sh
cat /etc/apt/apt.conf.d/* > ~/apt.conf
