"""The HTTP application: routes, authentication, limits, telemetry, and where alerts are sent."""
