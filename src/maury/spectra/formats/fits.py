"""Open a FITS file so that whatever is wrong with it becomes a `SpectrumError` that names the file."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from astropy.io import fits

from maury.errors import MauryError, MauryWarning, SpectrumError
from maury.spectra.formats.headers import BLOCK as _BLOCK
from maury.spectra.formats.headers import check_headers
from maury.text import readable

_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
# A compressed file is unpacked in memory: no spectrum needs more, and a hostile file must not take all.
_UNPACKED_LIMIT = 2**27
_OTHER_KINDS = {
    b"\x89HDF": "an HDF5 file",
    b"PK\x03\x04": "a zip archive (NumPy's .npz is one)",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet table",
    b"<": "an HTML or XML page (a failed download?)",
}


@contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[fits.HDUList]:
    """Open a FITS file, plain or compressed by gzip or bzip2, and check that all of it is there.

    Exceptions other than `MauryError` that the body raises are taken for the file's fault and converted too.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    astropy.io.fits.HDUList
        All headers read; arrays are read when asked for.

    Raises
    ------
    SpectrumError
        If the file is missing, empty, damaged, truncated or no FITS file.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # astropy warns of damage that is reported below in one line.
            warnings.simplefilter("ignore")
            # What is done with a spectrum while its file is open may have something to say.
            warnings.simplefilter("always", MauryWarning)
            source, size = _locate(path)
            with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
                check_headers(stream, size, path)
            if isinstance(source, io.BytesIO):
                source.seek(0)
            with fits.open(source, memmap=False, disable_image_compression=True) as hdus:
                _check_known(hdus, path)
                yield hdus
    except MauryError as error:
        if readable(str(path)) in str(error):
            raise
        raise SpectrumError(f"{path}: {error}") from None
    except MemoryError:
        # Not the file's fault alone: whoever set a limit tells of it.
        raise
    except PermissionError as error:
        raise SpectrumError(f"{path}: no permission to read this file") from error
    except Exception as error:
        # astropy meets damaged files with nearly any exception.
        raise SpectrumError(f"{path}: damaged or truncated FITS file ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _locate(path: Path) -> tuple[Path | io.BytesIO, int]:
    """Return what astropy shall open, and its size in bytes."""
    if path.is_dir():
        raise SpectrumError(
            f"{path}: a directory, not a spectrum: name the files in it, or give it to maury survey"
        )
    if not path.exists():
        raise SpectrumError(f"{path}: no such file")
    if not path.is_file():
        raise SpectrumError(f"{path}: not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise SpectrumError(f"{path}: the file is empty")
    with path.open("rb") as stream:
        head = stream.read(_BLOCK)
    for magic, opener in _COMPRESSED.items():
        if head.startswith(magic):
            content = _unpack(path, opener)
            _check_fits(content[:_BLOCK], path)
            return io.BytesIO(content), len(content)
    _check_fits(head, path)
    return path, size


def _unpack(path: Path, opener: Callable[..., Any]) -> bytes:
    try:
        with opener(path, "rb") as stream:
            content: bytes = stream.read(_UNPACKED_LIMIT + 1)
    except PermissionError:
        raise
    except Exception as error:
        raise SpectrumError(
            f"{path}: the compressed file is damaged or truncated ({reason(error)})"
        ) from error
    if len(content) > _UNPACKED_LIMIT:
        raise SpectrumError(
            f"{path}: unpacks to more than {_UNPACKED_LIMIT >> 20} MiB; no spectrum is so large"
        )
    return content


def _check_fits(head: bytes, path: Path) -> None:
    if head.startswith(b"SIMPLE  ="):
        return
    kind = next((name for magic, name in _OTHER_KINDS.items() if head.lstrip().startswith(magic)), None)
    if kind is None:
        text = all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
        kind = "text" if text else "binary data of an unknown kind"
    raise SpectrumError(
        f"{path}: not a FITS file; it looks like {kind}. Spectra are read from FITS, ECSV, Parquet and VOTable"
    )


def _check_known(hdus: fits.HDUList, path: Path) -> None:
    """See that astropy made something of every header: where it cannot, it stops, or takes an HDU for a block of bytes."""
    for number in range(1, len(hdus)):
        if not isinstance(hdus[number], fits.hdu.base.ExtensionHDU):
            raise SpectrumError(f"{path} HDU {number}: its header is damaged or truncated")
