"""Rollouts: environments driven by a policy, a mode or a task, recorded while they run."""
