#!/bin/sh
# Stands in for Isaac Lab 2.3's launcher, which needs Isaac Sim, an RTX GPU and 20 GB: `-p` runs a script with Python.
[ "$1" = -p ] || exit 2
shift
exec "${PYTHON:-python3}" "$@"
