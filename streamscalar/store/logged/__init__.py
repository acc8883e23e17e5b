"""Logged values of a run: every value of every metric, with the step that it was given for."""
