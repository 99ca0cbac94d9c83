"""Two stars in one spectrum: the light of a companion beside the first star's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maury.forward.model import ForwardModel
from maury.labels import Label, LabelSet, label
from maury.libraries.emulator import Emulator
from maury.priors import Uniform
from maury.quantities import Role, quantity

RATIO = "flux_ratio"


class Pair(nn.Module):
    """Forward model of a star and its companion, ``(f_1 + q f_2) / (1 + q)`` with q the ratio of their continua.

    The ratio is taken to be the same all over the spectrum, which holds where the two differ little in temperature or the band is short.
    Labels are the first star's, then the companion's own, named with ``_2``, and ``flux_ratio``; they have the same composition.
    Everything else is as of `ForwardModel`. El-Badry et al. 2018 (MNRAS 476, 528) fit APOGEE spectra so.

    Parameters
    ----------
    single
        Forward model of either star.
    """

    def __init__(self, single: ForwardModel) -> None:
        super().__init__()
        self.single = single
        second = [_of_second(name) for name in single.label_names]
        own = [name for name in second if name not in single.label_names]
        self.label_names = (*single.label_names, *own, RATIO)
        places = [self.label_names.index(name) for name in second]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    places: Tensor

    @property
    def emulator(self) -> Emulator:
        """Rest-frame spectra."""
        return self.single.emulator

    @property
    def basis(self) -> Tensor:
        """As of the single star's model."""
        return self.single.basis

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def stars(self, labels: Tensor) -> Tensor:
        """Labels of all first stars and then of all companions, as the single star's model takes them: ``(2 n, n_single)``."""
        return torch.cat([labels[:, : self.single.n_labels], labels[:, self.places]])

    def _both(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels of both stars, and the two shares of the light ``(n, 1)``."""
        second = labels[:, -1:] / (1 + labels[:, -1:])
        return self.stars(labels), 1 - second, second

    def forward(self, labels: Tensor) -> Tensor:
        """Flux over its pseudo-continuum, shape ``(n, n_pixels)``, of labels ``(n, n_labels)``."""
        stars, a, b = self._both(labels)
        first, second = self.single(stars).chunk(2)
        return a.to(first) * first + b.to(first) * second

    def jacobian(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Flux, shape ``(n, n_pixels)``, and its derivatives by each label, shape ``(n, n_labels, n_pixels)``."""
        stars, a, b = self._both(labels)
        flux, slopes = self.single.jacobian(stars)
        first, second = flux.chunk(2)
        a, b = a.to(flux), b.to(flux)
        out = slopes.new_zeros(len(labels), self.n_labels, flux.shape[1])
        by_first, by_second = slopes.chunk(2)
        out[:, : self.single.n_labels] = a[..., None] * by_first
        out[:, self.places] += b[..., None] * by_second
        out[:, -1] = a.square() * (second - first)
        return a * first + b * second, out

    def carried(self, rest: Tensor, labels: Tensor) -> Tensor:
        """As `ForwardModel.carried`: both stars' spectra differ by the same at rest."""
        stars, a, b = self._both(labels)
        first, second = self.single.carried(rest, stars).chunk(2)
        return a.to(first)[..., None] * first + b.to(first)[..., None] * second

    def by_broadening(self, labels: Tensor) -> Tensor:
        """As `ForwardModel.by_broadening`, of both stars alike."""
        stars, a, b = self._both(labels)
        first, second = self.single.by_broadening(stars).chunk(2)
        return a.to(first) * first + b.to(first) * second

    def by_limb_darkening(self, labels: Tensor) -> Tensor:
        """As `ForwardModel.by_limb_darkening`, of both stars alike."""
        stars, a, b = self._both(labels)
        first, second = self.single.by_limb_darkening(stars).chunk(2)
        return a.to(first) * first + b.to(first) * second

    def by_departures(self, labels: Tensor) -> Tensor:
        """As `ForwardModel.by_departures`, of both stars alike: they share their composition."""
        stars, a, b = self._both(labels)
        first, second = self.single.by_departures(stars).chunk(2)
        return a.to(first)[..., None] * first + b.to(first)[..., None] * second

    @property
    def limb_darkening(self) -> float:
        """As of the single star's model."""
        return self.single.limb_darkening

    @property
    def v_macro(self) -> float:
        """As of the single star's model."""
        return self.single.v_macro

    def error(self, labels: Tensor) -> Tensor:
        """Rms error of the emulator, shape ``(n,)``, at labels ``(n, n_labels)``: the two stars' are independent."""
        stars, a, b = self._both(labels)
        first, second = self.single.error(stars).chunk(2)
        return torch.hypot(a[:, 0].to(first) * first, b[:, 0].to(first) * second)

    def inside(self, labels: Tensor) -> Tensor:
        """Tell whether labels ``(n, n_labels)`` are of two stars that there are, bool, ``(n,)``."""
        first, second = self.single.inside(self._both(labels)[0]).chunk(2)
        return first & second

    def standardised(self, labels: Tensor, related: Sequence[str]) -> Tensor:
        """As `ForwardModel.standardised`, of both stars side by side, ``(n, 2 n_related)``."""
        return torch.cat(self.single.standardised(self._both(labels)[0], related).chunk(2), 1)

    def sampler(self, *args: Any, **options: Any) -> Any:
        """As `ForwardModel.sampler`."""
        return self.single.sampler(*args, **options)

    def usable(self, wavelength: NDArray[np.float64], labels: LabelSet) -> NDArray[np.bool_]:
        """As `ForwardModel.usable`; the companion's velocities have the first star's ranges."""
        return self.single.usable(wavelength, labels)


def pair_labels(labels: LabelSet) -> LabelSet:
    """Return the labels of a `Pair`, with priors, from those of a single star with ``jitter`` last.

    The companion's are as wide as the first star's; the ratio is uniform on [0, 1], so that the first star is the brighter one.
    """
    star, nuisance = labels.without(Role.nuisance), labels.of(Role.nuisance)
    second = [Label(one.quantity.of(star=2), one.prior) for one in star if not one.quantity.is_abundance]
    return LabelSet((*star, *second, label(RATIO, Uniform(low=0.0, high=1.0)), *nuisance))


def _of_second(name: str) -> str:
    """Name of the companion's label: stars that formed together share their composition."""
    found = quantity(name)
    return name if found.is_abundance else found.of(star=2).name
