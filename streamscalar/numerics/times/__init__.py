"""Times of a run: first accuracy, characteristic time, decorrelation time, and their correlation."""
