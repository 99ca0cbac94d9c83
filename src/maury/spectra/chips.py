"""Where the pixels of a spectrograph's chips lie, as its TOML file says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

_MAX_PIXELS = 200_000
_SAMPLINGS = ("log10", "linear", "polynomial", "wavelength")


class Frozen(BaseModel):
    """A table of the file: no other keys, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Log10(Frozen):
    """Uniform in log10(wavelength), ``start`` that of the first pixel."""

    start: float = Field(allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)
    number: int = Field(ge=2, le=_MAX_PIXELS)

    def at(self) -> NDArray[np.float64]:
        """Wavelengths ``(number,)`` in the file's unit."""
        exponent = self.start + self.step * np.arange(self.number)
        return np.asarray(np.power(10.0, exponent), dtype=np.float64)


class Linear(Frozen):
    """Uniform in wavelength."""

    start: float = Field(gt=0, allow_inf_nan=False)
    step: float = Field(gt=0, allow_inf_nan=False)
    number: int = Field(ge=2, le=_MAX_PIXELS)

    def at(self) -> NDArray[np.float64]:
        """Wavelengths ``(number,)`` in the file's unit."""
        return np.asarray(self.start + self.step * np.arange(self.number), dtype=np.float64)


class Polynomial(Frozen):
    """A polynomial in ``2 (i + 0.5) / number - 1``, i the pixel from 0: -1 at the blue end of the chip, 1 at its red end."""

    coefficients: tuple[float, ...] = Field(min_length=2, description="of rising order")
    number: int = Field(ge=2, le=_MAX_PIXELS)

    def at(self, number: int | None = None) -> NDArray[np.float64]:
        """Wavelengths ``(number,)`` in the file's unit; of another number of pixels on the same chip if one is given."""
        n = number or self.number
        x = (np.arange(n) + 0.5) * (2 / n) - 1
        return np.asarray(np.polynomial.polynomial.polyval(x, self.coefficients))


class Chip(Frozen):
    """A stretch of pixels with a continuum of its own: a detector, or an order.

    One of ``log10``, ``linear``, ``polynomial``, ``wavelength`` (a list) and ``file`` (text, a wavelength a line, relative to the
    instrument's file) says where the pixels lie.
    """

    name: str = ""
    log10: Log10 | None = None
    linear: Linear | None = None
    polynomial: Polynomial | None = None
    wavelength: tuple[float, ...] | None = Field(None, min_length=2, max_length=_MAX_PIXELS)
    pixels: tuple[int, int] | None = Field(
        None, description="the part of these pixels that is used, half-open"
    )
    resolution: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="resolving power, the pixel left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, entries: Any, info: ValidationInfo) -> Any:
        if isinstance(entries, dict) and "file" in entries:
            entries = dict(entries)
            path = (info.context or Path()) / str(entries.pop("file"))
            entries["wavelength"] = read_numbers(path)[:, 0].tolist()
        return entries

    @field_validator("wavelength")
    @classmethod
    def _rising(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None:
            check_rising(np.array(value))
        return value

    @model_validator(mode="after")
    def _one_sampling(self) -> Chip:
        given = [name for name in _SAMPLINGS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs one of {', '.join(_SAMPLINGS)} or file; it has {' and '.join(given) or 'none'}"
            )
        values = self._all()
        if self.polynomial is not None:
            check_rising(values)
        if self.pixels is not None:
            start, stop = self.pixels
            if not 0 <= start < stop - 1 < len(values):
                raise ValueError(
                    f"pixels {start} to {stop} are not two or more of the {len(values)} that there are"
                )
        return self

    def _all(self) -> NDArray[np.float64]:
        sampling = self.log10 or self.linear or self.polynomial
        return np.array(self.wavelength) if sampling is None else sampling.at()

    def values(self) -> NDArray[np.float64]:
        """Wavelengths in the file's unit and medium, shape ``(n_pixels,)``."""
        values = self._all()
        return values if self.pixels is None else values[slice(*self.pixels)]

    def cut(self, start: int, stop: int) -> Chip:
        """Return the chip's pixels from ``start`` to ``stop``, half-open."""
        first = 0 if self.pixels is None else self.pixels[0]
        return self.model_copy(update={"pixels": (first + start, first + stop)})


def check_rising(values: NDArray[np.float64]) -> None:
    """Raise a ValueError unless wavelengths are finite, positive and strictly rising."""
    if not np.all(np.isfinite(values)) or values[0] <= 0:
        raise ValueError("wavelengths must be finite and above 0")
    step = np.diff(values)
    if np.any(step <= 0):
        i = int(np.argmax(step <= 0))
        raise ValueError(
            f"wavelengths must rise strictly; pixel {i + 1} ({values[i + 1]:g}) does not come after pixel {i} ({values[i]:g})"
        )


def read_numbers(path: Path) -> NDArray[np.float64]:
    """Read a text file of numbers, ``(n_lines, n_columns)``; what goes wrong is a ValueError that names it."""
    try:
        return np.asarray(np.loadtxt(path, ndmin=2, encoding="utf-8"), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as numbers ({error})") from None
