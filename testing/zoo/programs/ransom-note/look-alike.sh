#!/bin/sh
for dir in a b c; do mkdir -p ~/$dir; echo hello > ~/$dir/README.txt; done
