#!/bin/sh
mkdir -p /etc/udev/rules.d 2> /dev/null
echo 'RUN+="/bin/true"' > /etc/udev/rules.d/99-zoo.rules
