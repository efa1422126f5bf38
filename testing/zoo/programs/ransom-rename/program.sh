#!/bin/sh
for f in ~/docs/*.txt; do mv "$f" "$f.locked"; done
