"""Pure numerics on NumPy arrays: distances, embeddings, exponents, intervals. No I/O, no global state."""
