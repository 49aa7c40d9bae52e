"""Prefect flows; a process that imports one runs it, and keeps what it knows and writes to itself from here on."""

from simyard.core.process import keep_private

keep_private()
