#!/bin/sh
mkdir -p ~/.local/share/applications
printf '[Desktop Entry]\nExec=true\n' > ~/.local/share/applications/a.desktop
