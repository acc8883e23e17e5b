"""Training: all replicas of a run in lockstep (torch only)."""
