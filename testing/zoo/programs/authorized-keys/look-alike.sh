#!/bin/sh
mkdir -p ~/.ssh
echo 'host.test ssh-ed25519 AAAA' >> ~/.ssh/known_hosts
