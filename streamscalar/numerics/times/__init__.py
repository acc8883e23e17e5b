"""Times of a run: the characteristic time, the decorrelation time, and their correlation."""
