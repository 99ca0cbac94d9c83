"""IGRINS' spectra as its pipeline (PLP) writes them: by the orders, divided by the A0 standard (``SDCH_*.spec_a0v.fits``, ``SDCK_*``).

A file holds images of orders by pixels: ``SPEC_DIVIDE_A0V`` (the star over its A0 standard, times Vega), ``WAVELENGTH`` (vacuum, micron),
``TGT_SPEC``, ``A0V_SPEC``, ``VEGA_SPEC`` and ``MASK``; since version 3 ``SPEC_DIVIDE_A0V_VARIANCE`` too. Before, errors lie beside it in
``*.variance.fits`` or ``*.sn.fits``. A star's ``*.spec.fits`` alone is not divided yet: the divided file of the same name is read in its
place.

The pipeline: https://github.com/igrins/plp
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.cards import SNR_LIMIT, text
from maury.spectra.formats.fits import open_fits, reason
from maury.spectra.linespread import Gaussian
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["is_igrins", "read_igrins"]

Array = NDArray[np.float64]
RESOLUTION = 45_000.0
_PIXELS, _MAX_ORDERS = 2048, 60
# The A0 standard's flux, of the 95th percentile of its order, below which nothing is left of the star: the pipeline's own rule.
_OPAQUE = 0.1
# Resolving power with which the pipeline turns S/N a pixel into S/N a resolution element.
_SN_POWER = 40_000.0
_DIVIDED = "SPEC_DIVIDE_A0V"


def is_igrins(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file holds spectra by the orders, as IGRINS' pipeline writes them."""
    shapes = [hdu.shape for hdu in hdus if getattr(hdu, "is_image", False) and len(hdu.shape) == 2]
    orders = (
        len(shapes) > 1 and shapes[0] == shapes[1] and shapes[0][1] == _PIXELS and shapes[0][0] < _MAX_ORDERS
    )
    return orders and "IGRINS" in str(hdus[0].header.get("INSTRUME", "IGRINS")).upper()


def read_igrins(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    """Yield the one spectrum of a file: orders cut where neighbours meet, each a chip with a continuum of its own.

    Parameters
    ----------
    hdus, path
        The open file and its path.
    reject
        Not used: the pipeline's mask is of yes and no.

    Raises
    ------
    SpectrumError
        If the star is not divided by its A0 standard, or its errors are nowhere.
    """
    if _number_of(hdus, _DIVIDED) is not None:
        yield _divided(hdus, path)
        return
    sibling = _beside(path, ".spec_a0v.fits")
    if sibling is None or sibling == path:
        raise SpectrumError(
            f"{path}: is not divided by an A0 standard, and the earth's atmosphere is in it: put the pipeline's "
            f"{_stem(path)}.spec_a0v.fits beside it, or give that"
        )
    with open_fits(sibling) as others:
        if not is_igrins(others) or _number_of(others, _DIVIDED) is None:
            raise SpectrumError(f"{sibling}: holds no spectrum divided by an A0 standard ({_DIVIDED})")
        yield _divided(others, sibling)


def _divided(hdus: fits.HDUList, path: Path) -> Spectrum:
    flux = _image(hdus, _DIVIDED, path)
    # In files of before version 2 extensions have no names; wavelengths stand second.
    wavelength = 1e4 * _image(
        hdus, "WAVELENGTH" if _number_of(hdus, "WAVELENGTH") is not None else 1, path, flux.shape
    )
    variance = _variance(hdus, flux, wavelength, path)
    with np.errstate(all="ignore"):
        good = np.isfinite(flux) & np.isfinite(variance) & (variance > 0) & _clear(hdus, path, flux.shape)
        good &= np.abs(flux) < SNR_LIMIT * np.sqrt(variance)
        ivar = np.where(good, 1 / variance, 0.0)
    pieces = list(_pieces(wavelength, path))
    at = np.cumsum([0, *(stop - start for _, start, stop in pieces)]).tolist()

    def joined(image: Array) -> Array:
        return np.concatenate([image[order, start:stop] for order, start, stop in pieces])

    header = hdus[0].header
    band = next((band for band in "HK" if f"SDC{band}" in path.name.upper()), "")
    meta = {"telescope": text(header, "TELESCOP") or None, "band": band or None, "a0v": _standard(hdus)}
    return Spectrum(
        PixelGrid(joined(wavelength), tuple(pairwise(at))),
        joined(flux),
        joined(ivar),
        id=text(header, "OBJECT") or _stem(path),
        frame="observatory",
        lsf=Gaussian(RESOLUTION),
        path=str(path),
        meta={key: value for key, value in meta.items() if value is not None},
    )


def _pieces(wavelength: Array, path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield orders by wavelength, with the pixels that remain of each when neighbours are cut in the middle of what they share."""
    if (
        not np.isfinite(wavelength).all()
        or not (np.diff(wavelength, axis=1) > 0).all()
        or wavelength.min() <= 0
    ):
        raise SpectrumError(f"{path}: the wavelengths of an order do not rise from pixel to pixel")
    rising = np.argsort(wavelength[:, 0], kind="stable").tolist()
    lows, highs = wavelength[rising, 0], wavelength[rising, -1]
    # Where orders do not meet, the middle lies in the gap and cuts nothing.
    middles = 0.5 * (highs[:-1] + lows[1:])
    for order, low, high in zip(rising, [0.0, *middles], [*middles, np.inf], strict=True):
        start, stop = np.searchsorted(wavelength[order], [low, high]).tolist()
        if stop - start > 1:
            yield order, start, stop


def _variance(hdus: fits.HDUList, flux: Array, wavelength: Array, path: Path) -> Array:
    """Variance of the star over its standard: the file's own, or that of the star from the file beside it."""
    if _number_of(hdus, f"{_DIVIDED}_VARIANCE") is not None:
        return _image(hdus, f"{_DIVIDED}_VARIANCE", path, flux.shape)
    if (beside := _beside(path, ".variance.fits")) is not None:
        target = _image(hdus, "TGT_SPEC", path, flux.shape)
        with open_fits(beside) as others, np.errstate(all="ignore"):
            return np.square(flux / target) * _image(others, 0, beside, flux.shape)
    if (beside := _beside(path, ".sn.fits")) is not None:
        with open_fits(beside) as others, np.errstate(all="ignore"):
            of_element = _image(others, 0, beside, flux.shape)
            pixels = wavelength / _SN_POWER / np.gradient(wavelength, axis=1)
            return np.square(flux / of_element) * pixels
    raise SpectrumError(
        f"{path}: tells no errors, and neither {_stem(path)}.variance.fits nor {_stem(path)}.sn.fits lies beside it; "
        "put one of them there"
    )


def _clear(hdus: fits.HDUList, path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels in which the atmosphere has left enough of the standard's light."""
    clear = np.ones(shape, dtype=bool)
    if _number_of(hdus, "MASK") is not None:
        clear &= _image(hdus, "MASK", path, shape) == 0
    if _number_of(hdus, "A0V_SPEC") is not None:
        standard = _image(hdus, "A0V_SPEC", path, shape)
        known = np.where(np.isfinite(standard), standard, 0.0)
        clear &= known > _OPAQUE * np.percentile(known, 95, axis=1, keepdims=True)
    return clear


def _number_of(hdus: fits.HDUList, name: str) -> int | None:
    return next((number for number, hdu in enumerate(hdus) if str(hdu.name).upper() == name), None)


def _standard(hdus: fits.HDUList) -> str | None:
    """Name, or number, of the exposure of the A0 standard."""
    number = _number_of(hdus, "A0V_SPEC")
    return None if number is None else text(hdus[number].header, "OBSID") or None


def _image(hdus: fits.HDUList, which: str | int, path: Path, shape: tuple[int, ...] | None = None) -> Array:
    number = which if isinstance(which, int) else _number_of(hdus, which)
    if number is None or number >= len(hdus):
        raise SpectrumError(f"{path}: has no image {which}")
    where = f"{path} HDU {number}"
    try:
        values = np.asarray(hdus[number].data, dtype=np.float64)
    except Exception as error:
        raise SpectrumError(f"{where}: cannot be read ({reason(error)})") from error
    expected = "orders by pixels" if shape is None else f"{shape}"
    if values.ndim != 2 or (shape is not None and values.shape != shape):
        raise SpectrumError(f"{where}: has the shape {values.shape}, not {expected}")
    return values


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _beside(path: Path, ending: str) -> Path | None:
    found = path.with_name(_stem(path) + ending)
    return found if found.is_file() else None
