#!/bin/sh
# as: root
mount > ~/mounts
