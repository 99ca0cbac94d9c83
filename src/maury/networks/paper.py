"""The network of Gupta et al. 2024, as the package `nbi` 0.4 builds it: residual blocks and GRU, then a masked autoregressive flow.

*Bayesian Inference on Stellar Spectra with Flow-based Model* (Gupta, Liu, Vazquez-Segovia, Wei & Zhu 2024) takes both from nbi (Zhang et
al. 2023, arXiv:2312.03824). What is written here is another program with the same weights: copied from nbi's modules, they give the same
features, densities and draws (``tests/networks/test_paper.py``, where nbi is installed).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from maury.errors import ConfigError


class _Block(nn.Module):
    """Two convolutions of three pixels, each rectified, beside a path that leaves the length as it is."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(n_in, n_out, 3, padding=1))
        self.second = weight_norm(nn.Conv1d(n_out, n_out, 3, padding=1))
        self.skip = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_in, length)`` to ``(n, n_out, length)``."""
        inner = torch.relu(self.second(torch.relu(self.first(x))))
        return inner + self.skip(x)


class PaperFeaturizer(nn.Module):
    """Residual blocks from full resolution on, halved by max-pooling between stages, and GRU layers over what is left.

    Parameters
    ----------
    n_features
        Length of the output.
    depth
        Stages of two blocks each; 0 gives the series itself to the GRU.
    width, most
        Channels of the first stage, which double from stage to stage, and the most of any. Without stages ``most`` is the GRU's size.
    layers
        GRU layers, each as wide as the last stage.
    dropout
        Between GRU layers, while it is trained.
    scales
        Mean and scale of the input.
    """

    scales: Tensor

    def __init__(
        self,
        n_features: int = 256,
        depth: int = 8,
        width: int = 32,
        most: int = 512,
        layers: int = 2,
        dropout: float = 0.0,
        scales: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32))
        stages: list[nn.Module] = []
        n_in, n_out = 1, 1
        for stage in range(depth):
            n_out = min(width * 2**stage, most)
            if stage:
                stages.append(nn.MaxPool1d(2))
            stages += [_Block(n_in, n_out), _Block(n_out, n_out)]
            n_in = n_out
        self.stages = nn.Sequential(*stages)
        self.gru = nn.GRU(n_in, n_out if depth else most, layers, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(self.gru.hidden_size, n_features)

    def forward(self, flux: Tensor) -> Tensor:
        """Features ``(n, n_features)`` of series ``(n, length)``."""
        mean, scale = self.scales
        x = self.stages(((flux - mean) / scale)[:, None])
        _, states = self.gru(x.permute(2, 0, 1))
        features: Tensor = self.out(states[-1])
        return features


def scales_of(average: Tensor) -> tuple[float, float]:
    """Mean of an average spectrum ``(n_pixels,)``, and its scatter along wavelength: by what nbi scales its input.

    The average over stars of all velocities is smooth, so that this scale is smaller than the depth of a line.
    """
    average = average.double()
    scale = float(average.std(correction=0))
    return float(average.mean()), scale if scale > 0 else 1.0


def _degrees(n_labels: int, hidden: tuple[int, ...], n_out: int) -> list[Tensor]:
    """Degrees of inputs, hidden units and outputs: a unit sees units of the layer before of its own degree or less."""
    inside = [torch.arange(n) % (n_labels - 1) for n in hidden]
    return [torch.arange(n_labels), *inside, torch.arange(n_out * n_labels) % n_labels - 1]


class _Masked(nn.Module):
    """A linear layer some of whose weights are held at 0, beside what a context adds.

    Masks are nothing that is learned or saved: they follow from the sizes.
    """

    mask: Tensor

    def __init__(self, before: Tensor, after: Tensor, n_context: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(len(before), len(after))
        self.of_context = nn.Linear(n_context, len(after), bias=False) if n_context else None
        self.register_buffer("mask", (after[:, None] >= before).float(), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        out = nn.functional.linear(x, self.mask * self.linear.weight, self.linear.bias)
        return out if self.of_context is None else out + self.of_context(context)


class _Made(nn.Module):
    """Numbers for each label from the labels before it and the context, ``(..., n_out, n_labels)`` (Germain et al. 2015).

    The context enters the first layer alone, and no hidden unit is of a degree that the first label may see: what is told of that one
    does not depend on the context. Permutations between transforms take care that each label is first in few of them.
    """

    def __init__(self, n_labels: int, n_context: int, hidden: tuple[int, ...], n_out: int) -> None:
        super().__init__()
        self.n_out = n_out
        degrees = _degrees(n_labels, hidden, n_out)
        self.layers = nn.ModuleList(
            _Masked(a, b, 0 if i else n_context) for i, (a, b) in enumerate(itertools.pairwise(degrees))
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(torch.relu(x)) if i else layer(x, context)
        return x.unflatten(-1, (self.n_out, -1))


class MixtureFlow(nn.Module):
    """Masked autoregressive transforms, the last of which ends in a mixture of Gaussians for each label.

    An affine transform takes label x to ``(x - m) exp(-a)``; m and a come from the labels before it. The last has several such pairs and
    a weight for each, and the density of a label is the sum over them.

    Parameters
    ----------
    n_labels, n_context
        Dimensions of the density and of its context.
    transforms
        Of all, the last included.
    hidden
        Sizes of the hidden layers of each.
    components
        Gaussians of the mixture.
    clamp
        Bound of log scales, both ways.
    seed
        Of the permutations.

    Raises
    ------
    ConfigError
        If there is one label: the context would not reach it.
    """

    order: Tensor

    def __init__(
        self,
        n_labels: int,
        n_context: int,
        transforms: int = 15,
        hidden: tuple[int, ...] = (256, 256),
        components: int = 4,
        clamp: float = 1.0,
        seed: int = 3,
    ) -> None:
        super().__init__()
        if n_labels == 1:
            raise ConfigError("flow 'maf-mixture': needs two labels or more; choose 'nsf' or 'maf' for one")
        self.n_labels, self.components, self.clamp = n_labels, components, clamp
        self.affine = nn.ModuleList(_Made(n_labels, n_context, hidden, 2) for _ in range(transforms - 1))
        self.mixture = _Made(n_labels, n_context, hidden, 3 * components)
        # nbi's own: numpy's old generator, a seed a transform, and one left out before the last.
        seeds = [*(seed + i for i in range(transforms - 1)), seed + transforms]
        order = [np.random.RandomState(one).permutation(n_labels) for one in seeds]
        self.register_buffer("order", torch.from_numpy(np.stack(order)).long())
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def n_base(self) -> int:
        """Normal numbers that a draw takes: one a label, and one by which its Gaussian of the mixture is chosen."""
        return 2 * self.n_labels

    def _mixture(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log scales and log weights, each ``(..., components, n_labels)``."""
        # Of each component mean, log scale and weight side by side.
        found = self.mixture(x, context).unflatten(-2, (self.components, 3))
        mean, log_scale, weight = found.unbind(-2)
        return mean, log_scale.clamp(-self.clamp, self.clamp), weight.log_softmax(-2)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, of ``z (n, n_labels)`` given ``context (n, n_context)``."""
        log_det = z.new_zeros(len(z))
        for made, order in zip(self.affine, self.order[:-1], strict=True):
            z = z[:, order]
            mean, log_scale = made(z, context).unbind(-2)
            log_scale = log_scale.clamp(-self.clamp, self.clamp)
            z = (z - mean) * torch.exp(-log_scale)
            log_det = log_det - log_scale.sum(-1)
        z = z[:, self.order[-1]]
        mean, log_scale, log_weight = self._mixture(z, context)
        x = (z[:, None] - mean) * torch.exp(-log_scale)
        each = log_weight - log_scale - 0.5 * x.square() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(each, 1).sum(-1) + log_det

    def loss(self, z: Tensor, context: Tensor) -> Tensor:
        """Return what training minimises, shape ``(n,)``: the negative log density."""
        return -self.log_prob(z, context)

    def base(self, n: int, even: bool = False) -> Tensor:
        """Draw ``(n, n_base)`` by torch's global random state; components are chosen among, so that draws cannot be spread evenly."""
        return torch.randn(n, self.n_base)

    def push(self, base: Tensor, context: Tensor) -> Tensor:
        """Take draws of the base ``(n_spectra, n, n_base)`` to draws given contexts ``(n_spectra, n_context)``."""
        context = context[:, None]
        normal, choice = base.split(self.n_labels, dim=-1)
        chosen = torch.special.ndtr(choice.double())
        z = torch.zeros_like(normal)
        for i in range(self.n_labels):
            mean, log_scale, log_weight = (found[..., i] for found in self._mixture(z, context))
            below = log_weight.double().exp().cumsum(-1)
            place = (below < chosen[..., i : i + 1]).sum(-1, keepdim=True).clamp_max(self.components - 1)
            mean, log_scale = (found.gather(-1, place)[..., 0] for found in (mean, log_scale))
            z[..., i] = mean + torch.exp(log_scale) * normal[..., i]
        z = z[..., self.order[-1].argsort()]
        for made, order in zip(list(self.affine)[::-1], self.order[:-1].flip(0), strict=True):
            x = torch.zeros_like(z)
            for i in range(self.n_labels):
                mean, log_scale = made(x, context)[..., i].unbind(-1)
                x[..., i] = mean + torch.exp(log_scale.clamp(-self.clamp, self.clamp)) * z[..., i]
            z = x[..., order.argsort()]
        return z

    def sample(self, n: int, context: Tensor) -> Tensor:
        """Draw ``(n, n_labels)`` given one context ``(n_context,)``; uses torch's global random state."""
        return self.push(self.base(n)[None].to(context), context[None])[0]
