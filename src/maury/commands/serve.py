"""``maury serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from maury.commands.console import err, out
from maury.constants import DEFAULT_MODEL
from maury.errors import MauryError

_MB, _MINUTE = 2**20, 60.0


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default can be reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", min=0, max=65535)] = 8765,
    model: Annotated[
        str, typer.Option(help="Name of a shipped model, or a folder: loaded at the start.")
    ] = DEFAULT_MODEL,
    max_upload: Annotated[float, typer.Option(metavar="MB", help="Largest file that is accepted.")] = 64.0,
    keep: Annotated[
        float,
        typer.Option(metavar="MINUTES", help="Files and results are deleted this long after their last use."),
    ] = 60.0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Open a page in the browser: drop a spectrum, change priors, mask wavelengths, compare runs.

    Example: maury serve --port 8000 --no-browser
    """
    try:
        from maury.serve.server import serve as run
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise MauryError("maury serve needs Starlette and uvicorn: pip install 'maury[serve]'") from None
    from maury.serve.guard import is_loopback
    from maury.serve.settings import ServerSettings

    settings = ServerSettings(
        host=host, port=port, model=model, max_upload=round(max_upload * _MB), keep=keep * _MINUTE
    )
    if not is_loopback(host):
        err.print(
            f"warning: listening on {host}: whoever reaches this machine can use the page; it has no passwords",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip

    def started(address: str) -> None:
        out.print(f"maury serve: {address}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        if browser:
            import threading
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    run(settings, started)
