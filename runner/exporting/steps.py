"""Steps of an export, in order; its progress counts these."""

STEPS = ("rollouts", "formats", "long run", "parity", "second simulator", "checklist")
