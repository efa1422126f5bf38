#!/bin/sh
tar cf ~/x.tar ~/docs 2> /dev/null
