"""The recording process: stores and embeds the rows of a tracked training."""
