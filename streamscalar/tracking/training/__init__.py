"""The part of a tracked run that runs in the training process."""
