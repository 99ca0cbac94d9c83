"""Which stars a grid holds: a space-filling design of all labels at once, denser where stars are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, qmc

from maury.libraries.synthesis.engine import Star

Array = NDArray[np.float64]

# Elements that are made together by capture of helium, and move together unless told otherwise.
ALPHA = ("O", "Mg", "Si", "S", "Ca", "Ti")
# The elements that have labels of their own, by atomic number; iron is the metallicity.
ELEMENTS = (
    *(
        "C",
        "N",
        "O",
        "Na",
        "Mg",
        "Al",
        "Si",
        "P",
        "S",
        "K",
        "Ca",
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Co",
        "Ni",
        "Cu",
        "Ce",
        "Nd",
    ),
)
LABELS = ("teff", "logg", "m_h", "v_micro", *(f"{symbol.lower()}_m" for symbol in ELEMENTS), "c12_c13")

# Surface gravities that stars have, by teff (K): dimmer than the brightest giants, denser ones do not shine.
_TEFF = np.array([3400.0, 4000.0, 4500.0, 5000.0, 5500.0, 6000.0, 6500.0, 7000.0, 8000.0])
_LOGG_LOW = np.array([-0.5, -0.5, -0.5, 0.3, 0.8, 1.3, 1.8, 2.3, 3.0])
_LOGG_HIGH = np.array([5.5, 5.5, 5.4, 5.3, 5.2, 5.1, 5.0, 5.0, 5.0])
# The main sequence, and the giant branch of solar metallicity.
_LOGG_DWARF = np.array([5.0, 4.75, 4.65, 4.6, 4.5, 4.35, 4.25, 4.2, 4.15])
_GIANT_TEFF = np.array([3400.0, 3600.0, 4000.0, 4400.0, 4800.0, 5200.0, 5600.0])
_GIANT_LOGG = np.array([-0.1, 0.4, 1.3, 2.0, 2.6, 3.2, 3.6])
# Share of usual abundances among the later stars.
_USUAL = 0.85


@dataclass(frozen=True)
class Design:
    """A design: star number i is the same however many there are.

    Parameters
    ----------
    seed
        Of the scrambled Sobol sequence.
    teff
        Range of effective temperatures, K.
    m_h
        Range of metallicities.
    giants, dwarfs
        Shares of stars near the giant branch and near the main sequence; the rest fills the diagram.
    wide
        Number of stars that fill the whole range of every label; of the later ones most are like stars that there are, where an
        interpolation has to be better.
    """

    seed: int = 1
    teff: tuple[float, float] = (3400.0, 8000.0)
    m_h: tuple[float, float] = (-2.5, 0.7)
    giants: float = 0.45
    dwarfs: float = 0.3
    wide: int = 1400

    def labels(self, number: int) -> Array:
        """Labels of the first stars, in the order of `LABELS`, ``(number, n_labels)``; c12_c13 is the ratio itself."""
        power = int(np.ceil(np.log2(max(number, 2))))
        u = qmc.Sobol(len(LABELS) + 3, scramble=True, seed=self.seed).random_base2(power)[:number]
        kind, alpha_u, spread_u, rest = u[:, 0], u[:, 1], u[:, 2], u[:, 3:]
        columns = dict(zip(LABELS, rest.T, strict=True))
        usual = np.arange(number) >= self.wide
        giants, dwarfs = (
            np.where(usual, 1.2 * self.giants, self.giants),
            np.where(usual, 1.1 * self.dwarfs, self.dwarfs),
        )
        giant, dwarf = kind < giants, (kind >= giants) & (kind < giants + dwarfs)

        def mixed(u: Array, low: float, high: float, centre: float, width: float, share: float) -> Array:
            whole = _mixture(u, low, high, centre, width, share)
            return np.where(usual, _mixture(u, low, high, centre, 0.75 * width, _USUAL), whole)

        low, high = self.teff
        teff = low + columns["teff"] * (high - low)
        teff = np.where(giant, low + columns["teff"] * (5600 - low), teff)
        # Most dwarfs that are observed, and the hardest to model, are cool.
        teff = np.where(dwarf, low + columns["teff"] ** 1.3 * (7500 - low), teff)
        m_h = mixed(columns["m_h"], *self.m_h, centre=-0.2, width=0.4, share=0.55)
        floor, ceiling = np.interp(teff, _TEFF, _LOGG_LOW), np.interp(teff, _TEFF, _LOGG_HIGH)
        # Metal-poor branches are hotter at a given gravity.
        branch = np.interp(teff + 250 * np.clip(m_h, -2, 0.3), _GIANT_TEFF, _GIANT_LOGG)
        width = norm.ppf(np.clip(columns["logg"], 1e-4, 1 - 1e-4))
        logg = floor + columns["logg"] * (ceiling - floor)
        logg = np.where(giant, branch + 0.5 * width, logg)
        logg = np.where(dwarf, np.interp(teff, _TEFF, _LOGG_DWARF) + 0.2 * width, logg)
        logg = np.clip(logg, floor, ceiling)
        relation = microturbulence(logg)
        v_micro = np.where(
            spread_u < np.where(usual, _USUAL, 0.5),
            relation * np.exp(0.25 * norm.ppf(np.clip(columns["v_micro"], 1e-4, 1 - 1e-4))),
            np.exp(np.log(0.3) + columns["v_micro"] * np.log(4.0 / 0.3)),
        )
        out = {"teff": teff, "logg": logg, "m_h": m_h, "v_micro": np.clip(v_micro, 0.3, 4.0)}
        alpha = mixed(alpha_u, -0.4, 0.7, centre=0.1, width=0.2, share=0.6)
        for symbol in ELEMENTS:
            name = f"{symbol.lower()}_m"
            if symbol in ALPHA:
                apart = mixed(columns[name], -0.6, 0.6, centre=0.0, width=0.1, share=0.6)
                out[name] = np.clip(alpha + apart, -0.5, 1.0)
            elif symbol == "C":
                out[name] = mixed(columns[name], -1.0, 1.0, centre=-0.05, width=0.25, share=0.6)
            elif symbol == "N":
                out[name] = mixed(columns[name], -1.0, 1.0, centre=0.15, width=0.25, share=0.6)
            else:
                out[name] = mixed(columns[name], -1.0, 1.0, centre=0.0, width=0.2, share=0.6)
        # No carbon stars: where CO forms, less carbon than oxygen is left free.
        out["c_m"] = np.where(teff < 4800, np.minimum(out["c_m"], out["o_m"] + 0.2), out["c_m"])
        out["c12_c13"] = np.exp(np.log(3.0) + columns["c12_c13"] * np.log(90.0 / 3.0))
        return np.stack([out[name] for name in LABELS], axis=1)


def microturbulence(logg: Array) -> Array:
    """Microturbulence of stars, km/s, by surface gravity."""
    return np.clip(2.5 - 0.33 * logg, 0.6, 2.6)


def _mixture(u: Array, low: float, high: float, centre: float, width: float, share: float) -> Array:
    """Quantiles of a mixture: a share of a normal distribution cut to a range, the rest uniform in it."""
    grid = np.linspace(low, high, 2001)
    normal = norm.cdf(grid, centre, width)
    normal = (normal - normal[0]) / (normal[-1] - normal[0])
    cdf = share * normal + (1 - share) * (grid - low) / (high - low)
    return np.interp(u, cdf, grid)


def star_of(labels: Array) -> Star:
    """Return the star of a row of labels ``(n_labels,)``."""
    values = dict(zip(LABELS, map(float, labels), strict=True))
    abundances = {symbol: values[f"{symbol.lower()}_m"] for symbol in ELEMENTS}
    return Star(
        values["teff"], values["logg"], values["m_h"], values["v_micro"], abundances, values["c12_c13"]
    )
