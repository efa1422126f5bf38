#!/bin/sh
echo 'alias ls=x' > ~/bashrc.txt
cat ~/.bashrc
