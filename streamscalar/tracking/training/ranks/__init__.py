"""Each rank of a distributed training records hashes of its parameters and buffers, so that drift is found."""
