"""Executors: the same workers inline or on Ray, with bit-identical stores."""

from streamscalar.runtime.launch import Prepared, continue_store, execute, prepare, run

__all__ = ["Prepared", "continue_store", "execute", "prepare", "run"]
