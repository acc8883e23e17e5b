"""Options of the service."""

from dataclasses import dataclass, field

from streamscalar.store import Place, medium_of
from streamscalar_services.api.sinks import AlertSinks
from streamscalar_services.api.tokens import Tokens

POLL_S, POLL_BUCKET_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Options of the service; every size has a limit.

    Attributes
    ----------
    root
        A store or a folder of stores, on a file system or in a bucket.
    tokens
        The tokens for reading, and for cancelling and adding runs.
    sinks
        Destinations of alerts besides the event stream.
    poll_s
        Seconds between two polls of the stores, which is the maximum delay of a new row. By default 1, and 5 in a
        bucket, where polling a run that has not ended takes three requests.
    silent_after_s
        Seconds without a row after which a run that has not ended counts as silent.
    max_page
        Maximum number of items of a list.
    max_points
        Maximum number of points of a series; over all replicas together ten times as many.
    max_compared
        Maximum number of runs of a comparison.
    max_streams
        Maximum number of concurrent event streams.
    max_body_bytes, max_query_bytes
        Maximum size of a request.
    body_timeout_s
        Seconds within which a request body must arrive.
    cache_bytes
        Memory for cached series.
    """

    root: Place
    tokens: Tokens
    sinks: AlertSinks = field(default_factory=lambda: AlertSinks(()))
    poll_s: float | None = None
    silent_after_s: float = 60.0
    max_page: int = 500
    max_points: int = 100_000
    max_compared: int = 64
    max_streams: int = 64
    max_body_bytes: int = 65_536
    max_query_bytes: int = 8_192
    body_timeout_s: float = 10.0
    cache_bytes: int = 256 * 2**20

    @property
    def poll_every_s(self) -> float:
        """Seconds between two polls."""
        if self.poll_s is not None:
            return self.poll_s
        return POLL_BUCKET_S if medium_of(self.root).is_remote else POLL_S
