"""Scalar embeddings of trajectories: exact, online, joint, from distances; and the null model of random walks."""
