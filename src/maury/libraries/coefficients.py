"""From labels to the coefficients of principal components: a small network, or a Gaussian process on the library's nodes."""

from __future__ import annotations

import itertools
from typing import Protocol

import torch
from torch import Tensor, nn

from maury.libraries.elements import ElementProcess

# Sizes that a card may tell.
_MOST_UNITS, _MOST_LAYERS, _MOST_NODES = 8_192, 64, 20_000


class Coefficients(Protocol):
    """Any module from labels scaled to [-1, 1], ``(n, n_labels)``, to coefficients in units of their spread, ``(n, n_components)``."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coefficients."""

    def jacobian(self, x: Tensor) -> Tensor:
        """Return their slopes by each label, ``(n, n_labels, n_components)``."""

    def settings(self) -> dict[str, int | str]:
        """Return what it needs to be built again by `from_settings`."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return its tensors, as of `torch.nn.Module`."""


class LabelNetwork(nn.Module):
    """Multilayer perceptron from labels scaled to [-1, 1] to component coefficients in units of their spread."""

    def __init__(self, n_labels: int, n_components: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [n_labels] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.out = nn.Linear(width, n_components)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_labels)`` to ``(n, n_components)``."""
        for layer in self.hidden:
            x = nn.functional.silu(layer(x))
        return self.out(x)

    def jacobian(self, x: Tensor) -> Tensor:
        """Slopes by each label, ``(n, n_labels, n_components)``."""
        slopes = torch.eye(x.shape[1]).to(x).expand(len(x), -1, -1)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            before = layer(x)
            gate = torch.sigmoid(before)
            slopes = (slopes @ layer.weight.T) * (gate * (1 + before * (1 - gate)))[:, None]
            x = before * gate
        return slopes @ self.out.weight.T

    def settings(self) -> dict[str, int | str]:
        """Return what `LabelNetwork` needs to be built again."""
        return {"kind": "network", "width": self.out.in_features, "depth": len(self.hidden)}


def quadratics(x: Tensor) -> Tensor:
    """1, the labels, and their products, shape ``(n, 1 + d + d (d + 1) / 2)``, of ``x (n, d)``."""
    i, j = torch.triu_indices(x.shape[-1], x.shape[-1])
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j]], dim=-1)


def quadratic_slopes(x: Tensor) -> Tensor:
    """Slopes of `quadratics` by each label, shape ``(n, d, n_terms)``."""
    n, d = x.shape
    i, j = torch.triu_indices(d, d)
    one = torch.eye(d).to(x)
    products = x[:, None, i] * one[:, j] + x[:, None, j] * one[:, i]
    return torch.cat([torch.zeros(n, d, 1).to(x), one.expand(n, -1, -1), products], dim=-1)


class GaussianProcess(nn.Module):
    """Kriging with a quadratic trend: a Matern-5/2 process on nodes that may have holes.

    Parameters
    ----------
    n_labels, n_components, n_nodes
        Sizes; the tensors are filled by `fit` or from a file.

    Notes
    -----
    Rasmussen & Williams 2006, eq. 2.41-2.42 for the trend and 5.12 for the leave-one-out residuals.
    """

    nodes: Tensor
    log_length: Tensor
    log_nugget: Tensor
    trend: Tensor
    weights: Tensor
    error_weights: Tensor

    # Variance of the trend's coefficients: as good as unknown.
    TREND = 100.0

    def __init__(self, n_labels: int, n_components: int, n_nodes: int) -> None:
        super().__init__()
        n_trend = quadratics(torch.zeros(1, n_labels)).shape[1]
        self.register_buffer("nodes", torch.zeros(n_nodes, n_labels))
        self.register_buffer("log_length", torch.zeros(n_labels))
        self.register_buffer("log_nugget", torch.zeros(()))
        self.register_buffer("trend", torch.zeros(n_trend, n_components))
        self.register_buffer("weights", torch.zeros(n_nodes, n_components))
        self.register_buffer("error_weights", torch.zeros(n_nodes + 1))
        self._inverse: Tensor | None = None

    def settings(self) -> dict[str, int | str]:
        """Return what `GaussianProcess` needs to be built again."""
        return {"kind": "gaussian-process", "nodes": len(self.nodes)}

    def kernel(self, x: Tensor) -> Tensor:
        """Correlation of points ``(n, d)`` with the nodes, shape ``(n, n_nodes)``."""
        scale = torch.exp(-self.log_length).to(x)
        difference = (x[:, None] * scale) - (self.nodes.to(x) * scale)
        # The tiny constant keeps the derivative finite at a node.
        r = (5 * difference.square().sum(-1) + 1e-12).sqrt()
        return (1 + r + r.square() / 3) * torch.exp(-r)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_labels)`` to ``(n, n_components)``."""
        return quadratics(x) @ self.trend + self.kernel(x) @ self.weights

    def jacobian(self, x: Tensor) -> Tensor:
        """Slopes by each label, ``(n, n_labels, n_components)``."""
        scale = torch.exp(-self.log_length).to(x)
        difference = (x[:, None] - self.nodes.to(x)) * scale
        r = (5 * difference.square().sum(-1) + 1e-12).sqrt()
        # d k / d r^2 = -(1 + r) exp(-r) / 6.
        by_square = -5 / 3 * (1 + r) * torch.exp(-r)
        kernel = (by_square[..., None] * difference * scale).mT
        return quadratic_slopes(x) @ self.trend + kernel @ self.weights

    def covariance(self) -> Tensor:
        """Prior covariance of the nodes with trend and nugget, float64, shape ``(n_nodes, n_nodes)``."""
        nodes = self.nodes.double()
        phi = quadratics(nodes)
        noise = self.nugget * torch.eye(len(nodes), dtype=torch.float64, device=nodes.device)
        return self.kernel(nodes) + self.TREND * phi @ phi.T + noise

    @property
    def nugget(self) -> Tensor:
        """Variance of what is not smooth, in units of the process's own; never so small that the covariance cannot be inverted."""
        return torch.exp(self.log_nugget.double()) + 1e-6

    def spread(self, x: Tensor) -> Tensor:
        """Predictive standard deviation in units of the process's own, float64, shape ``(n,)``."""
        if self._inverse is None or self._inverse.device != x.device:
            with torch.no_grad():
                self._inverse = torch.linalg.inv(self.covariance()).to(x.device)
        x = x.double()
        phi, nodes = quadratics(x), self.nodes.double()
        cross = self.kernel(x) + self.TREND * phi @ quadratics(nodes).T
        prior = 1 + self.TREND * phi.square().sum(1)
        return (prior - ((cross @ self._inverse) * cross).sum(1)).clamp_min(1e-12).sqrt()

    def error(self, x: Tensor) -> Tensor:
        """Return the expected rms error of the flux, shape ``(n,)``: the spread, scaled as the leave-one-out residuals nearby ask for."""
        level = self.error_weights[-1] + self.kernel(x.to(self.nodes)) @ self.error_weights[:-1]
        return torch.exp(level) * self.spread(x).to(level)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Matrix that takes node values to their leave-one-out residuals ``(n_nodes, n_nodes)``, and the spreads there ``(n_nodes,)``."""
        inverse = torch.linalg.inv(self.covariance())
        diagonal = inverse.diagonal()
        return inverse / diagonal[:, None], (1 / diagonal - self.nugget).clamp_min(1e-12).sqrt()

    def fit_scales(self, nodes: Tensor, products: Tensor, steps: int = 60) -> None:
        """Choose length scales and nugget so that the mean leave-one-out residual is least.

        On a regular grid no length is shorter than twice the widest gap between neighbouring values of its label: a node that is left
        out can be predicted from those with the same value alone, whatever happens between the values.

        Parameters
        ----------
        nodes
            In [-1, 1], shape ``(n_nodes, n_labels)``.
        products
            Inner products of the centred spectra over their pixels, all that the residuals' norms need; shape ``(n_nodes, n_nodes)``.
        """
        self.nodes.copy_(nodes)
        start = [-0.4] * nodes.shape[1] + [-4.3]
        scales = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([scales], max_iter=steps, line_search_fn="strong_wolfe")
        buffers = dict(self.named_buffers())
        least = _widest_gaps(nodes)

        def lengths(scales: Tensor) -> Tensor:
            return torch.log(2 * least + torch.exp(scales[:-1]))

        def loss() -> Tensor:
            optimizer.zero_grad()
            trial = buffers | {"log_length": lengths(scales), "log_nugget": scales[-1]}
            residual = torch.func.functional_call(
                _LeaveOneOut(self), {f"process.{k}": v for k, v in trial.items()}, ()
            )
            value = ((residual @ products) * residual).sum(1).clamp_min(1e-20).sqrt().mean().log()
            value.backward()
            return value

        optimizer.step(loss)
        self.log_length.copy_(lengths(scales.detach()))
        self.log_nugget.copy_(scales.detach()[-1])
        self._inverse = None

    def fit(self, values: Tensor, residual_rms: Tensor) -> None:
        """Fit node values ``(n_nodes, n_components)``, and the error's level to the leave-one-out rms ``(n_nodes,)``."""
        inverse = torch.linalg.inv(self.covariance())
        weights = inverse @ values.double()
        self.trend.copy_(self.TREND * quadratics(self.nodes.double()).T @ weights)
        self.weights.copy_(weights)
        _, spread = self.leave_one_out()
        level = (residual_rms.double() / spread).clamp_min(1e-12).log()
        # Smooth: single nodes scatter by a factor of two.
        nodes = self.nodes.double()
        smooth = self.kernel(nodes) + 0.3 * torch.eye(len(nodes), dtype=torch.float64)
        constant = level.median()
        self.error_weights[:-1] = torch.linalg.solve(smooth, level - constant).to(self.error_weights)
        self.error_weights[-1] = constant
        self._inverse = None


def _widest_gaps(nodes: Tensor) -> Tensor:
    """Widest gap between neighbouring values of each label of nodes ``(n, d)`` on a regular grid; 0 where nodes are scattered."""
    gaps = []
    for column in nodes.double().T:
        values = column.unique()
        # Scattered nodes share hardly any value.
        regular = 1 < len(values) <= len(column) / 2
        gaps.append(float(values.diff().max()) if regular else 0.0)
    return torch.tensor(gaps, dtype=torch.float64)


class _LeaveOneOut(nn.Module):
    """The leave-one-out matrix as a function of the process's tensors."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process

    def forward(self) -> Tensor:
        return self.process.leave_one_out()[0]


def from_settings(
    settings: dict[str, int | str], n_labels: int, n_components: int
) -> LabelNetwork | GaussianProcess | ElementProcess:
    """Build, unfilled, what `settings` describes.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    kind = settings.get("kind", "network")
    if kind == "network":
        return LabelNetwork(
            n_labels,
            n_components,
            _size(settings["width"], _MOST_UNITS),
            _size(settings["depth"], _MOST_LAYERS),
        )
    if kind == "gaussian-process":
        return GaussianProcess(n_labels, n_components, _size(settings["nodes"], _MOST_NODES))
    if kind == "element-process":
        return ElementProcess(n_labels, n_components, _size(settings["nodes"], _MOST_NODES))
    raise ValueError(f"unknown kind of coefficients {kind!r}")


def _size(value: int | str, most: int) -> int:
    """Check a size that a card tells, before memory is taken for it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"a size must be a whole number up to {most}")
    return value
