"""The HTTP application: routes, authentication, limits, telemetry and the server."""
