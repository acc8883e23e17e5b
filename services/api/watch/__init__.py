"""Catalog of runs, and what follows from its changes: events, alerts, totals."""
