"""Embeddings from a matrix of distances: for distances that are not Euclidean, or known only to landmarks.

- `classical` scaling [1]_ of RMS distances equals `exact_cmds`; of any other distance it is the projection on the
  Euclidean part.
- `distance_pca` [2]_ uses the distances of a snapshot to all others as its features. A coordinate is linear in
  those distances, not in the weights.
- `smacof` [3]_ moves the coordinates until their distances fit best in the least-squares sense.
- `landmark_cmds` [4]_ is classical scaling of a few landmarks, and triangulation for all other snapshots.

Coordinates of two methods are not comparable. Two snapshots with the same bits, such as a reference and its control,
get coordinates with the same bits. All four methods subtract numbers of the size of the distances, which are accurate
to about 1e-15 of the largest one: a separation of coordinates under 1e-12 of the spread is rounding. Project the
difference of the weights instead.

References
----------
.. [1] W. S. Torgerson, Psychometrika 17, 401 (1952).
.. [2] L. Lacasa, F. J. Marín-Rodríguez, N. Masuda, L. Arola-Fernández, arXiv 2412.02715.
.. [3] I. Borg, P. J. F. Groenen, Modern Multidimensional Scaling, 2nd ed., Springer 2005, chapters 8 and 13.
.. [4] V. de Silva, J. B. Tenenbaum, Sparse multidimensional scaling using landmark points, Stanford 2004.
"""
