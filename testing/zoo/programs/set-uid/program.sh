#!/bin/sh
cp /bin/true ~/t
chmod u+s ~/t
