"""Conditional densities over R^n, on zuko, and the configurations that choose one."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Annotated, Any, Literal

import torch
import zuko
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor, nn

from maury.networks.autoregressive import Autoregressive, transforms_of
from maury.networks.paper import MixtureFlow
from maury.networks.splines import Spline


class Scale(BaseModel):
    """Bounds of a located flow's conditional scale, and where its training starts.

    The unit is that of the flow's coordinates: without a frame, the priors' standard deviations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(1.67e-5, gt=0, description="far below the best spectrum's precision")
    high: float = Field(2.7183, gt=0)
    start: float = Field(0.65, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if not self.low < self.start < self.high:
            raise ValueError(f"needs low < start < high, not {self.low}, {self.start}, {self.high}")
        return self


# Bounds of what a file may ask for: memory is taken for it before its weights are looked at.
MOST_UNITS, MOST_LAYERS = 16_384, 256
Hidden = Annotated[tuple[Annotated[int, Field(gt=0, le=MOST_UNITS)], ...], Field(max_length=MOST_LAYERS)]

# In units of a Gaussian approximation of the posterior, in whose coordinates nothing is far.
OF_LAPLACE = Scale(low=0.1, high=20, start=1)


def bounded(raw: Tensor, scale: Scale) -> Tensor:
    """Log scale inside its bounds, of what a network gives; at 0 it is the start's."""
    low, high = math.log(scale.low), math.log(scale.high)
    start = (math.log(scale.start) - low) / (high - low)
    return low + (high - low) * torch.sigmoid(raw / 3 + math.log(start / (1 - start)))


@cache
def _sobol(n: int, d: int) -> Tensor:
    return torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(n)


class ConditionalFlow(nn.Module):
    """A normalizing flow of zuko, optionally around a location and a scale that the context gives.

    Posteriors are thousands of times narrower than priors; a located flow then needs to carry only the shape.

    Parameters
    ----------
    flow
        The flow; its context is ``(n, n_context)``.
    n_labels, n_context
        Dimensions of the density and of its context.
    located
        Bounds and start of the conditional scale; None for a flow that has neither location nor scale.
    """

    def __init__(self, flow: zuko.flows.Flow, n_labels: int, n_context: int, located: Scale | None) -> None:
        super().__init__()
        self.flow, self.n_base = flow, n_labels
        self.head: nn.Module | None = None
        self.located = located
        if located:
            self.head = nn.Sequential(
                nn.Linear(n_context, 2 * n_context), nn.SiLU(), nn.Linear(2 * n_context, 2 * n_labels)
            )

    def locate(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Location and log scale, each ``(n, n_labels)``; zeros of a flow that is not located."""
        if self.head is None or self.located is None:
            zero = context.new_zeros(())
            return zero, zero
        location, raw = self.head(context).chunk(2, dim=-1)
        return location, bounded(raw, self.located)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, of ``z (n, n_labels)`` given ``context (n, n_context)``."""
        location, log_scale = self.locate(context)
        x = (z - location) * torch.exp(-log_scale)
        return self.flow(context).log_prob(x) - log_scale.expand_as(x).sum(-1)

    def loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Return what training minimises, shape ``(n,)``: the negative log density."""
        return -self.log_prob(z, context)

    def base(self, n: int, even: bool = False) -> Tensor:
        """Draw ``(n, n_labels)`` from the flow's base, by torch's global random state.

        ``even`` spreads the draws: a Sobol sequence, shifted at random (Cranley & Patterson 1976). Each is distributed as before, and
        a quarter of them tells quantiles as well. Bases that are not normal give independent draws.
        """
        base = self.flow.base(None)
        if not even or isinstance(self.flow.base, _Mixture):
            return base.sample((n,))
        points = _sobol(n, *base.event_shape)
        return torch.special.ndtri(((points + torch.rand(points.shape[1])) % 1).clamp(1e-7, 1 - 1e-7))

    def push(self, base: Tensor, context: Tensor) -> Tensor:
        """Take draws of the base ``(n_spectra, n, n_labels)`` to draws given contexts ``(n_spectra, n_context)``."""
        location, log_scale = self.locate(context[:, None])
        transforms = transforms_of(self.flow)
        if transforms is None:
            x = self.flow(context[:, None].expand(-1, base.shape[1], -1)).transform.inv(base)
        else:
            x = base
            for transform in reversed(transforms):
                x = Autoregressive.of(transform, context).inverse(x)
        return location + torch.exp(log_scale) * x

    def sample(self, n: int, context: Tensor) -> Tensor:
        """Draw ``(n, n_labels)`` given one context ``(n_context,)``; uses torch's global random state."""
        return self.push(self.base(n)[None], context[None])[0]


class FlowMatching(ConditionalFlow):
    """Continuous flow, trained by regression of its velocity field on straight paths from base to data.

    Lipman et al. 2023, arXiv:2210.02747; its density is the integral of the field's divergence, exact up to the solver's tolerance.
    """

    def loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Return the squared error of the velocity at a random time, shape ``(n,)``."""
        location, log_scale = self.locate(context)
        # The location learns by the likelihood of a Gaussian; the field sees it as it is.
        x = (z - location) * torch.exp(-log_scale)
        gaussian = 0.5 * x.square().sum(-1) + log_scale.expand_as(x).sum(-1)
        data, noise = x.detach(), torch.randn_like(x)
        # zuko's transform goes from data at time 0 to the base at time 1.
        t = torch.rand(len(x), device=x.device, dtype=x.dtype)
        path = (1 - t[:, None]) * data + t[:, None] * noise
        error = self.flow.transform.f(t, path, context) - (noise - data)
        regression = error.square().sum(-1)
        return regression if self.head is None else regression + gaussian


def _scale(value: Any) -> Any:
    """TOML has no null: true stands for the usual bounds, false for none."""
    return (Scale() if value else None) if isinstance(value, bool) else value


Located = Annotated[Scale | None, BeforeValidator(_scale)]


class _FlowConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    located: Located = Field(None, description="the context gives a location and a scale first")


class _Mixture(nn.Module):
    """Mixture of Gaussians that no context moves."""

    def __init__(self, n_labels: int, components: int) -> None:
        super().__init__()
        self.gmm = zuko.mixtures.GMM(n_labels, components=components)

    def forward(self, _: Tensor) -> torch.distributions.Distribution:
        """Return the distribution."""
        return self.gmm()


class MAF(_FlowConfig):
    """Masked autoregressive flow of affine transforms over a mixture of Gaussians that no context moves."""

    kind: Literal["maf"] = "maf"
    transforms: int = Field(15, gt=0, le=MOST_LAYERS)
    hidden: Hidden = (256,)
    components: int = Field(4, gt=0, le=MOST_UNITS, description="Gaussians of the base")

    def build(self, n_labels: int, n_context: int) -> ConditionalFlow:
        """Return the flow."""
        flow = zuko.flows.MAF(
            n_labels, n_context, transforms=self.transforms, hidden_features=self.hidden, randperm=False
        )
        if self.components > 1:
            flow.base = _Mixture(n_labels, self.components)
        return ConditionalFlow(flow, n_labels, n_context, self.located)


class MixtureMAF(BaseModel):
    """Masked autoregressive flow that ends in a mixture of Gaussians; that of Gupta et al. 2024 by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["maf-mixture"] = "maf-mixture"
    transforms: int = Field(15, gt=1, le=MOST_LAYERS, description="the mixture's included")
    hidden: Hidden = Field((256, 256), min_length=1)
    components: int = Field(4, gt=0, le=MOST_UNITS, description="Gaussians of the mixture")
    clamp: float = Field(1.0, gt=0, le=20, description="bound of each transform's log scales")
    seed: int = Field(3, ge=0, lt=2**31, description="of the permutations between transforms")

    @property
    def fewest_weights(self) -> int:
        """Number of weights between hidden layers, and from the last of the mixture to its Gaussians."""
        between = sum(a * b for a, b in itertools.pairwise(self.hidden))
        return self.transforms * between + 3 * self.components * self.hidden[-1]

    def build(self, n_labels: int, n_context: int) -> MixtureFlow:
        """Return the flow.

        Raises
        ------
        ConfigError
            If there is one label.
        """
        return MixtureFlow(
            n_labels, n_context, self.transforms, self.hidden, self.components, self.clamp, self.seed
        )


class NSF(_FlowConfig):
    """Neural spline flow: autoregressive, or by coupling (one pass each way, faster draws)."""

    kind: Literal["nsf", "coupling"] = "nsf"
    transforms: int = Field(4, gt=0, le=MOST_LAYERS)
    bins: int = Field(8, gt=1, le=1024)
    hidden: Hidden = (192, 192)
    located: Located = Scale()

    def build(self, n_labels: int, n_context: int) -> ConditionalFlow:
        """Return the flow."""
        passes = None if self.kind == "nsf" or n_labels == 1 else 2
        # zuko's NSF, with splines of our own.
        flow = zuko.flows.MAF(
            n_labels,
            n_context,
            transforms=self.transforms,
            univariate=Spline,
            shapes=[(self.bins,), (self.bins,), (self.bins - 1,)],
            hidden_features=self.hidden,
            passes=passes,
            randperm=False,
        )
        return ConditionalFlow(flow, n_labels, n_context, self.located)


class Matching(_FlowConfig):
    """Flow matching."""

    kind: Literal["flow-matching"] = "flow-matching"
    hidden: Hidden = (256, 256, 256)
    frequencies: int = Field(4, gt=0, le=MOST_UNITS, description="of the embedding of time")
    located: Located = Scale()

    def build(self, n_labels: int, n_context: int) -> ConditionalFlow:
        """Return the flow."""
        flow = zuko.flows.CNF(n_labels, n_context, hidden_features=self.hidden, freqs=self.frequencies)
        return FlowMatching(flow, n_labels, n_context, self.located)


FlowConfig = Annotated[MAF | MixtureMAF | NSF | Matching, Field(discriminator="kind")]
