"""The inverse of masked autoregressive transforms, for many draws of many spectra, in one pass.

zuko inverts a transform of d labels by d evaluations of the whole network, context included, for every draw. Two facts save nine tenths
of that: what the context adds to the first layer is the same for all draws of a spectrum; and a hidden unit can be computed, once, as
soon as the labels that it may look at are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import zuko
from torch import Tensor, nn
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.nn import MaskedLinear
from zuko.transforms import Transform


def transforms_of(flow: zuko.flows.Flow) -> list[MaskedAutoregressiveTransform] | None:
    """Return a flow's transforms, from data to base; None unless all are masked autoregressive with a plain network."""
    found = list(getattr(flow.transform, "transforms", ()))
    return found if found and all(map(_is_plain, found)) else None


def _is_plain(transform: nn.Module) -> bool:
    return (
        isinstance(transform, MaskedAutoregressiveTransform)
        and transform.order is not None
        and all(isinstance(m, MaskedLinear | nn.ReLU) for m in transform.hyper)
    )


@dataclass(frozen=True)
class _Layer:
    """Weights ``(n_out, n_in)`` with units in the order in which they can be computed; ``ready[p]`` of them can be at pass p."""

    weight: Tensor
    bias: Tensor
    ready: Sequence[int]


@dataclass(frozen=True)
class Autoregressive:
    """One transform, for spectra with contexts of their own.

    Attributes
    ----------
    transform
        zuko's.
    layers
        Of its network, hidden ones first; of the first the columns of the labels alone.
    from_context
        What the contexts add to the first layer, shape ``(n_spectra, 1, n_hidden)``.
    labels
        Places of the labels that pass p finds.
    """

    transform: MaskedAutoregressiveTransform
    layers: Sequence[_Layer]
    from_context: Tensor
    labels: Sequence[Tensor]

    @classmethod
    def of(cls, transform: MaskedAutoregressiveTransform, context: Tensor) -> Autoregressive:
        """Prepare a transform for contexts ``(n_spectra, n_context)``."""
        order, passes = transform.order, transform.passes
        d = len(order)
        linear = [m for m in transform.hyper if isinstance(m, MaskedLinear)]
        # The pass at which each input of a layer is known, counted from 1 on; 0: from the start.
        known = order + 1
        layers: list[_Layer] = []
        place = torch.arange(d, device=order.device)
        from_context = context.new_zeros(len(context), 1, 1)
        for i, layer in enumerate(linear):
            weight = layer.mask * layer.weight
            mask = layer.mask[:, :d] if i == 0 else layer.mask
            ready = (mask * known).amax(1)
            last = i == len(linear) - 1
            # Parameters stay in their order: label after label.
            rows = torch.arange(len(ready), device=ready.device) if last else ready.argsort(stable=True)
            if i == 0:
                from_context = (context @ weight[rows, d:].T)[:, None]
                weight = weight[:, :d]
            counts = [int((ready <= p).sum()) for p in range(passes)]
            layers.append(_Layer(weight[rows][:, place], layer.bias[rows], counts))
            known, place = ready, rows
        found = [(order == p).nonzero()[:, 0] for p in range(passes)]
        return cls(transform, layers, from_context, found)

    def _univariate(self, parameters: Tensor) -> Transform:
        """Monotonic transforms ``(...,)`` of parameters ``(..., total)``."""
        split = parameters.split([math.prod(shape) for shape in self.transform.shapes], dim=-1)
        shaped = [
            p.unflatten(-1, s) if s else p[..., 0] for p, s in zip(split, self.transform.shapes, strict=True)
        ]
        return self.transform.univariate(*shaped)

    def inverse(self, y: Tensor) -> Tensor:
        """From the base: values ``(n_spectra, n, d)`` of ``y`` of the same shape."""
        x = torch.zeros_like(y)
        hidden = [y.new_zeros(*y.shape[:-1], len(layer.bias)) for layer in self.layers[:-1]]
        total = self.transform.total
        for p, labels in enumerate(self.labels):
            before = x
            for i, layer in enumerate(self.layers[:-1]):
                new = slice(layer.ready[p - 1] if p else 0, layer.ready[p])
                if new.start < new.stop:
                    # Inputs that are not known yet have weight 0 here.
                    n = before.shape[-1] if i == 0 else self.layers[i - 1].ready[p]
                    unit = nn.functional.linear(before[..., :n], layer.weight[new, :n], layer.bias[new])
                    if i == 0:
                        unit = unit + self.from_context[..., new]
                    hidden[i][..., new] = unit.relu_()
                before = hidden[i]
            last = self.layers[-1]
            n = self.layers[-2].ready[p] if len(self.layers) > 1 else before.shape[-1]
            rows = (labels[:, None] * total + torch.arange(total, device=labels.device)).flatten()
            parameters = nn.functional.linear(before[..., :n], last.weight[rows, :n], last.bias[rows])
            if len(self.layers) == 1:
                parameters = parameters + self.from_context[..., rows]
            univariate = self._univariate(parameters.unflatten(-1, (len(labels), total)))
            x[..., labels] = univariate.inv(y[..., labels])
        return x
