"""The services over a store: the query API, its dashboard, and their deployment on Ray Serve."""
