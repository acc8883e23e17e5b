"""Asymptotic states: where replicas settle, the spacings between them, and candidate laws of spacings."""
