#!/bin/sh
git init -q ~/repo
cd ~/repo
echo x > f
git add f
git -c user.name=a -c user.email=a@b commit -qm m
git clone -q ~/repo ~/other
