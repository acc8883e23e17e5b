"""Analysis of one recorded series: changes, shape and dynamic mode decomposition."""
