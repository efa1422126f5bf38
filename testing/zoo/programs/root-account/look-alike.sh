#!/bin/sh
# as: root
useradd --no-create-home fvmzoo
