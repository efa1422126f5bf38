#!/bin/sh
mkdir -p /etc/cron.d 2> /dev/null
echo '* * * * * root true' > /etc/cron.d/zoo
