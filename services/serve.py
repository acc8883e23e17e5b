"""The query API on Ray Serve: `serve run streamscalar_services.serve:app root=/stores`.

The replica reads its tokens from its own environment or files, as `streamscalar serve` does; the proxy of Serve passes
all requests on without checks. There is one replica, as it holds the event stream and the analyses in memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from streamscalar.config.log_settings import log_format
from streamscalar.errors import BadCall, Kind
from streamscalar.logs import set_up_logs
from streamscalar.store import place
from streamscalar_services.api import ServiceOptions, create_app
from streamscalar_services.api.tokens import Tokens

CPUS = 0.5
MAX_ONGOING = 256
"""Maximum number of concurrent requests, including event streams."""


def app(arguments: Mapping[str, str]) -> Application:
    """Return the application for Ray Serve.

    Parameters
    ----------
    arguments
        `root`: a store or a folder of stores on the machine of the replica, or `s3://bucket/prefix`. `tokens`: the
        folder there with the files `token` and `admin-token`; `~/.config/streamscalar` by default.
    """
    if "root" not in arguments:
        raise BadCall("root", "must be given", fix="Pass root=/path/to/stores", kind=Kind.CONFIG)
    root = place(arguments["root"])
    folder = Path(arguments["tokens"]) if "tokens" in arguments else None

    def build() -> FastAPI:
        set_up_logs(log_format() or "text")
        return create_app(ServiceOptions(root, Tokens.load(folder)))

    # Ray's decorators have no types.
    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name="streamscalar",
        num_replicas=1,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": CPUS},
    )
    bound: Application = deployment.bind()
    return bound
