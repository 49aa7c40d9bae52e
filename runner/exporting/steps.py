"""What an export does, in order; its progress counts these."""

STEPS = ("rollouts", "formats", "long run", "parity", "second simulator", "checklist")
