"""The workers as plain classes: trainer, embedder and coordinator; executors run them."""
