#!/bin/sh
cat /proc/modules > ~/modules
