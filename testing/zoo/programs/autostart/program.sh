#!/bin/sh
mkdir -p ~/.config/autostart
printf '[Desktop Entry]\nExec=true\n' > ~/.config/autostart/a.desktop
