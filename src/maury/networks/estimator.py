"""The estimator: a spectrum to a density over the labels, all of it inside the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maury.errors import ModelError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, Uniform, log_standard_normal
from maury.libraries.emulator import read_model, write_model
from maury.networks.featurizers import AlignedFeaturizer
from maury.networks.flows import LocatedSplineFlow
from maury.networks.prepare import Preparation, Prepared, network_ranges
from maury.spectra.spectrum import APSTAR_LOG10_STEP


class NetworkConfig(BaseModel):
    """Sizes of the featurizer and the flow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: int = Field(40, gt=0)
    width: int = Field(512, gt=0)
    blocks: int = Field(4, ge=0)
    features: int = Field(128, gt=0)
    transforms: int = Field(4, gt=0)
    bins: int = Field(8, gt=1)
    hidden: tuple[int, ...] = (192, 192)
    velocity_width: float = Field(
        1.0, gt=0, description="km/s below which the flow's velocity coordinate is linear"
    )
    defensive: float = Field(
        1e-3, gt=0, lt=1, description="weight of the reference density mixed into the flow"
    )


class AlignedVelocity:
    """Bijection from the bounded velocity to R, fine near the velocity that alignment found, coarse far from it.

    ``t = asinh((v - v_align) / width)`` is spread evenly over its own bounds and taken to R as a uniform label is.
    """

    def __init__(self, prior: Uniform, v_align: Tensor, width: float) -> None:
        self.prior, self.v_align, self.width = prior, v_align, width
        self.low = torch.asinh((prior.low - v_align) / width)
        self.high = torch.asinh((prior.high - v_align) / width)

    def to_normal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinate z and ``log |dz/dv|`` at velocities ``v``."""
        t = torch.asinh((v - self.v_align) / self.width)
        span = self.high - self.low
        below, above = ((t - self.low) / span).clamp_min(1e-300), ((self.high - t) / span).clamp_min(1e-300)
        z = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
        log_dt = -(self.width * torch.sqrt(1 + ((v - self.v_align) / self.width).square())).log()
        return z, log_dt - span.log() - log_standard_normal(z)

    def from_normal(self, z: Tensor) -> Tensor:
        """Velocity at coordinates ``z``."""
        step = (self.high - self.low) * torch.special.ndtr(-z.abs())
        t = torch.where(z < 0, self.low + step, self.high - step)
        return (self.v_align + self.width * torch.sinh(t)).clamp(self.prior.low, self.prior.high)


class Estimator(nn.Module):
    """Preparation, featurizer and flow.

    Densities and draws are over ``u = labels.to_normal(theta)``, in which the prior is N(0, 1): shape ``(n, n_labels)``, float64.

    Parameters
    ----------
    labels
        What is inferred (the forward model's labels, without nuisances), with the priors it was trained for.
    preparation
        Turns spectra into network input.
    config
        Sizes of the networks.
    card
        How it was made and how good it is.

    Raises
    ------
    ModelError
        If the prior of v_rad is not uniform.
    """

    def __init__(
        self,
        labels: LabelSet,
        preparation: Preparation,
        config: NetworkConfig,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.labels, self.preparation, self.config, self.card = labels, preparation, config, dict(card or {})
        self.velocity = labels.index("v_rad")
        prior = labels["v_rad"].prior
        if not isinstance(prior, Uniform):
            raise ModelError("an estimator that aligns spectra needs a uniform prior of v_rad")
        self._v_prior = prior
        self.featurizer = AlignedFeaturizer(
            preparation.n_rest, preparation.n_summary, config.features, config.width, config.blocks
        )
        self.flow = LocatedSplineFlow(
            len(labels), config.features, config.transforms, config.bins, config.hidden
        )

    def context(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Flow context ``(n, n_features)`` and alignment velocity ``(n,)`` of spectra ``(n, n_pixels)`` on the logarithmic grid."""
        prepared: Prepared = self.preparation(flux, ivar)
        return self.featurizer(prepared), prepared.v_align

    def _aligned(self, v_align: Tensor) -> AlignedVelocity:
        return AlignedVelocity(self._v_prior, v_align, self.config.velocity_width)

    def flow_log_prob(self, u: Tensor, context: Tensor, v_align: Tensor) -> Tensor:
        """Log density of the flow alone, shape ``(n,)``; what training maximises."""
        z, log_det = self._to_flow(u, v_align)
        return self.flow.log_prob(z.float(), context) + log_det

    def _to_flow(self, u: Tensor, v_align: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the flow, and ``log |det dz/du|``: only v_rad's differs from u."""
        i = self.velocity
        z_v, log_dz_dv = self._aligned(v_align).to_normal(self._v_prior.from_normal(u[:, i]))
        z = torch.cat([u[:, :i], z_v[:, None], u[:, i + 1 :]], dim=1)
        return z, log_dz_dv + self._v_prior.log_abs_det(u[:, i])

    def log_prob(self, u: Tensor, context: Tensor, v_align: Tensor) -> Tensor:
        """Log density over ``u``, shape ``(n,)``, float64: the flow with a small share of its reference density.

        That share, N(0, 1) in the flow's coordinates, covers the whole prior, so that no truth is ever infinitely unlikely.
        """
        z, log_det = self._to_flow(u, v_align)
        share = self.config.defensive
        flow = self.flow.log_prob(z.float(), context).double() + math.log1p(-share)
        return torch.logaddexp(flow, log_standard_normal(z).sum(-1) + math.log(share)) + log_det

    @torch.no_grad()
    def sample(
        self, n: int, context: Tensor, v_align: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``(n, n_labels)`` points ``u`` for one spectrum: ``context (n_features,)``, ``v_align ()``."""
        with torch.random.fork_rng(devices=[]):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            z = self.flow.sample(n, context).double()
            reference = torch.rand(n) < self.config.defensive
            z = torch.where(reference[:, None], torch.randn_like(z), z)
        i = self.velocity
        v = self._aligned(v_align).from_normal(z[:, i])
        return torch.cat([z[:, :i], self._v_prior.to_normal(v)[:, None], z[:, i + 1 :]], dim=1)

    def save(self, path: Path) -> None:
        """Write weights (safetensors) and card (JSON)."""
        write_model(path, self.state_dict(), self.full_card())

    def full_card(self) -> dict[str, Any]:
        """Return the card with what `load` needs."""
        return self.card | {
            "labels": self.labels.to_list(),
            "network": self.config.model_dump(),
            "n_pixels": self.preparation.n_pixels,
        }

    @classmethod
    def load(cls, path: Path, model: ForwardModel) -> Estimator:
        """Read what `save` wrote, for the forward model that it was trained on.

        Raises
        ------
        ModelError
            If file and card do not fit together or the labels are not the model's.
        """
        tensors, card = read_model(path)
        try:
            labels = LabelSet.from_list(card["labels"])
            if labels.names != model.label_names:
                raise ModelError(f"{path}: has labels {labels.names}, the forward model {model.label_names}")
            prior = labels["v_rad"].prior
            emulator = model.emulator
            templates, mean, components, scale = (
                tensors[f"preparation.{key}"] for key in ("templates", "mean", "components", "scale")
            )
            preparation = Preparation(
                network_ranges(emulator),
                card["n_pixels"],
                APSTAR_LOG10_STEP * math.log(10),
                templates,
                mean,
                components,
                scale,
                (prior.low, prior.high),
            )
            estimator = cls(labels, preparation, NetworkConfig(**card["network"]), card)
            estimator.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ModelError(f"{path}: its card and its weights do not fit together ({error})") from None
        return estimator.eval().requires_grad_(False)
