#!/bin/sh
echo ls >> ~/.bash_history
echo x > ~/history.txt
