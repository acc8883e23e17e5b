"""Checks of an installation, of a store and of a cluster."""
