"""Connections that do not come to the point: uvicorn waits for them for ever."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from maury.serve.settings import ServerSettings


class Patient(H11Protocol):
    """HTTP/1.1 with an end to patience.

    A connection has some seconds for the head of each request, and some for a request that is no upload (those have limits of their
    own) with its answer. Where too many connections are held, the one that has kept the server waiting longest is closed for a new one.

    Parameters
    ----------
    settings
        `ServerSettings.head_patience`, `ServerSettings.patience` and `ServerSettings.most_connections`.
    """

    def __init__(self, *arguments: Any, settings: ServerSettings, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: object = None
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _uploads(self) -> bool:
        return self.busy and self.scope["method"] == "POST" and self.scope["path"] == "/api/files"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.most_connections:
            others = [
                c for c in self.connections if isinstance(c, Patient) and c is not self and not c._uploads
            ]
            longest = min(others, key=lambda other: (other.busy, other._since), default=self)
            longest.transport.abort()
            self.connections.discard(longest)
        self._arm()

    def _arm(self) -> None:
        """Set the clock, if what is waited for has changed."""
        waited_for = self.cycle if self.busy else "head", self.cycle
        if waited_for == self._armed_for:
            return
        self._armed_for = waited_for
        self._since = self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._uploads:
            seconds = self._settings.patience if self.busy else self._settings.head_patience
            self._timer = self.loop.call_later(seconds, self.transport.abort)

    def handle_events(self) -> None:
        """Take what has come."""
        super().handle_events()
        self._arm()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered."""
        body = json.dumps({"error": "this is no HTTP request", "fields": {}}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        # After a part of an answer there is nothing to say.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not (
            self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        ):
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
