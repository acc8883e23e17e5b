"""A sink on a Ray cluster: the place where one would be connected."""

from streamscalar.errors import Kind, WorkFailed
from streamscalar.tracking.sink import Say, Sink


def connect(address: str, say: Say) -> Sink:
    """Return a sink whose rows are embedded on the cluster at `address`.

    Raises
    ------
    WorkFailed
        The cluster cannot be reached.
    """
    del say
    raise WorkFailed("address", "must be a Ray cluster that can be reached", repr(address), kind=Kind.CLUSTER)
