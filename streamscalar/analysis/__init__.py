"""From recorded series to estimates, regimes and tables."""
