"""Moved."""

from simyard.runner.environment import fresh_environment

__all__ = ["fresh_environment"]
