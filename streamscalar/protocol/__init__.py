"""Decisions without I/O: events in, instructions out."""
