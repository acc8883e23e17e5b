"""Executors: the same workers inline or on Ray, with bit-identical stores."""

from streamscalar.runtime.launch import Prepared, attach, continue_store, execute, prepare, run

__all__ = ["Prepared", "attach", "continue_store", "execute", "prepare", "run"]
