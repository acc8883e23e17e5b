"""The format of a stored array: Zarr arrays that grow, the codec of integer deltas, and packed state."""
