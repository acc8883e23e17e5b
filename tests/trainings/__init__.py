"""Trainings of the kinds that people run, and whether copies repeat them."""
