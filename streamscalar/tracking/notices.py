"""What a tracker says: each kind once, and never by raising."""

import logging
import warnings
from collections import Counter

_LOG = logging.getLogger(__name__)


class TrackingWarning(UserWarning):
    """Something about the recording, not about the training, which goes on."""


class Notices:
    """Warns once of each kind of trouble and counts the rest.

    Attributes
    ----------
    counts : Counter
        How often each kind came up.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def say(self, kind: str, text: str) -> None:
        """Warn, the first time that `kind` comes up."""
        self.counts[kind] += 1
        if self.counts[kind] > 1:
            return
        try:
            warnings.warn(text, TrackingWarning, stacklevel=2)
        except TrackingWarning:
            # Where warnings are made errors, this one must not end the training.
            _LOG.warning(text)

    def failed(self, where: str, error: Exception) -> None:
        """Warn of an error that was caught."""
        self.say(where, f"{where}: {type(error).__name__}: {error}")
