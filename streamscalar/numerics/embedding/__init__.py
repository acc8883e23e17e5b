"""Scalar embeddings of trajectories: exact, online, joint, and from distances; and what a random walk would explain."""
