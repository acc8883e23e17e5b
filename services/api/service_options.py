"""How the service is set up."""

from dataclasses import dataclass, field

from streamscalar.store import Place, medium_of
from streamscalar_services.api.http.auth import Tokens
from streamscalar_services.api.http.sinks import Sinks

POLL_S, POLL_BUCKET_S = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service is set up; every size has a limit.

    Attributes
    ----------
    root
        A store, or a folder of stores; or a prefix in a bucket that is one.
    tokens
        Who may read, and who may cancel and add runs.
    sinks
        Where alerts go besides the event stream.
    poll_s
        Seconds between two looks at the stores: what a new row waits for at most. By default 1, and 5 in a bucket,
        where each look at a run that has not ended costs three requests.
    silent_after_s
        Seconds without a row after which a run that has not ended counts as silent.
    max_page
        Items of a list at most.
    max_points
        Points of a series at most, over all replicas together ten times as many.
    max_compared
        Runs of a comparison at most.
    max_streams
        Event streams at once.
    max_body_bytes, max_query_bytes
        Size of a request.
    body_timeout_s
        Seconds a request may take to arrive.
    cache_bytes
        Series kept in memory.
    """

    root: Place
    tokens: Tokens
    sinks: Sinks = field(default_factory=lambda: Sinks(()))
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
    def look_every_s(self) -> float:
        """Seconds between two looks."""
        if self.poll_s is not None:
            return self.poll_s
        return POLL_BUCKET_S if medium_of(self.root).is_remote else POLL_S
