"""Benchmark `scaling`: several hosts on one machine, unit costs, and a model of a large cluster."""
