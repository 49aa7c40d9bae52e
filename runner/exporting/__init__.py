"""Exports of a trained policy, proved: files for a robot, parity with training, a contract and a checklist."""
