"""The back ends, one module each, which imports its package; see `base.Backend`."""
