"""The control plane: the operator, which looks after jobs, and the planner of their rounds."""
