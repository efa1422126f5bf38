#!/bin/sh
ls /boot > ~/boot.txt
