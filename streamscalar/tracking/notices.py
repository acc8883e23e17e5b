"""Warnings of a tracker: one of each kind, never raised as an error."""

import logging
import warnings
from collections import Counter

_LOG = logging.getLogger(__name__)


class TrackingWarning(UserWarning):
    """A problem of the recording; the training itself is not affected."""


class Notices:
    """Warns once about each kind of problem and counts all of them.

    Attributes
    ----------
    counts : Counter
        Number of occurrences of each kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def warn(self, kind: str, text: str) -> None:
        """Warn at the first occurrence of `kind`."""
        self.counts[kind] += 1
        if self.counts[kind] > 1:
            return
        try:
            warnings.warn(text, TrackingWarning, stacklevel=2)
        except TrackingWarning:
            # If warnings are turned into errors, this one must not end the training.
            _LOG.warning(text)

    def failed(self, where: str, error: Exception) -> None:
        """Warn about a caught error."""
        self.warn(where, f"{where}: {type(error).__name__}: {error}")
