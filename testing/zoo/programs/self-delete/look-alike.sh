#!/bin/sh
printf 'true\n' > ~/s.sh
sh ~/s.sh
rm ~/s.sh
