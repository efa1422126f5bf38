#!/bin/sh
cat /proc/cpuinfo > ~/cpu
