"""Exponents: how fast replicas leave their reference, by every estimator, and the regime that follows."""
