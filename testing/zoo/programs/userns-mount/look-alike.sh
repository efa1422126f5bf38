#!/bin/sh
unshare --user --map-root-user true
