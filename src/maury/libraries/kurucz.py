"""The Kurucz spectra of The Payne / binspec: one small network a pixel, at APOGEE's resolution.

El-Badry, Ting et al. 2018, MNRAS 476, 528; ``flux = w1 . sigmoid(w0 . x + b0) + b1`` with
``x = (labels - x_min) / (x_max - x_min) - 1/2``, on the 7214 apStar pixels of data releases 11-12.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maury.errors import ModelError

CHIPS = ((322, 3242), (3648, 6048), (6412, 8306))
LABELS = ("teff", "logg", "m_h", "alpha_m")


@dataclass(frozen=True)
class KuruczNetworks:
    """The networks of ``NN_unnormalized_spectra.npz``: labels teff, logg, m_h, alpha_m to flux with its continuum."""

    w0: Tensor
    b0: Tensor
    w1: Tensor
    b1: Tensor
    x_min: Tensor
    x_max: Tensor

    @classmethod
    def load(cls, path: Path) -> KuruczNetworks:
        """Read the npz file.

        Raises
        ------
        ModelError
            If the file is missing or has other arrays.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                keys = ("w_array_0", "b_array_0", "w_array_1", "b_array_1", "x_min", "x_max")
                arrays = [torch.from_numpy(np.asarray(file[key], dtype=np.float32)) for key in keys]
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; it is binspec's NN_unnormalized_spectra.npz") from None
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path}: not the networks of binspec ({error})") from None
        return cls(*arrays)

    def flux(self, labels: Tensor) -> Tensor:
        """Flux with continuum, shape ``(n, 7214)``, of labels ``(n, 4)``."""
        x = (labels.to(self.w0) - self.x_min) / (self.x_max - self.x_min) - 0.5
        out = self.b1.expand(len(x), -1).clone()
        for j in range(self.w1.shape[1]):
            out += self.w1[:, j] * torch.sigmoid(x @ self.w0[:, j].T + self.b0[:, j])
        return out
