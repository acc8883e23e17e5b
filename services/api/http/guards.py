"""Middleware of every route: limits of size and time, authentication, security headers, entity tags."""

import asyncio
import contextlib
import hashlib
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamscalar_services.api.http.problem_json import problem
from streamscalar_services.api.service_options import ServiceOptions
from streamscalar_services.api.tokens import Right, Tokens

OPEN = frozenset({"/", "/health", "/ready"})
"""Routes without a token, besides the files of the page; they return no data."""
STATIC = "/static/"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SESSION = "/v1/session"

HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Middleware that rejects requests that are too large, too slow or not allowed, before any route runs."""

    def __init__(self, app: ASGIApp, options: ServiceOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        body = _Body(receive, self._options)
        is_answered = False

        async def send_safely(message: Message) -> None:
            nonlocal is_answered
            if body.refusal is not None and not is_answered:
                # The response of the application to a body that it could not read; ours follows.
                return
            if message["type"] == "http.response.start":
                is_answered = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith(STATIC):
                    headers.setdefault("cache-control", "no-cache, private")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await problem(*refusal)(scope, receive, send_safely)
            return
        with contextlib.suppress(_Refused):
            await self._app(scope, body.receive, send_safely)
        if body.refusal is not None and not is_answered:
            answer = problem(*body.refusal, headers={"connection": "close"})
            body.refusal = None
            await answer(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> tuple[Any, ...] | None:
        options, path = self._options, scope["path"]
        if len(scope["query_string"]) > options.max_query_bytes:
            return 414, f"query: must be at most {options.max_query_bytes} bytes"
        if path in OPEN or path.startswith(STATIC):
            return None
        headers = Headers(scope=scope)
        right, by_cookie = _right(headers, options.tokens)
        if right is None:
            detail = "authorization: must be a bearer token of this service, or its cookie; open the printed link"
            return 401, detail, "about:blank", {"www-authenticate": 'Bearer realm="streamscalar"'}
        if scope["method"] not in SAFE_METHODS and path != SESSION:
            if right is not Right.ADMIN:
                return 403, "authorization: must be the admin token for this request"
            if by_cookie and not _is_own_page(headers):
                return 403, "origin: must be the page of this service if a cookie is used"
        scope.setdefault("state", {})["right"] = right
        return None


class _Refused(Exception):
    pass


class _Body:
    """Passes on the body of a request within the limits; `refusal` is set when it exceeds one."""

    def __init__(self, receive: Receive, options: ServiceOptions) -> None:
        self._receive = receive
        self._options = options
        self._n_bytes = 0
        self._is_whole = False
        self.refusal: tuple[int, str] | None = None

    async def receive(self) -> Message:
        """Return the next part."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                message = await self._receive()
        except TimeoutError:
            self.refusal = 408, f"body: must arrive within {self._options.body_timeout_s:g} s"
            raise _Refused from None
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._options.max_body_bytes:
            self.refusal = 413, f"body: must be at most {self._options.max_body_bytes} bytes"
            raise _Refused
        self._is_whole = not message.get("more_body", False)
        return message


def _right(headers: Headers, tokens: Tokens) -> tuple[Right | None, bool]:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind:
        return (tokens.right(token.strip()) if kind.lower() == "bearer" else None), False
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(tokens.cookie_name)
    except CookieError:
        cookie = None
    return (None if cookie is None else tokens.cookie_right(cookie.value)), True


def _is_own_page(headers: Headers) -> bool:
    origin = headers.get("origin", "")
    return origin.partition("://")[2] == headers.get("host") != ""


class EntityTags:
    """Middleware that adds an entity tag to JSON responses, and returns 304 if the client has that response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if message["status"] != 200 or not kind.startswith("application/json"):
                    await send(message)
                    return
                start = message
            elif start is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._answer(scope, send, start, b"".join(parts))

        await self._app(scope, receive, collect)

    @staticmethod
    async def _answer(scope: Scope, send: Send, start: Message, body: bytes) -> None:
        # Weak, as the same response may be sent compressed or not.
        tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers = MutableHeaders(scope=start)
        headers["etag"] = tag
        known = [text.strip() for text in Headers(scope=scope).get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            del headers["content-length"]
            await send({**start, "status": 304})
            await send({"type": "http.response.body", "body": b""})
            return
        await send(start)
        await send({"type": "http.response.body", "body": body})
