"""Would the model have made this residual? Posterior predictive checks of one fit, chip by chip and line by line.

Where the noise model holds, whitened residuals are independent normals, but for the few degrees of freedom that the fit
took. Two statistics see what jitter cannot absorb: scatter that is larger in one place than in another, and residuals that are correlated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from maury.constants import C_KMS
from maury.likelihood.fit import Fit
from maury.likelihood.residuals import ljung_box
from maury.spectra.spectrum import PixelGrid

Array = NDArray[np.float64]
# Angstrom on each side of a line that belong to its region.
_HALF_WIDTH = 4.0
_FEWEST = 15

# Strong features of cool stars in the H band, vacuum Angstrom (Smith et al. 2013, arXiv:1212.4091; Shetrone et al. 2015, arXiv:1502.04080).
LINES: dict[str, tuple[float, ...]] = {
    "Fe I": (15211.7, 15298.7, 15395.7, 15591.5, 15625.9, 15691.9, 15973.0, 16046.9, 16202.7, 16491.3),
    "Mg I": (15744.9, 15753.3, 15770.1),
    "Al I": (16723.5, 16755.1),
    "Si I": (15964.4, 16064.4, 16099.2, 16220.1, 16685.3),
    "K I": (15167.2, 15172.5),
    "Mn I": (15163.1, 15221.6, 15266.2),
    "OH": (15283.0, 15395.4, 15573.1, 16194.1, 16256.0),
    "CO": (15582.0, 15778.0, 15982.0, 16189.0, 16617.0, 16840.0),
    "Brackett": (15196.0, 15264.7, 15345.9, 15443.1, 15560.7, 15704.9, 15884.9, 16113.7, 16411.7, 16811.1),
}


@dataclass(frozen=True)
class Check:
    """A stretch of pixels.

    Attributes
    ----------
    name
        Chip or line.
    n_pixels
        Used pixels in it.
    chi2
        Mean squared residual over the total error.
    p_scatter
        Of a chi-squared as large by chance.
    correlation
        Mean product of residuals of neighbouring pixels.
    p_correlation
        Of correlations as large over 8 pixels by chance (Ljung & Box 1978); 1 where there are too few pixels.
    moves, label
        How far labels move without these pixels beyond twice what chance moves them, in their total errors: the farthest, and which; 0
        where nothing is wrong, or not asked.
    """

    name: str
    n_pixels: int
    chi2: float
    p_scatter: float
    correlation: float
    p_correlation: float
    moves: float = 0.0
    label: str = ""

    @property
    def p_value(self) -> float:
        """Smaller of the two."""
        return min(self.p_scatter, self.p_correlation)


def _check(name: str, fit: Fit, member: NDArray[np.bool_], taken: float) -> Check | None:
    n = int(member.sum())
    if n < _FEWEST:
        return None
    z = fit.whitened[member]
    chi2 = float(np.sum(z**2))
    correlation, p_correlation = ljung_box(z, fit.pixels[member])
    freedom = max(n - taken * n / len(fit.pixels), 1.0)
    return Check(name, n, chi2 / n, float(chdtrc(freedom, chi2)), correlation, p_correlation)


def by_chip(fit: Fit, grid: PixelGrid) -> dict[str, NDArray[np.bool_]]:
    """Return the used pixels ``(n_pixels,)`` of each chip, by name."""
    return {
        f"chip {i}": (fit.pixels >= start) & (fit.pixels < stop)
        for i, (start, stop) in enumerate(grid.chips, start=1)
    }


def by_line(fit: Fit, grid: PixelGrid, v_rad: float) -> dict[str, NDArray[np.bool_]]:
    """Return the used pixels around the strong lines of each species, by name, at the star's velocity in km/s."""
    wavelength = grid.wavelength[fit.pixels] / math.exp(math.atanh(v_rad / C_KMS))
    return {
        name: np.abs(wavelength[:, None] - np.array(lines)).min(1) < _HALF_WIDTH
        for name, lines in LINES.items()
    }


def stretches(fit: Fit, grid: PixelGrid, v_rad: float) -> dict[str, NDArray[np.bool_]]:
    """Return the used pixels of chips and lines that are checked, by name."""
    return by_chip(fit, grid) | by_line(fit, grid, v_rad)


def checked(fit: Fit, members: Mapping[str, NDArray[np.bool_]], taken: float = 0.0) -> list[Check]:
    """Check each stretch that has enough pixels; ``taken`` is the number of degrees of freedom that the whole fit took."""
    found = [_check(name, fit, member, taken) for name, member in members.items()]
    return [check for check in found if check]


def worst(checks: list[Check]) -> float:
    """Smallest p-value of all checks, for their number corrected (Bonferroni)."""
    if not checks:
        return 1.0
    return min(1.0, 2 * len(checks) * min(c.p_value for c in checks))
