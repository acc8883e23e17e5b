"""The coordinator: plans, positions and small numbers, never rows."""
