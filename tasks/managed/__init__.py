"""Managed training runs: what each step of the loop does, without Prefect."""
