"""The query API: an application factory without Ray, and a standalone server."""

from streamscalar_services.api.http.app import create_app
from streamscalar_services.api.service_options import ServiceOptions

__all__ = ["ServiceOptions", "create_app"]
