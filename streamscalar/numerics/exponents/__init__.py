"""Exponents: the rate at which replicas leave their reference, by every estimator, and the regime that follows."""
