"""The channel between the training process and the recording process: shared memory and messages."""
