#!/bin/sh
cat /etc/pam.d/* > ~/pam.txt
