"""What featurizers and flows there are, and their sizes: the ``[network]`` table of a training's configuration."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maury.errors import ConfigError, ModelError
from maury.likelihood.problem import Problem
from maury.networks.aligned import AlignedFeaturizer
from maury.networks.context import Context
from maury.networks.flows import NSF, OF_LAPLACE, FlowConfig
from maury.networks.plain import Inputs, Normalise, PlainFeaturizer
from maury.networks.prepare import DEGREE, Preparation, build_preparation, network_ranges
from maury.networks.resnet_gru import ResNetGRU
from maury.networks.score import ScoreFeaturizer
from maury.networks.transformer import SpectrumTransformer
from maury.priors import Uniform


class Featurizer(Protocol):
    """Any module that turns spectra and their inverse variances into the context of a flow.

    ``n_features`` is the length of the context's features.
    """

    n_features: int

    def __call__(self, flux: Tensor, ivar: Tensor) -> Context:
        """Context of spectra ``(n, n_pixels)``; pixels of inverse variance 0 are masked."""


@dataclass(frozen=True)
class Setting:
    """What featurizers are built for.

    Attributes
    ----------
    problem
        What is inferred; None for data that are no spectra.
    n_pixels
        Length of the data.
    tensors
        Weights of an estimator that is being loaded; None if it is new.
    seed
        Of what is computed from simulations.
    """

    problem: Problem | None
    n_pixels: int
    tensors: Mapping[str, Tensor] | None = None
    seed: int = 0

    def spectra(self, kind: str) -> Problem:
        """Return the problem.

        Raises
        ------
        ConfigError
            If there is none.
        """
        if self.problem is None:
            raise ConfigError(f"featurizer {kind!r}: needs the forward model of a spectrum")
        return self.problem

    def normalise(self) -> Normalise | None:
        """Return the common preparation of plain networks; None for data that are no spectra."""
        if self.problem is None:
            return None
        ranges = network_ranges(self.problem.forward.emulator, self.problem.spectrograph)
        return Normalise(ranges, DEGREE if self.problem.degree is None else self.problem.degree)


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Aligned(_Config):
    """Spectra cross-correlated, taken to rest, and read by a residual network."""

    kind: Literal["aligned"] = "aligned"
    components: int = Field(40, gt=0)
    width: int = Field(512, gt=0)
    blocks: int = Field(4, ge=0)
    features: int = Field(128, gt=0)
    velocity_width: float = Field(
        1.0, gt=0, description="km/s below which the flow's velocity coordinate is linear"
    )

    def build(self, setting: Setting, prefix: str = "featurizer.") -> AlignedFeaturizer:
        """Return the featurizer; its preparation is computed, or taken from the weights that are loaded."""
        problem = setting.spectra(self.kind)
        v_rad = problem.labels["v_rad"].prior
        if not isinstance(v_rad, Uniform):
            raise ModelError("an estimator that aligns spectra needs a uniform prior of v_rad")
        if setting.tensors is None:
            preparation = build_preparation(problem, n_components=self.components, seed=setting.seed)
        else:
            saved = [
                setting.tensors[f"{prefix}preparation.{name}"]
                for name in ("templates", "mean", "components", "scale")
            ]
            preparation = Preparation(
                network_ranges(problem.forward.emulator, problem.spectrograph),
                setting.n_pixels,
                problem.spectrograph.layout.log10_step * math.log(10),
                saved[0],
                saved[1],
                saved[2],
                saved[3],
                (v_rad.low, v_rad.high),
                problem.degree,
            )
        names = problem.stellar.names
        inferred = "v_rad" in names
        return AlignedFeaturizer(
            preparation,
            self.features,
            self.width,
            self.blocks,
            v_rad if inferred else None,
            names.index("v_rad") if inferred else 0,
            self.velocity_width,
        )


class Score(_Config):
    """`Aligned`, then Gauss-Newton steps of the forward model and the information there."""

    kind: Literal["score"] = "score"
    aligned: Aligned = Aligned()
    steps: int = Field(4, gt=0, description="most steps; a spectrum whose step was short takes no other")

    def build(self, setting: Setting) -> ScoreFeaturizer:
        """Return the featurizer."""
        aligned = self.aligned.build(setting, "featurizer.aligned.")
        return ScoreFeaturizer(aligned, setting.spectra(self.kind), self.steps)


class _Plain(_Config):
    features: int = Field(256, gt=0)
    inputs: Inputs = "flux+ivar+mask"

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return 1 if self.inputs == "flux" else 3

    def _network(self, n_pixels: int) -> nn.Module:
        raise NotImplementedError

    def build(self, setting: Setting) -> PlainFeaturizer:
        """Return the featurizer."""
        normalise = setting.normalise()
        n_pixels = setting.n_pixels if normalise is None else normalise.n_pixels
        return PlainFeaturizer(self._network(n_pixels), self.features, self.inputs, normalise)


class PaperNetwork(_Plain):
    """ResNet and GRU, as in the paper."""

    kind: Literal["resnet-gru"] = "resnet-gru"
    inputs: Inputs = "flux"
    depth: int = Field(8, ge=0)
    width: int = Field(32, gt=0)
    most: int = Field(512, gt=0)
    stride: int = Field(2, gt=0)
    layers: int = Field(2, gt=0)

    def _network(self, n_pixels: int) -> nn.Module:
        return ResNetGRU(
            self.n_channels, self.features, self.depth, self.width, self.most, self.stride, self.layers
        )


class Transformer(_Plain):
    """Attention over patches."""

    kind: Literal["transformer"] = "transformer"
    patch: int = Field(32, gt=0)
    width: int = Field(128, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    positions: Literal["rotary", "learned"] = "rotary"

    def _network(self, n_pixels: int) -> nn.Module:
        if self.width % (2 * self.heads):
            raise ConfigError(f"width / heads must be even, not {self.width} / {self.heads}")
        return SpectrumTransformer(
            n_pixels,
            self.n_channels,
            self.features,
            self.patch,
            self.width,
            self.layers,
            self.heads,
            self.positions,
        )


class Module(_Plain):
    """A module of the user's, by dotted name; called as ``name(n_pixels=, n_features=, **options)``."""

    kind: Literal["module"] = "module"
    path: str = Field(description="such as my_package.networks.MyNetwork")
    options: dict[str, Any] = {}

    def _network(self, n_pixels: int) -> nn.Module:
        where, _, name = self.path.rpartition(".")
        try:
            made = getattr(importlib.import_module(where), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"featurizer.path: {self.path!r} cannot be imported ({error})") from None
        try:
            network = made(n_pixels=n_pixels, n_features=self.features, **self.options)
        except TypeError as error:
            raise ConfigError(f"featurizer.path: {self.path} cannot be made ({error})") from None
        if not isinstance(network, nn.Module):
            raise ConfigError(f"featurizer.path: {self.path} made no torch.nn.Module")
        return network


FeaturizerConfig = Annotated[
    Aligned | Score | PaperNetwork | Transformer | Module, Field(discriminator="kind")
]


class NetworkConfig(_Config):
    """Featurizer and flow."""

    featurizer: FeaturizerConfig = Aligned()
    flow: FlowConfig = NSF()
    defensive: float = Field(
        1e-3, gt=0, lt=1, description="weight of the reference density mixed into the flow"
    )

    @classmethod
    def of_kind(cls, featurizer: str) -> NetworkConfig:
        """Return the usual network with a featurizer, by name."""
        flow = NSF(located=OF_LAPLACE) if featurizer == "score" else NSF()
        return cls.model_validate({"featurizer": {"kind": featurizer}, "flow": flow})
