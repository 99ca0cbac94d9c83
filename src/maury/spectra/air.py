"""Air wavelengths and vacuum wavelengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_vacuum(wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vacuum wavelengths of air wavelengths, Angstrom, by inverting Ciddor 1996 (Applied Optics 35, 1566) for standard air."""
    vacuum = wavelength.copy()
    for _ in range(4):
        s2 = (1e4 / vacuum) ** 2
        vacuum = wavelength * (1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2))
    return vacuum
