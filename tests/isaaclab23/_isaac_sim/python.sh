#!/bin/sh
# Stands in for the Python of Isaac Sim.
exec "${PYTHON:-python3}" "$@"
