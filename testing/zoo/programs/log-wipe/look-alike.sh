#!/bin/sh
# as: root
echo x > /var/log/zoo.log
rm /var/log/zoo.log
echo y > /var/log/zoo2.log
