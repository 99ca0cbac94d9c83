"""What an observed spectrum is, whatever file it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.display import card
from maury.errors import SpectrumError
from maury.text import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maury.spectra.linespread import LineSpread

_LONGEST_NAME = 200
# Between these, networks in single precision and squares in double still have all their digits; and more than any spectrograph's
# signal-to-noise ratio.
_MOST_FLUX, _IVAR, _MOST_SNR = 1e40, (1e-80, 1e60), 1e7
# Below which v_correction must be, km/s: no observatory moves faster, in space either; of spectra at rest it is the star's own velocity.
_MOST_KMS = {"observatory": 100.0, "barycentric": 100.0, "rest": 3000.0}


@dataclass(frozen=True, repr=False)
class PixelGrid:
    """Where a detector's pixels lie.

    Parameters
    ----------
    wavelength
        Pixel centres, vacuum, Angstrom, shape ``(n_pixels,)``; strictly rising.
    chips
        ``(start, stop)`` pixel ranges, 0-based and half-open, one for each chip.
        Each has a continuum of its own.

    Raises
    ------
    SpectrumError
        If the wavelengths are not finite, positive and strictly rising, or a chip leaves the array.
    """

    wavelength: NDArray[np.float64]
    chips: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        wavelength = np.asarray(self.wavelength, dtype=np.float64)
        object.__setattr__(self, "wavelength", wavelength)
        if wavelength.ndim != 1 or wavelength.size < 2:
            raise SpectrumError(f"wavelength must be a vector of pixels, not of shape {wavelength.shape}")
        if not np.all(np.isfinite(wavelength)) or wavelength[0] <= 0:
            raise SpectrumError("wavelength holds values that are not finite and positive (Angstrom, vacuum)")
        if not np.all(np.diff(wavelength) > 0):
            raise SpectrumError("wavelength must rise strictly: sort the pixels and drop duplicates")
        for start, stop in self.chips:
            if not 0 <= start < stop <= wavelength.size:
                raise SpectrumError(f"chip {start}:{stop} leaves the {wavelength.size} pixels")

    def __repr__(self) -> str:
        first, last = self.wavelength[0], self.wavelength[-1]
        return f"<PixelGrid of {self.n_pixels} pixels on {len(self.chips)} chips, {first:.1f} to {last:.1f} Angstrom>"

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return self.wavelength.size


@dataclass(frozen=True, repr=False)
class Spectrum:
    """One observed spectrum.

    Parameters
    ----------
    grid
        The pixels.
    flux
        Flux in any linear unit, shape ``(n_pixels,)``; finite wherever ``ivar > 0``.
    ivar
        Inverse variance of the flux, shape ``(n_pixels,)``; 0 where a pixel must not be used.
    id
        The object's name, without what cannot be shown (`maury.text.readable`).
    frame
        ``"observatory"``, ``"barycentric"`` or ``"rest"``: in which frame the wavelengths are.
    v_correction
        What takes ``v_rad`` measured in ``frame`` to the solar-system barycentre, km/s; None where unknown. Of an observatory
        it stays below 100 km/s (the earth moves with 31), of a spectrum that was moved to rest below 3000.
    bitmask
        The file's own pixel mask, shape ``(n_pixels,)``, kept for pictures and for other rules;
        None where absent.
    lsf
        Line-spread function (`maury.spectra.linespread`); None where the file does not tell it.
    path, index
        The file it came from and its place in it.
    meta
        Whatever else the header said that a user may want to see again.
    """

    grid: PixelGrid
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    id: str = ""
    frame: str = "observatory"
    v_correction: float | None = None
    bitmask: NDArray[np.int64] | None = None
    lsf: LineSpread | None = None
    path: str = ""
    index: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.grid, PixelGrid):
            raise SpectrumError(
                f"grid must be a PixelGrid, such as PixelGrid(wavelength, ((0, len(wavelength)),)), not {type(self.grid).__name__}"
            )
        flux = np.asarray(self.flux, dtype=np.float64)
        ivar = np.asarray(self.ivar, dtype=np.float64)
        for name, array in (("flux", flux), ("ivar", ivar)):
            if array.shape != (self.grid.n_pixels,):
                raise SpectrumError(
                    f"{name} has shape {array.shape} but there are {self.grid.n_pixels} wavelengths"
                )
        if not np.all(np.isfinite(ivar)) or np.any(ivar < 0):
            raise SpectrumError("ivar must be finite and >= 0: set it to 0 where a pixel is bad")
        if not np.all(np.isfinite(flux[ivar > 0])):
            raise SpectrumError("flux is not finite where ivar > 0: set ivar to 0 there")
        self._check_scale(flux, ivar)
        self._check_correction()
        object.__setattr__(self, "id", readable(self.id)[:_LONGEST_NAME])
        object.__setattr__(self, "flux", np.where(np.isfinite(flux), flux, 0.0))
        object.__setattr__(self, "ivar", ivar)

    def _check_scale(self, flux: NDArray[np.float64], ivar: NDArray[np.float64]) -> None:
        good = ivar > 0
        if not good.any():
            return
        level, typical, most = (
            float(np.abs(flux[good]).max()),
            float(np.median(ivar[good])),
            float(ivar[good].max()),
        )
        if level > _MOST_FLUX or not _IVAR[0] < typical <= most < _IVAR[1]:
            raise SpectrumError(
                f"flux up to {level:.3g} with ivar {typical:.3g}, {most:.3g} at most, leaves what can be computed with: "
                "give it in another unit"
            )
        with np.errstate(over="ignore", under="ignore"):
            snr = float((np.abs(flux[good]) * np.sqrt(ivar[good])).max())
        if snr > _MOST_SNR:
            raise SpectrumError(
                f"a signal-to-noise ratio of {snr:.3g} a pixel: flux and errors are not in the same unit"
            )

    def _check_correction(self) -> None:
        if self.v_correction is None:
            return
        limit = _MOST_KMS.get(self.frame, _MOST_KMS["observatory"])
        if not abs(self.v_correction) < limit:
            metres = ": is it in m/s? It must be in km/s" if 1 < abs(self.v_correction) / limit < 1000 else ""
            raise SpectrumError(
                f"v_correction {self.v_correction:g} km/s: below {limit:g} is possible in the {self.frame} frame, "
                f"None where unknown{metres}"
            )

    def __repr__(self) -> str:
        return f"<Spectrum {self._title}: {', '.join(f'{name} {text}' for name, text in self._facts())}>"

    def _repr_html_(self) -> str:
        return card(f"Spectrum {self._title}", self._facts())

    @property
    def _title(self) -> str:
        return self.id or (f"{Path(self.path).name} [{self.index}]" if self.path else "in memory")

    def _facts(self) -> list[tuple[str, str]]:
        grid = self.grid
        moves = "unknown" if self.v_correction is None else f"{self.v_correction:+.3f} km/s"
        return [
            ("pixels", f"{grid.n_pixels} on {len(grid.chips)} chips, {np.mean(self.good):.0%} usable"),
            ("wavelengths", f"{grid.wavelength[0]:.1f} to {grid.wavelength[-1]:.1f} Angstrom"),
            ("S/N", f"{self.snr:.0f}"),
            ("frame", self.frame),
            ("correction to the barycentre", moves),
        ]

    def plot(self) -> Figure:
        """Draw flux (black) and pixels that are not used (grey), chip by chip.

        Examples
        --------
        >>> spectrum.plot().savefig("spectrum.png")  # doctest: +SKIP
        """
        from maury.spectra.picture import picture

        return picture(self)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Usable pixels, shape ``(n_pixels,)``."""
        return self.ivar > 0

    @property
    def lsf_is_assumed(self) -> bool:
        """Whether its file does not tell the line-spread function, so that an instrument's usual one stands in."""
        return self.meta.get("lsf_source") == "assumed"

    @property
    def snr(self) -> float:
        """Median signal-to-noise ratio of the usable pixels (0 if there are none)."""
        good = self.good
        return float(np.median(self.flux[good] * np.sqrt(self.ivar[good]))) if good.any() else 0.0

    def masked(self, reject: NDArray[np.bool_]) -> Spectrum:
        """Return a copy with the pixels in ``reject``, shape ``(n_pixels,)``, taken out of use."""
        return replace(self, ivar=np.where(reject, 0.0, self.ivar))

    def without(self, regions: Iterable[tuple[float, float]]) -> Spectrum:
        """Return a copy in which no pixel of some wavelength regions is used.

        Parameters
        ----------
        regions
            ``(from, to)`` in Angstrom, vacuum, in the spectrum's frame; both ends belong to it. They may overlap.

        Raises
        ------
        SpectrumError
            If a region is no pair of finite numbers in rising order, or holds no pixel of the spectrum.

        Examples
        --------
        >>> from maury.spectra import apstar_grid
        >>> grid = apstar_grid()
        >>> spectrum = Spectrum(grid, np.ones(grid.n_pixels), np.ones(grid.n_pixels))
        >>> int(spectrum.without([(15300.0, 15310.0)]).good.sum())
        8528
        """
        wavelength = self.grid.wavelength
        reject = np.zeros(wavelength.size, dtype=bool)
        for region in regions:
            try:
                low, high = (float(edge) for edge in region)
            except (TypeError, ValueError):
                raise SpectrumError(f"region {region!r}: needs two wavelengths, (from, to)") from None
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise SpectrumError(f"region {low:g} to {high:g}: needs finite wavelengths in rising order")
            inside = (wavelength >= low) & (wavelength <= high)
            if not inside.any():
                raise SpectrumError(
                    f"region {low:g} to {high:g} Angstrom: holds no pixel; "
                    f"the spectrum covers {wavelength[0]:.1f} to {wavelength[-1]:.1f}"
                )
            reject |= inside
        return self.masked(reject)
