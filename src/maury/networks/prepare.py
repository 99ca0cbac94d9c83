"""What a network sees of a spectrum: masked, normalised, cross-correlated and aligned to rest.

The same code prepares simulated and observed spectra; every step uses the spectrum's own errors and mask.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.forward.doppler import log_shift
from maury.libraries.emulator import Emulator, principal_components
from maury.likelihood.continuum import DEGREE, chebyshev_basis, fit_continuum
from maury.likelihood.problem import Problem
from maury.spectra.instrument import Instrument

# Fractional error that no spectrum is believed below while it is being prepared.
_FLOOR = 0.01
# Shares of the range of teff.
_TEMPLATE_TEFF = (0.06, 0.27, 0.52, 0.85)
_TEMPLATE_V_SINI = (4.0, 30.0, 80.0)
# Pixels of all spectra from which components are computed, and spectra at least.
_HELD, _FEWEST = 100_000_000, 1500


@dataclass(frozen=True)
class Prepared:
    """Spectra as the featurizer takes them.

    Attributes
    ----------
    pixels
        Aligned flux over continuum, minus the mean spectrum, in units of 0.1, masked pixels filled; shape ``(n, n_rest)``.
    summary
        Component coefficients, noise level, lost share, velocity and its significance; shape ``(n, n_summary)``.
    v_align
        Velocity that was taken out, km/s, shape ``(n,)``, float64.
    """

    pixels: Tensor
    summary: Tensor
    v_align: Tensor


class Preparation(nn.Module):
    """Prepares spectra on a uniform logarithmic grid.

    Parameters
    ----------
    covered
        Half-open pixel ranges that are used, one a chip.
    n_pixels
        Pixels of the observed spectra.
    dlnw
        Pixel size in ln(wavelength).
    templates
        Continuum-normalised rest-frame spectra less 1, on the grid, shape ``(n_templates, n_pixels)``.
    mean, components, scale
        Mean of prepared spectra on the covered pixels, their principal components and the components' spread; shapes ``(n_rest,)``,
        ``(n_components, n_rest)``, ``(n_components,)``.
    v_rad
        Bounds of the prior of ``v_rad``, km/s.
    degree
        Of the continuum that is taken out of each chip; None where it is known to be 1, and tells of the star.
    """

    templates: Tensor
    mean: Tensor
    components: Tensor
    scale: Tensor
    rest: Tensor
    observed: Tensor
    shifted: Tensor
    shifted_sq: Tensor
    tilt: Tensor
    design: Tensor
    products: Tensor
    precision: Tensor
    index: Tensor
    lags: Tensor

    def __init__(
        self,
        covered: tuple[tuple[int, int], ...],
        n_pixels: int,
        dlnw: float,
        templates: Tensor,
        mean: Tensor,
        components: Tensor,
        scale: Tensor,
        v_rad: tuple[float, float],
        degree: int | None = DEGREE,
    ) -> None:
        super().__init__()
        self.covered, self.n_pixels, self.dlnw, self.v_rad = covered, n_pixels, dlnw, v_rad
        self.degree, self._order = degree, DEGREE if degree is None else degree
        for name, value in (
            ("templates", templates),
            ("mean", mean),
            ("components", components),
            ("scale", scale),
        ):
            self.register_buffer(name, value.float())
        low, high = (float(log_shift(torch.tensor(v, dtype=torch.float64))) / dlnw for v in v_rad)
        lags = torch.arange(int(np.floor(low)), int(np.ceil(high)) + 1)
        self.register_buffer("lags", lags, persistent=False)
        if covered[0][0] + int(lags[0]) < 0 or covered[-1][1] + int(lags[-1]) > n_pixels:
            raise ConfigError(
                f"priors.v_rad: {v_rad[0]:g} to {v_rad[1]:g} km/s move spectra off the grid: widen training.v_rad of the instrument"
            )
        rest = torch.cat([torch.arange(a, b) for a, b in covered])
        self.register_buffer("rest", rest, persistent=False)
        self._chips = [(slice(a, b), chebyshev_basis(b - a, 2 * self._order).float()) for a, b in covered]
        # Pairs of pixels are summed before the cross-correlation: half the work, and lines are wider than that.
        observed = torch.cat([torch.arange(a, b - (b - a) % 2) for a, b in covered])
        self.register_buffer("observed", observed, persistent=False)
        self._derive()
        # Weights of another preparation (`maury.training.fit.take_weights`) bring what follows from them.
        self.register_load_state_dict_post_hook(_derived)

    def _derive(self) -> None:
        """Compute what follows from the templates and components."""
        shifted = self.templates[:, (self.observed[None] - self.lags[:, None]) % self.n_pixels]
        shifted = shifted.unflatten(-1, (-1, 2)).mean(-1).flatten(0, 1).T.contiguous()
        self.register_buffer("shifted", shifted, persistent=False)
        self.register_buffer("shifted_sq", shifted.square(), persistent=False)
        self._build_least_squares()

    def _build_least_squares(self) -> None:
        """Design of the fit by components and chip continua, and the products its normal matrix needs."""
        n = len(self.mean)
        terms = 0 if self.degree is None else self._order + 1
        tilt = torch.zeros(len(self._chips) * terms, n)
        offset = 0
        for i, (chip, basis) in enumerate(self._chips):
            size = chip.stop - chip.start
            tilt[i * terms : (i + 1) * terms, offset : offset + size] = basis[:, :terms].T
            offset += size
        self.register_buffer("tilt", tilt, persistent=False)
        design = torch.cat([self.components, tilt * self.mean])
        j, k = torch.tril_indices(len(design), len(design))
        self.register_buffer("design", design, persistent=False)
        self.register_buffer("products", (design[j] * design[k]).T.contiguous(), persistent=False)
        self.register_buffer(
            "precision", torch.cat([self.scale**-2, torch.full((len(tilt),), 100.0)]), persistent=False
        )
        index = torch.zeros(len(design), len(design), dtype=torch.long)
        index[j, k] = index[k, j] = torch.arange(len(j))
        self.register_buffer("index", index, persistent=False)

    @property
    def n_rest(self) -> int:
        """Length of ``Prepared.pixels``."""
        return len(self.mean)

    @property
    def n_summary(self) -> int:
        """Length of ``Prepared.summary``."""
        return len(self.design) + 2 * len(self._chips) + 3

    def normalise(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Divide each chip by a smooth fit; ``(n, n_pixels)`` to flux and weights ``1 / (sigma^2 + 0.01^2)`` of the same shape.

        Pixels outside the emulator's range, and chips without enough good pixels, get weight 0.
        """
        out, weights = torch.ones_like(flux), torch.zeros_like(flux)
        for chip, basis in self._chips:
            f, w = flux[:, chip], ivar[:, chip]
            continuum = torch.ones_like(f) if self.degree is None else fit_continuum(f, w, basis)
            scaled = w * continuum.square()
            good = (w > 0) & ((w > 0).sum(1, keepdim=True) > 4 * (self._order + 1))
            # A pixel three times above or below the continuum's level tells of a defect, not of the star.
            out[:, chip] = torch.where(good, (f / continuum).clamp(-2, 4), 1.0)
            weights[:, chip] = torch.where(good, scaled / (1 + _FLOOR**2 * scaled), 0.0)
        return out, weights

    def cross_correlate(self, flux: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Best lag in pixels, shape ``(n,)``, and the chi-squared that it gains, for normalised spectra."""
        w = weights[:, self.observed].unflatten(1, (-1, 2))
        wd = (w * (flux[:, self.observed] - 1).unflatten(1, (-1, 2))).sum(-1)
        match = wd @ self.shifted
        gain = match.clamp_min(0).square() / (w.sum(-1) @ self.shifted_sq).clamp_min(1e-6)
        best = gain.max(1)
        return self.lags[best.indices % len(self.lags)], best.values

    @torch.no_grad()
    def forward(self, flux: Tensor, ivar: Tensor) -> Prepared:
        """Prepare spectra ``(n, n_pixels)`` in any linear flux unit."""
        flux, weights = self.normalise(flux, ivar)
        lag, gain = self.cross_correlate(flux, weights)
        take = self.rest + lag[:, None]
        f, w = flux.gather(1, take), weights.gather(1, take)
        coefficients, residual, recon = self._least_squares(f, w)
        n_components = len(self.scale)
        continuum = 1 + coefficients[:, n_components:] @ self.tilt
        pixels = torch.where(w > 0, f / continuum.clamp_min(0.2), recon) - self.mean

        used = (w > 0).float()
        count = used.sum(1).clamp_min(1)
        per_chip = [(c, used[:, c], w[:, c]) for c in self._rest_slices()]
        noise = torch.stack(
            [(wc.sum(1) / uc.sum(1).clamp_min(1)).clamp_min(1).log() for _, uc, wc in per_chip], dim=1
        )
        kept = torch.stack([uc.mean(1) for _, uc, _ in per_chip], dim=1)
        excess = (residual.square() * w).sum(1).div(count).clamp_min(1e-3).log()
        v_align = C_KMS * torch.tanh(lag.double() * self.dlnw)
        summary = torch.cat(
            [
                coefficients[:, :n_components] / self.scale,
                coefficients[:, n_components:] * 30,
                (noise - 8) / 2,
                kept,
                excess[:, None],
                (gain.clamp_min(1).log()[:, None] - 8) / 3,
                (v_align / 100).float()[:, None],
            ],
            dim=1,
        )
        return Prepared((pixels * 10).clamp(-10, 10), summary.clamp(-20, 20), v_align.clamp(*self.v_rad))

    def _rest_slices(self) -> list[slice]:
        edges = np.cumsum([0] + [b - a for a, b in self.covered])
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]

    def _least_squares(self, flux: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of components and continua that fit aligned spectra, the residual, and the fitted spectrum at continuum 1."""
        matrix = (weights @ self.products)[:, self.index] + torch.diag(self.precision)
        difference = flux - self.mean
        right = (weights * difference) @ self.design.T
        coefficients = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrix))[..., 0]
        residual = difference - coefficients @ self.design
        return coefficients, residual, self.mean + coefficients[:, : len(self.scale)] @ self.components


def _derived(preparation: nn.Module, _: object) -> None:
    """Compute anew what follows from weights that were loaded."""
    assert isinstance(preparation, Preparation)
    preparation._derive()


def network_ranges(emulator: Emulator, instrument: Instrument) -> tuple[tuple[int, int], ...]:
    """Half-open pixel ranges of the instrument's grid that networks see: on a chip, and covered by the emulator."""
    grid, layout, out = emulator.grid, instrument.layout, []
    for start, stop in instrument.grid.chips:
        for low, high in emulator.covered:
            ends = [
                (grid.start + grid.step * pixel - layout.log10_start) / layout.log10_step
                for pixel in (low, high - 1)
            ]
            first, last = max(start, math.ceil(ends[0] - 1e-6)), min(stop, math.floor(ends[1] + 1e-6) + 1)
            if last > first:
                out.append((first, last))
    return tuple(out)


def preparation_of(featurizer: nn.Module) -> Preparation | None:
    """Return the preparation that a featurizer's spectra pass, wherever it is among its parts; None where it has none with templates."""
    return next((part for part in featurizer.modules() if isinstance(part, Preparation)), None)


@torch.no_grad()
@torch.no_grad()
def simulated_average(problem: Problem, prepare: nn.Module, seed: int, n_spectra: int = 1024) -> Tensor:
    """Average ``(n_used,)`` of spectra without noise, of stars of the prior, on the instrument's grid as ``prepare`` leaves them."""
    model, instrument = problem.forward, problem.spectrograph
    sampler = model.sampler(instrument.grid, None if model.emulator.contained else instrument.grid_lsf)
    theta = problem.sample(n_spectra, torch.Generator().manual_seed(seed))
    theta = theta[:, problem.columns(problem.labels.select(model.label_names))]
    parts = theta.split(128)
    flux = (sampler(model(part)) for part in parts)
    total = sum(prepare(one, torch.full_like(one, 1e4))[0].sum(0) for one in flux)
    return cast(Tensor, total) / n_spectra


def build_preparation(
    problem: Problem,
    *,
    n_components: int = 40,
    n_spectra: int = 6000,
    seed: int = 0,
) -> Preparation:
    """Compute templates and principal components of prepared, noise-free spectra on the instrument's grid.

    Parameters
    ----------
    problem
        Forward model and labels.
    n_components, n_spectra, seed
        Size of the basis, spectra it is computed from, and their seed.
    """
    model = problem.forward
    emulator, labels = model.emulator, problem.labels.select(model.label_names)
    instrument = problem.spectrograph
    names, pixels = labels.names, instrument.grid
    covered = network_ranges(emulator, instrument)
    dlnw = instrument.layout.log10_step * math.log(10)
    lsf = None if emulator.contained else instrument.grid_lsf
    sampler = model.sampler(pixels, lsf)
    middle = (labels.low + labels.high) / 2
    teff = labels["teff"].prior
    grid = [(teff.low + t * (teff.high - teff.low), v) for t in _TEMPLATE_TEFF for v in _TEMPLATE_V_SINI]
    points = middle.repeat(len(grid), 1)
    points[:, [names.index(n) for n in ("teff", "v_sini")]] = torch.tensor(grid, dtype=torch.float64)
    held = {name: value for name, value in problem.held.items() if name in names}
    for name, value in {**held, "v_rad": 0.0}.items():
        points[:, names.index(name)] = value
    n_rest = sum(b - a for a, b in covered)
    v = labels["v_rad"].prior
    start = Preparation(
        covered,
        pixels.n_pixels,
        dlnw,
        torch.zeros(1, pixels.n_pixels),
        torch.zeros(n_rest),
        torch.zeros(1, n_rest),
        torch.ones(1),
        (v.low, v.high),
        problem.degree,
    )

    def normalised(theta: torch.Tensor) -> Tensor:
        return torch.cat(
            [
                start.normalise(flux, torch.full_like(flux, 1e4))[0] - 1
                for flux in (sampler(model(part)) for part in theta.split(256))
            ]
        )

    templates = normalised(points)
    generator = torch.Generator().manual_seed(seed)
    # Of long spectra fewer are held in memory; those of APOGEE are never that long.
    n_spectra = min(n_spectra, max(_FEWEST, _HELD // pixels.n_pixels))
    draws = labels.sample(n_spectra, generator)
    for name, value in held.items():
        draws[:, names.index(name)] = value
    pixel = C_KMS * dlnw
    draws[:, names.index("v_rad")] = (
        1.4 * pixel * (torch.rand(n_spectra, generator=generator, dtype=torch.float64) - 0.5)
    )
    spectra = 1 + normalised(draws)[:, start.rest]
    mean = spectra.mean(0)
    spectra -= mean
    components, scale = principal_components(spectra, n_components, seed)
    # Fewer labels make fewer components than asked for: the rest are rounding errors.
    kept = scale > 1e-6
    components, scale = components[kept], scale[kept]
    return Preparation(
        covered,
        pixels.n_pixels,
        dlnw,
        templates,
        mean,
        components,
        scale,
        (v.low, v.high),
        problem.degree,
    )
