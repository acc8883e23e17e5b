"""The executor on Ray: actors, pools of workers, tokens and nodes. No other part of the package imports ray."""
