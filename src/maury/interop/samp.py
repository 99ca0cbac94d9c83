"""Send posteriors to other programs on this desktop by SAMP: TOPCAT, Aladin, and whatever else listens to a hub."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maury.errors import MauryError
from maury.files import first_line
from maury.interop.votable import votable, write_votable
from maury.names import meant

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

_LOAD = "table.load.votable"


class SampError(MauryError):
    """Nobody took what was sent."""


def send(
    posterior: Posterior,
    client: str | None = "topcat",
    *,
    content: str = "draws",
    hub: Any = None,
    timeout: int = 30,
    **options: Any,
) -> list[str]:
    """Send a posterior as a VOTable, and wait until it is loaded.

    Parameters
    ----------
    posterior
        The posterior.
    client
        Name of the program, or the start of it, upper or lower case; None for all that take tables.
    content, options
        ``"draws"`` or ``"summary"``, which has the star's place on the sky, for Aladin; see `maury.interop.votable.votable`.
    hub
        A ``SAMPHubServer`` of pyvo's or astropy's; by default the one that runs on this desktop.
    timeout
        Seconds that a program may take.

    Returns
    -------
    list of str
        Names of those that took it.

    Raises
    ------
    SampError
        If no hub runs, no such program listens, or it refuses; the message says what to do.
    """
    table = votable(posterior, content, **options)
    with _connected(hub) as connection:
        listening = _listening(connection)
        start = (client or "").lower()
        wanted = {key: name for key, name in listening.items() if name.lower().startswith(start)}
        if not wanted:
            hint = meant(client, listening.values(), "listening are") if client and listening else "start one"
            raise SampError(f"no program {client or 'that takes tables'} listens to the SAMP hub; {hint}")
        name = posterior.spectrum.id or "spectrum"
        path = _folder() / (re.sub(r"[^\w.+-]", "_", f"{name}-{content}") + ".vot")
        write_votable(path, table)
        message = {
            "url": path.as_uri(),
            "table-id": f"maury-{name}-{content}",
            "name": f"{name} {content} (maury)",
        }
        for key, program in wanted.items():
            _call(connection, key, program, message, timeout)
    return list(wanted.values())


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Folder for what is sent, until this process ends: some programs say that they are done before they have read it."""
    folder = Path(tempfile.mkdtemp(prefix="maury-samp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def samp_package() -> Any:
    """Return pyvo's SAMP, or astropy's, from which it was taken and which will go.

    Raises
    ------
    SampError
        If neither is there.
    """
    try:
        return import_module("pyvo.samp")
    except ImportError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("astropy.samp")
    except ImportError:
        raise SampError("SAMP needs the package pyvo: pip install 'maury[interop]'") from None


@contextmanager
def _connected(hub: Any) -> Iterator[Any]:
    samp = samp_package()
    about = {"samp.name": "maury", "samp.description.text": "posteriors of stellar spectra"}
    connection = samp.SAMPIntegratedClient(metadata=about)
    try:
        connection.connect(hub)
    except (samp.SAMPHubError, OSError) as error:
        reason = first_line(error).rstrip(".")
        raise SampError(
            f"no SAMP hub runs ({reason}): start TOPCAT or Aladin, whose hub starts with it"
        ) from None
    try:
        yield connection
    finally:
        connection.disconnect()


def _listening(connection: Any) -> dict[str, str]:
    """Return the programs that take tables, key to name."""
    own = connection.get_public_id()
    keys = [key for key in connection.get_subscribed_clients(_LOAD) if key != own]
    return {key: str(connection.get_metadata(key).get("samp.name", key)) for key in keys}


def _call(connection: Any, key: str, program: str, message: dict[str, str], timeout: int) -> None:
    call = {"samp.mtype": _LOAD, "samp.params": message}
    try:
        answer = connection.call_and_wait(key, call, str(timeout))
    except samp_package().SAMPProxyError as error:
        raise SampError(f"{program}: did not answer within {timeout} s ({first_line(error)})") from None
    if answer["samp.status"] != "samp.ok":
        reason = answer.get("samp.error", {}).get("samp.errortxt", answer["samp.status"])
        raise SampError(f"{program}: did not load the table ({reason})")
