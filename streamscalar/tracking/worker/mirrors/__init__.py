"""Sends results of a tracked run to W&B, MLflow, Trackio or TensorBoard: one process per run and back end.

Each process reads the store, as the query API does, at the lowest priority. The store is its queue: a back end that is
slow, fails or hangs delays nothing else, and continues from the last row that it has.
"""
