#!/bin/sh
printf '\377\330\377\340\000\020JFIF' > ~/photo.jpg
cp /bin/true ~/program
