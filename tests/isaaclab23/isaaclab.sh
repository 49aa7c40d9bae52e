#!/usr/bin/env bash
# Stands in for Isaac Lab 2.3's launcher, which needs Isaac Sim, an RTX GPU and 20 GB: `-p` runs a script with Python.
# What that one can fail at stands here too: `tabs` needs a terminal, and an activated environment comes first.
set -e
tabs 4
[ "$1" = -p ] || exit 2
shift
environment=${CONDA_PREFIX:-$VIRTUAL_ENV}
if [ -n "$environment" ]; then
    exec "$environment/bin/python" "$@"
fi
exec "$(dirname "$0")/_isaac_sim/python.sh" "$@"
