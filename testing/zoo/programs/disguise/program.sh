#!/bin/sh
cp /bin/true ~/photo.jpg
