"""What a synthesis needs and gives: a star, an engine, a synthetic spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maury.errors import MauryError
from maury.libraries.synthesis.atmospheres import SOLAR_ABUNDANCES, Atmosphere

Array = NDArray[np.float64]

# fmt: off
SYMBOLS = (
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf",
    "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th",
    "Pa", "U",
)
# fmt: on
# Elements that give their electrons away where H- is made.
_DONORS = ("Mg", "Si", "Fe", "Al", "Ca", "Na")
ATOMIC_NUMBER = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)}


class SynthesisError(MauryError):
    """An engine is missing, or did not make a spectrum."""


@dataclass(frozen=True)
class Star:
    """What a spectrum is synthesised for.

    Parameters
    ----------
    teff
        Effective temperature, K.
    logg
        log10 of the surface gravity, cgs.
    m_h
        Metallicity [M/H]: every element but H and He is scaled by it.
    v_micro
        Microturbulence, km/s.
    abundances
        [X/M] of elements that do not follow it, by symbol.
    c12_c13
        Number ratio of the carbon isotopes.
    """

    teff: float
    logg: float
    m_h: float = 0.0
    v_micro: float = 1.0
    abundances: Mapping[str, float] = field(default_factory=dict)
    c12_c13: float = 89.0

    def log_eps(self, symbol: str) -> float:
        """Return the number abundance of an element, log10 with H = 12."""
        return SOLAR_ABUNDANCES[ATOMIC_NUMBER[symbol] - 1] + self.m_h + self.abundances.get(symbol, 0.0)

    def enriched(self, symbol: str, by: float) -> Star:
        """Return the star with more of an element, by so many dex."""
        return replace(self, abundances={**self.abundances, symbol: self.abundances.get(symbol, 0.0) + by})

    @property
    def donor_metallicity(self) -> float:
        """[M/H] of a star of solar mixture whose electron donors are as abundant (dex).

        The atmospheres are of solar mixture. What shapes them most besides temperature and gravity are the electrons that make H-, which
        come from Mg, Si, Fe, Al, Ca and Na. With it Arcturus' spectrum differs by rms 0.0018 from that of its own MARCS model (of its own
        abundances), with its m_h by 0.0044.
        """
        solar = {symbol: 10 ** SOLAR_ABUNDANCES[ATOMIC_NUMBER[symbol] - 1] for symbol in _DONORS}
        here = sum(number * 10 ** self.abundances.get(symbol, 0.0) for symbol, number in solar.items())
        return self.m_h + float(np.log10(here / sum(solar.values())))


@dataclass(frozen=True)
class Synthesis:
    """A synthetic spectrum at the star, not broadened by anything but what happens in its atmosphere.

    Parameters
    ----------
    wavelength
        In air, Angstrom, ``(n_points,)``.
    normalised
        Flux over continuum, ``(n_points,)``.
    continuum
        Continuum flux, erg/s/cm2/A, ``(n_points,)``.
    """

    wavelength: Array
    normalised: Array
    continuum: Array


class Engine(Protocol):
    """A program of radiative transfer."""

    name: str

    def synthesise(self, star: Star, atmosphere: Atmosphere) -> Synthesis:
        """Compute the spectrum of a star with an atmosphere.

        Raises
        ------
        SynthesisError
            If the program fails.
        """
        ...
