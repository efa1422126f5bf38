#!/bin/sh
echo '192.0.2.1 bank.test' >> /etc/hosts
