#!/bin/sh
ls /sys/fs > ~/fs
