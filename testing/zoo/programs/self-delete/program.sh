#!/bin/sh
printf 'rm -- "$0"\n' > ~/s.sh
sh ~/s.sh
