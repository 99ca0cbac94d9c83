"""Line lists in Turbospectrum's form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maury.errors import MauryError

Array = NDArray[np.float64]

_HEAD = re.compile(r"^'\s*([\d.]+)\s*'\s+(\d+)\s+(\d+)")


class LineListError(MauryError):
    """A line list that cannot be read."""


@dataclass(frozen=True)
class LineList:
    """Spectral lines, in the order of their file: blocks of one species.

    Parameters
    ----------
    species
        Of each line, Turbospectrum's code: ``26.000`` for iron, ``0608.012016`` for a molecule of given isotopes, ``(n_lines,)``.
    ion
        1 for neutral, 2 for singly ionised, ``(n_lines,)``.
    wavelength
        In air, Angstrom.
    excitation
        Energy of the lower level, eV.
    log_gf
        log10 of statistical weight times oscillator strength.
    damping
        Van der Waals broadening: below 20 the factor on Unsoeld's formula, from 20 on ``sigma.alpha`` of Anstee, Barklem & O'Mara.
    upper_weight
        Statistical weight of the upper level.
    radiative
        Radiation damping, 1/s.
    """

    species: NDArray[np.str_]
    ion: NDArray[np.int64]
    wavelength: Array
    excitation: Array
    log_gf: Array
    damping: Array
    upper_weight: Array
    radiative: Array

    def __len__(self) -> int:
        return len(self.wavelength)

    def __add__(self, other: LineList) -> LineList:
        return LineList(
            *(np.concatenate([getattr(self, k), getattr(other, k)]) for k in self.__dataclass_fields__)
        )

    @property
    def atomic(self) -> NDArray[np.bool_]:
        """Which lines are of atoms, ``(n_lines,)``."""
        return np.char.str_len(self.species) <= 6

    def element(self) -> NDArray[np.int64]:
        """Atomic number of an atom's line, 0 for a molecule's, ``(n_lines,)``."""
        return np.array([int(float(s)) if len(s) <= 6 else 0 for s in self.species])

    def select(self, keep: NDArray[np.bool_]) -> LineList:
        """Only some of the lines."""
        return LineList(*(getattr(self, k)[keep] for k in self.__dataclass_fields__))

    def adjusted(self, log_gf: Array | None = None, damping: Array | None = None) -> LineList:
        """Return the list with other strengths or damping, each ``(n_lines,)``."""
        return replace(
            self,
            log_gf=self.log_gf if log_gf is None else log_gf,
            damping=self.damping if damping is None else damping,
        )

    def shifted(self, shifts: Mapping[str, float]) -> LineList:
        """Return the list with the strengths of whole molecules changed.

        Parameters
        ----------
        shifts
            dex by molecule, as the beginning of its code: ``0608`` is CO of any isotopes.

        Raises
        ------
        LineListError
            If the list has no lines of one.
        """
        log_gf = self.log_gf.copy()
        for code, change in shifts.items():
            mine = np.char.startswith(self.species, code) & ~self.atomic
            if not mine.any():
                raise LineListError(
                    f"no lines of molecule {code}: the list has {', '.join(self.molecules())}"
                )
            log_gf[mine] += change
        return self.adjusted(log_gf=log_gf)

    def molecules(self) -> list[str]:
        """Return the codes of the molecules, isotopes left out: ``0608`` for CO."""
        return sorted({str(code)[:4] for code in np.unique(self.species[~self.atomic])})

    def write(self, path: Path) -> None:
        """Write in Turbospectrum's form, a block a species and ion."""
        codes = np.char.add(np.char.add(self.species, " "), self.ion.astype(str))
        starts = (
            np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
            if len(self)
            else np.array([], int)
        )
        with path.open("w", encoding="ascii") as file:
            for start, stop in zip(starts, [*starts[1:], len(self)], strict=True):
                file.write(f"'{self.species[start]:<20}' {self.ion[start]:4d} {stop - start:9d}\n'x'\n")
                for i in range(start, stop):
                    file.write(
                        f"{self.wavelength[i]:10.3f} {self.excitation[i]:7.3f} {self.log_gf[i]:8.4f} {self.damping[i]:9.4f} "
                        f"{self.upper_weight[i]:6.1f} {self.radiative[i]:9.2E} 'x' 'x' 0.0 1.0\n"
                    )


def read_lines(path: Path) -> LineList:
    """Read a line list in Turbospectrum's form.

    Raises
    ------
    LineListError
        If the file cannot be read, or a block has not the lines that its head promises.
    """
    try:
        text = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise LineListError(f"{path}: the line list cannot be read ({error})") from error
    species: list[str] = []
    ions: list[int] = []
    numbers: list[list[float]] = []
    i = 0
    while i < len(text):
        head = _HEAD.match(text[i])
        if head is None:
            raise LineListError(f"{path}: line {i + 1} is not the head of a species: {text[i][:40]!r}")
        count = int(head[3])
        block = text[i + 2 : i + 2 + count]
        try:
            values = [[float(x) for x in line.split("'")[0].split()[:6]] for line in block]
        except ValueError as error:
            raise LineListError(f"{path}: a line of species {head[1]} is not numbers ({error})") from error
        if len(values) < count or any(len(v) < 6 for v in values):
            raise LineListError(
                f"{path}: species {head[1]} promises {count} lines of six numbers and has fewer"
            )
        species += [head[1]] * count
        ions += [int(head[2])] * count
        numbers += values
        i += 2 + count
    if not numbers:
        raise LineListError(f"{path}: no lines")
    return LineList(np.array(species), np.array(ions), *np.array(numbers).T.copy())
