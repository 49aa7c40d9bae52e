"""A gripper that lifts a cube by friction: a task of one's own, simulated with Newton."""
