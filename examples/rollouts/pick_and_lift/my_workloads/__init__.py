"""A Franka picks a block up from a table: the workload of one job, simulated with Newton."""
