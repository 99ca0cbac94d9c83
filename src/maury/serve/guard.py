"""What stands before every route: the Host header, the origin of a request, the session's cookie, and headers of safety."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maury.serve.settings import Refused

T = TypeVar("T", bound="Owned")


class Owned(Protocol):
    """What belongs to a session."""

    @property
    def owner(self) -> str:
        """The session's id."""


def owned(kept: Mapping[str, T], owner: str, key: str, what: str) -> T:
    """Return what a session keeps under a key.

    Raises
    ------
    Refused
        If there is none of that id, or it is another session's.
    """
    found = kept.get(key)
    if found is None or not secrets.compare_digest(found.owner, owner):
        raise Refused(f"no such {what}: it has been deleted, or was never here", 404)
    return found


PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report's scripts are its own and run, but with the origin of no one: they reach neither this server nor its cookie.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
# Inside the page it has the page's origin and no scripts at all. Browsers paint a frame of another origin where the window is and
# nowhere else, so that pictures and prints of the whole page would have a blank in its place.
STILL_POLICY = (
    "sandbox allow-same-origin allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SAFE = ("GET", "HEAD")
_ALWAYS = ("127.0.0.1", "::1", "localhost")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_allowed(header: str, bound: str) -> bool:
    """Tell whether a Host header is one under which this server can honestly be reached.

    A foreign page whose name is made to point here (DNS rebinding) sends its own name. Names of this machine are good, and, where the
    server listens to more than this machine, plain addresses too: those cannot be rebound.
    """
    try:
        name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in (*_ALWAYS, bound.lower()):
        return True
    if is_loopback(bound):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in (socket.gethostname().lower(), socket.getfqdn().lower())
    return True


class Sessions:
    """Names of sessions that only this server can give: each bears a signature under a key of this run alone."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def new(self) -> str:
        """Return the cookie of a new session."""
        name = secrets.token_urlsafe(24)
        return f"{name}.{self._signature(name)}"

    def owner(self, cookie: str) -> str:
        """Return the session's name; empty if the cookie is not one of ours."""
        name, _, signature = cookie.partition(".")
        expected = self._signature(name).encode()
        return name if hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected) else ""

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware that refuses foreign requests and gives every browser a session.

    Parameters
    ----------
    app
        What it stands before; finds the session's name in ``scope["state"]["owner"]``, empty where a request has none.
    host
        The address that the server listens on.
    cookie
        The cookie's name.
    """

    def __init__(self, app: ASGIApp, host: str, cookie: str) -> None:
        self._app, self._host, self._cookie = app, host, cookie
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        owner = self._sessions.owner(cookie_parser(headers.get("cookie", "")).get(self._cookie, ""))
        # A cookie that somebody else has chosen is not kept.
        fresh = self._sessions.new() if scope["path"] == "/" and not owner else ""
        scope.setdefault("state", {})["owner"] = owner

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out.setdefault("Content-Security-Policy", PAGE_POLICY)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                if fresh:
                    out.append("Set-Cookie", f"{self._cookie}={fresh}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        reason = self._foreign(scope, headers)
        if not reason and scope["path"].startswith("/api/") and not owner:
            reason = "this request belongs to no session; load the page again"
        if reason:
            await JSONResponse({"error": reason, "fields": {}}, 403)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _foreign(self, scope: Scope, headers: Headers) -> str:
        """Say why a request is another site's; empty if it is not."""
        host = headers.get("host", "")
        if not host_allowed(host, self._host):
            return "this server is not known by that name"
        if scope["method"] in _SAFE:
            return ""
        origin = headers.get("origin")
        try:
            foreign = origin is not None and urlsplit(origin).netloc != host
        except ValueError:
            foreign = True
        if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "this request comes from another site"
        return ""
