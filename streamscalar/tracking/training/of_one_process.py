"""What a tracker does where objects that hold it are pickled or copied."""

from typing import NoReturn, Self


class OfOneProcess:
    """An object that belongs to the process that made it."""

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: a tracker belongs to the process that made it.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("a Tracker cannot be pickled or sent to another process; call ss.track() in that process")

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the tracker itself, so that an object that holds it can be copied."""
        return self
