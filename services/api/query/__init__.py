"""Answers to queries: lists, series, comparisons, nearest runs, analyses."""
