"""Write apStar, aspcapStar, mwmVisit and mwmStar files: for tests, and for seeing simulated stars in other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.files import writing
from maury.spectra.formats.bits import bits
from maury.spectra.formats.fits import reason
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Tabulated
from maury.spectra.spectrum import Spectrum

_BAD_ERROR = 1e10
_GRID = apogee().layout
_CARDS = {
    "CRVAL1": _GRID.log10_start,
    "CDELT1": _GRID.log10_step,
    "CRPIX1": 1,
    "CTYPE1": "LOG-LINEAR",
    "DC-FLAG": 1,
}


def write_apstar(
    path: str | os.PathLike[str],
    visits: Sequence[Spectrum],
    *,
    release: Literal["dr16", "dr17", "dr19"] = "dr17",
) -> None:
    """Write visits on the common grid, each at rest by its ``v_correction``, and their combination.

    Parameters
    ----------
    path
        Where to; one visit is written as the survey does, as a single row.
    visits
        Spectra on `apstar_grid`; ``v_correction`` is the barycentric velocity that was taken out.
    release
        ``"dr16"``: single precision, masks combined by OR, line-spread functions; ``"dr17"``: double precision, masks combined by AND,
        errors of 1e10, no line-spread function; ``"dr19"``: as DR17, with barycentric VRADn, no VHELIOn, and bad pixels that look normal.

    Raises
    ------
    SpectrumError
        If a spectrum lies on another grid, or the file cannot be written.
    """
    _check(path, visits)
    flux, error, mask = _arrays(visits, smooth_bad=release == "dr19")
    if len(visits) > 1:
        weight = np.where(mask == 0, error**-2.0, 0) + 1e-30
        mean, sigma = (flux * weight).sum(0) / weight.sum(0), weight.sum(0) ** -0.5
        together = np.bitwise_or if release == "dr16" else np.bitwise_and
        combined = together.reduce(mask)
        sigma = np.where(combined != 0, error.max(0), sigma)
        second = combined if release == "dr16" else np.zeros_like(combined)
        flux, error = np.vstack([mean, mean, flux]), np.vstack([sigma, sigma, error])
        mask = np.vstack([combined, second, mask])
    kinds = ("f4", "i2") if release == "dr16" else ("f8", "i8")
    primary = fits.PrimaryHDU()
    primary.header.update(_keywords(visits, release))
    images = [
        *(
            fits.ImageHDU(values.astype(kind))
            for values, kind in ((flux, kinds[0]), (error, kinds[0]), (mask, kinds[1]))
        ),
        *(fits.ImageHDU(np.zeros(flux.shape, "f4")) for _ in range(4)),
    ]
    for image in images:
        image.header.update(_CARDS)
    lsf = visits[0].lsf
    kernels = fits.ImageHDU(
        lsf.kernels.T.astype("f4") if isinstance(lsf, Tabulated) and release == "dr16" else None
    )
    table = fits.BinTableHDU.from_columns([fits.Column("TEFF", "E", array=[4500.0])])
    _write(path, fits.HDUList([primary, *images, kernels, table]))


def write_aspcapstar(path: str | os.PathLike[str], spectrum: Spectrum) -> None:
    """Write one continuum-normalised spectrum as the pipeline does: gaps 0, errors 1e10 where bad, no mask, labels in a table.

    Raises
    ------
    SpectrumError
        If the spectrum lies on another grid, or the file cannot be written.
    """
    _check(path, [spectrum])
    on_chip = np.zeros(_GRID.number, dtype=bool)
    for start, stop in spectrum.grid.chips:
        on_chip[start:stop] = True
    with np.errstate(divide="ignore"):
        error = np.where(spectrum.good, np.maximum(spectrum.ivar**-0.5, 0.005), _BAD_ERROR)
    contents = (np.where(on_chip, spectrum.flux, 0), np.where(on_chip, error, 0), np.where(on_chip, 1, 0))
    images = [fits.ImageHDU(values.astype("f4")) for values in contents]
    for image in images:
        image.header.update(_CARDS)
    columns = [fits.Column("APOGEE_ID", "30A", array=[spectrum.id])]
    if spectrum.v_correction is not None:
        columns.append(fits.Column("VHELIO_AVG", "D", unit="km/s", array=[spectrum.v_correction]))
    _write(path, fits.HDUList([fits.PrimaryHDU(), *images, fits.BinTableHDU.from_columns(columns)]))


def write_mwm(
    path: str | os.PathLike[str],
    *,
    apo: Sequence[Spectrum] = (),
    lco: Sequence[Spectrum] = (),
    kind: Literal["visit", "star"] = "visit",
    wrong_datasum: bool = False,
) -> None:
    """Write a mwmVisit or mwmStar: HDUs 3 and 4 hold the spectra of the two observatories, HDUs 1 and 2 (BOSS) are empty.

    Parameters
    ----------
    apo, lco
        Spectra on `apstar_grid`; ``v_correction`` is the barycentric velocity that was taken out.
    kind
        Whether to write each visit or, with wavelengths beside, a star's combination.
    wrong_datasum
        Give empty tables a checksum that says otherwise, as some files of DR19 have.

    Raises
    ------
    SpectrumError
        If a spectrum lies on another grid, or the file cannot be written.
    """
    _check(path, [*apo, *lco])
    primary = fits.PrimaryHDU()
    everything = [*apo, *lco]
    primary.header.update(
        {"SDSS_ID": 27, "V_ASTRA": "0.6.0", "APOGEEID": everything[0].id if everything else ""}
    )
    hdus: list[Any] = [primary]
    for name, spectra in (("BOSS/APO", ()), ("BOSS/LCO", ()), ("APOGEE/APO", apo), ("APOGEE/LCO", lco)):
        table = _mwm_table(spectra, kind)
        table.name = name
        card = {
            "CRVAL": _GRID.log10_start,
            "CDELT": _GRID.log10_step,
            "CRPIX": 1,
            "CTYPE": "LOG-LINEAR",
            "DC-FLAG": 1,
        }
        table.header.update(
            card | {"NPIXELS": _GRID.number, "CUNIT": "Angstrom (Vacuum)", "OBSRVTRY": name[-3:]}
        )
        table.add_datasum()
        if wrong_datasum and not spectra:
            table.header["DATASUM"] = "2503531142"
        hdus.append(table)
    _write(path, fits.HDUList(hdus))


def _mwm_table(spectra: Sequence[Spectrum], kind: str) -> fits.BinTableHDU:
    flux, error, mask = _arrays(spectra, smooth_bad=True)
    n, vector = len(spectra), f"{_GRID.number}E"
    velocities = np.array([s.v_correction if s.v_correction is not None else np.nan for s in spectra])
    columns = [
        fits.Column("flux", vector, array=flux),
        fits.Column("ivar", vector, array=error**-2.0),
        fits.Column("pixel_flags", vector, array=mask.astype("f4")),
        fits.Column("snr", "E", array=[s.snr for s in spectra]),
        fits.Column("v_rad", "E", array=velocities),
    ]
    if kind == "star":
        wavelength = 10 ** (_GRID.log10_start + _GRID.log10_step * np.arange(_GRID.number))
        columns.insert(0, fits.Column("wavelength", vector, array=np.tile(wavelength, (n, 1))))
    else:
        columns.append(fits.Column("mjd", "J", array=np.arange(59_000, 59_000 + n)))
    return fits.BinTableHDU.from_columns(columns, nrows=n)


def _check(path: str | os.PathLike[str], spectra: Sequence[Spectrum]) -> None:
    expected = _GRID.log10_start + _GRID.log10_step * np.arange(_GRID.number)
    for spectrum in spectra:
        w = spectrum.grid.wavelength
        if w.shape != expected.shape or np.abs(np.log10(w) - expected).max() > 1e-9:
            raise SpectrumError(
                f"{path}: a spectrum lies on another grid than apStar's: see maury.spectra.apstar_grid"
            )


def _arrays(
    spectra: Sequence[Spectrum], smooth_bad: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Flux, error and mask, each ``(n_spectra, n_pixels)``; bad pixels look normal where ``smooth_bad``."""
    shape = (len(spectra), _GRID.number)
    flux, error, mask = np.zeros(shape), np.ones(shape), np.zeros(shape, np.int64)
    for i, spectrum in enumerate(spectra):
        good = spectrum.good
        level = np.median(spectrum.flux[good]) if good.any() else 1.0
        typical = np.median(spectrum.ivar[good]) ** -0.5 if good.any() else 1.0
        with np.errstate(divide="ignore"):
            error[i] = np.where(good, spectrum.ivar**-0.5, typical if smooth_bad else _BAD_ERROR)
        flux[i] = np.where(good, spectrum.flux, level) if smooth_bad else spectrum.flux
        mask[i] = (0 if spectrum.bitmask is None else spectrum.bitmask) | np.where(good, 0, bits("BADPIX"))
    return flux, error, mask


def _keywords(visits: Sequence[Spectrum], release: str) -> dict[str, Any]:
    velocities = [visit.v_correction for visit in visits]
    known = [v for v in velocities if v is not None]
    cards: dict[str, Any] = _CARDS | {
        "OBJID": visits[0].id,
        "NVISITS": len(visits),
        "SNR": round(visits[0].snr, 3),
        "SURVEY": "SDSS-V" if release == "dr19" else "apogee2",
    }
    for key in ("VRAD",) if release == "dr19" else ("VHELIO",):
        cards[key] = float(np.mean(known)) if known else -9999.99
    for i, velocity in enumerate(velocities, start=1):
        correction = 10.0 * (-1) ** i
        value = -9999.99 if velocity is None else velocity
        cards[f"BC{i}"] = correction
        if release == "dr19":
            cards[f"VRAD{i}"] = value
        else:
            cards |= {f"VHELIO{i}": value, f"VRAD{i}": value if velocity is None else velocity - correction}
    return cards


def _write(path: str | os.PathLike[str], hdus: fits.HDUList) -> None:
    try:
        with writing(path) as temporary:
            hdus.writeto(temporary, overwrite=True, output_verify="exception")
    except (OSError, ValueError, fits.VerifyError) as error:
        raise SpectrumError(f"{path}: cannot be written ({reason(error)})") from error
