"""The planner's process: a run's memory, measured on tensors that take none."""
