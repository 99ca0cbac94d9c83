"""What featurizers and flows there are, and their sizes: the ``[network]`` table of a training's configuration."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maury.errors import ConfigError, ModelError
from maury.likelihood.continuum import DEGREE
from maury.likelihood.problem import Problem
from maury.networks.aligned import AlignedFeaturizer
from maury.networks.context import Context
from maury.networks.flows import MOST_LAYERS, MOST_UNITS, NSF, OF_LAPLACE, FlowConfig, MixtureMAF
from maury.networks.paper import PaperFeaturizer, scales_of
from maury.networks.plain import Inputs, Normalise, PlainFeaturizer, Used
from maury.networks.prepare import Preparation, build_preparation, network_ranges, simulated_average
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
    trust_code
        Whether a module of the user's may be imported by its dotted name, which runs its code.
    module
        A module of the user's, in place of what would be imported.
    """

    problem: Problem | None
    n_pixels: int
    tensors: Mapping[str, Tensor] | None = None
    seed: int = 0
    trust_code: bool = False
    module: type[nn.Module] | None = None

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
    components: int = Field(40, gt=0, le=MOST_UNITS)
    width: int = Field(512, gt=0, le=MOST_UNITS)
    blocks: int = Field(4, ge=0, le=MOST_LAYERS)
    features: int = Field(128, gt=0, le=MOST_UNITS)
    velocity_width: float = Field(
        1.0, gt=0, description="km/s below which the flow's velocity coordinate is linear"
    )

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        return self.blocks * self.width**2

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
    """`Aligned`, then Gauss-Newton steps of the forward model, seen through the spectrum's own profile, and the posterior there."""

    kind: Literal["score"] = "score"
    aligned: Aligned = Aligned()
    steps: int = Field(
        3, gt=0, le=MOST_LAYERS, description="most steps; a spectrum whose step was short takes no other"
    )
    nuisances: str = Field(
        "default",
        description="what steps integrate out beside the continuum, by name; all that the model has",
    )
    features: int = Field(32, gt=0, le=MOST_UNITS)
    width: int = Field(128, gt=0, le=MOST_UNITS)
    blocks: int = Field(1, ge=0, le=MOST_LAYERS)

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        return self.aligned.fewest_weights + self.blocks * self.width**2

    def build(self, setting: Setting) -> ScoreFeaturizer:
        """Return the featurizer."""
        aligned = self.aligned.build(setting, "featurizer.aligned.")
        problem = setting.spectra(self.kind)
        return ScoreFeaturizer(
            aligned, problem, self.steps, self.nuisances, self.features, self.width, self.blocks
        )


class _Plain(_Config):
    features: int = Field(256, gt=0, le=MOST_UNITS)
    inputs: Inputs = "flux+ivar+mask"

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        return 0

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return 1 if self.inputs == "flux" else 3

    def _network(self, n_pixels: int, setting: Setting | None = None) -> nn.Module:
        raise NotImplementedError

    def build(self, setting: Setting) -> PlainFeaturizer:
        """Return the featurizer."""
        normalise = setting.normalise()
        n_pixels = setting.n_pixels if normalise is None else normalise.n_pixels
        return PlainFeaturizer(self._network(n_pixels, setting), self.features, self.inputs, normalise)


class ResNet(_Plain):
    """Strided residual blocks and GRU: a faster relative of `PaperNetwork`."""

    kind: Literal["resnet-gru"] = "resnet-gru"
    inputs: Inputs = "flux"
    depth: int = Field(8, ge=0, le=MOST_LAYERS)
    width: int = Field(32, gt=0, le=MOST_UNITS)
    most: int = Field(512, gt=0, le=MOST_UNITS)
    stride: int = Field(2, gt=0, le=MOST_UNITS)
    layers: int = Field(2, gt=0, le=MOST_LAYERS)

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        sizes = [min(self.width * 2**i, self.most) for i in range(self.depth)]
        return sum(size**2 for size in sizes) + self.layers * self.features**2

    def _network(self, n_pixels: int, setting: Setting | None = None) -> nn.Module:
        return ResNetGRU(
            self.n_channels, self.features, self.depth, self.width, self.most, self.stride, self.layers
        )


class PaperNetwork(_Config):
    """Featurizer of Gupta et al. 2024, as nbi 0.4 builds it: 18.6 million weights with their flow (`maury.networks.flows.MixtureMAF`).

    It is given the flux alone, in units of the continuum where that is known, scaled as nbi scales it.
    """

    kind: Literal["paper"] = "paper"
    features: int = Field(256, gt=0, le=MOST_UNITS)
    depth: int = Field(
        8, ge=0, le=16, description="stages of two residual blocks; 0: the series goes to the GRU"
    )
    width: int = Field(32, gt=0, le=MOST_UNITS)
    most: int = Field(512, gt=0, le=MOST_UNITS)
    layers: int = Field(2, gt=0, le=MOST_LAYERS)
    dropout: float = Field(0.0, ge=0, lt=1, description="between GRU layers, in training")

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        sizes = [min(self.width * 2**i, self.most) for i in range(self.depth)]
        state = sizes[-1] if sizes else self.most
        return 9 * sum(size**2 for size in sizes) + 3 * self.layers * state**2

    def build(self, setting: Setting) -> PlainFeaturizer:
        """Return the featurizer; its input's scales are computed from simulations, or taken from the weights that are loaded."""
        problem, scales = setting.problem, (0.0, 1.0)
        prepare: Normalise | Used | None = setting.normalise()
        if problem is not None and prepare is not None:
            if problem.degree is None:
                wavelength = problem.spectrograph.grid.wavelength
                prepare = Used(torch.from_numpy(problem.forward.usable(wavelength, problem.labels)))
            # Those of a file come with its weights.
            if setting.tensors is None:
                scales = scales_of(simulated_average(problem, prepare, setting.seed))
        network = PaperFeaturizer(
            self.features, self.depth, self.width, self.most, self.layers, self.dropout, scales
        )
        return PlainFeaturizer(network, self.features, "flux", prepare)


class Transformer(_Plain):
    """Attention over patches."""

    kind: Literal["transformer"] = "transformer"
    patch: int = Field(32, gt=0, le=MOST_UNITS)
    width: int = Field(128, gt=0, le=MOST_UNITS)
    layers: int = Field(4, gt=0, le=MOST_LAYERS)
    heads: int = Field(4, gt=0, le=MOST_UNITS)
    positions: Literal["rotary", "learned"] = "rotary"

    @property
    def fewest_weights(self) -> int:
        """Number of weights of the square layers."""
        return 12 * self.layers * self.width**2

    def _network(self, n_pixels: int, setting: Setting | None = None) -> nn.Module:
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
    """A module of the user's, by dotted name; called as ``name(n_pixels=, n_features=, **options)``.

    Importing runs code. No file that was loaded can ask for that: the name is imported where the caller trusts it, or the class is given.
    """

    kind: Literal["module"] = "module"
    path: str = Field(description="such as my_package.networks.MyNetwork")
    options: dict[str, Any] = {}

    def _network(self, n_pixels: int, setting: Setting | None = None) -> nn.Module:
        made: Any = None if setting is None else setting.module
        if made is None:
            if setting is None or not setting.trust_code:
                raise ModelError(
                    f"featurizer.path: {self.path!r} is code of its own, which is not run unasked; if you know and trust it, "
                    "add --trust-code, or pass the class: load_model(..., module=MyNetwork)"
                )
            made = self._imported()
        if not (isinstance(made, type) and issubclass(made, nn.Module)):
            raise ConfigError(f"featurizer.path: {self.path} is no subclass of torch.nn.Module")
        try:
            return made(n_pixels=n_pixels, n_features=self.features, **self.options)
        except Exception as error:
            raise ConfigError(f"featurizer.path: {self.path} cannot be made ({error})") from None

    def _imported(self) -> Any:
        where, _, name = self.path.rpartition(".")
        try:
            return getattr(importlib.import_module(where), name)
        except Exception as error:
            raise ConfigError(f"featurizer.path: {self.path!r} cannot be imported ({error})") from None


FeaturizerConfig = Annotated[
    Aligned | Score | PaperNetwork | ResNet | Transformer | Module, Field(discriminator="kind")
]


class NetworkConfig(_Config):
    """Featurizer and flow."""

    featurizer: FeaturizerConfig = Aligned()
    flow: FlowConfig = NSF()
    defensive: float = Field(
        1e-3, gt=0, lt=1, description="weight of the reference density mixed into the flow"
    )

    @property
    def fewest_weights(self) -> int:
        """Number of weights that the network has at least: what its square layers hold."""
        if isinstance(self.flow, MixtureMAF):
            return self.featurizer.fewest_weights + self.flow.fewest_weights
        flow = sum(a * b for a, b in itertools.pairwise(getattr(self.flow, "hidden", ())))
        return self.featurizer.fewest_weights + flow * getattr(self.flow, "transforms", 1)

    @classmethod
    def of_kind(cls, featurizer: str) -> NetworkConfig:
        """Return the usual network with a featurizer, by name."""
        # In coordinates of the posterior's Gaussian little is left to be carried.
        flow = NSF(transforms=2, hidden=(64, 64), located=OF_LAPLACE) if featurizer == "score" else NSF()
        return cls.model_validate({"featurizer": {"kind": featurizer}, "flow": flow})
