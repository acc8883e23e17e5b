"""Errors as problem+json (RFC 9457): one sentence, never a traceback."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from streamscalar.errors import BadCall, Kind, StreamscalarError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, kind: str = "about:blank", headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error document."""
    document = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    # JSON has no lone surrogates, which names in Python may have.
    document["detail"] = detail.encode("utf-8", "backslashreplace").decode()
    return JSONResponse(document, status, headers, MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Return every error of the application as a problem document."""

    @app.exception_handler(StreamscalarError)
    async def _ours(_: Request, error: StreamscalarError) -> JSONResponse:
        if not isinstance(error, BadCall):
            _log.error("%s", error)
            return problem(500, str(error), f"urn:streamscalar:{error.kind}")
        status = 404 if error.kind is Kind.STORE_MISSING else 422
        return problem(status, str(error), f"urn:streamscalar:{error.kind}")

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        got = first.get("input")
        shown = f"; got {str(got)[:80]!r}" if isinstance(got, str | int | float) else ""
        return problem(422, f"{where}: {first['msg']}{shown}", "urn:streamscalar:request")

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        _log.exception("unexpected error", exc_info=error)
        return problem(500, "Internal error; see the log of the service.")
