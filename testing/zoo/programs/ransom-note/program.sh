#!/bin/sh
for dir in a b c; do mkdir -p ~/$dir; echo pay > ~/$dir/HOW_TO_DECRYPT_FILES.txt; done
