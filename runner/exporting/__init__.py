"""Exports of a trained policy, proved: files for a robot, parity with training, a contract and a checklist."""

STEPS = ("rollouts", "formats", "long run", "parity", "second simulator", "checklist")
"""Steps of an export, in order; its progress counts these. They stand here because the control side counts them too."""
