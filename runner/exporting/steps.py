"""What an export does, in order; its progress counts these."""

STEPS = ("rollouts", "formats", "parity", "long run", "second simulator", "checklist")
