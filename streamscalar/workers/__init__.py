"""The workers as plain classes: trainer and embedder."""
