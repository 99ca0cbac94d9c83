"""From many labels to coefficients: a Gaussian process of a star's main labels, to which each other element adds the response of its lines.

A spectrum depends on temperature, gravity, metallicity, microturbulence and the elements of the molecules (C, N, O) in every pixel and not
linearly. Of any other element a spectrum has some lines, whose strength grows smoothly with its abundance, and which feel the star's main
labels alone. A kernel that says so needs a fraction of the spectra that one without structure needs in 25 dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Labels, in a synthetic grid's order, that act everywhere: teff, logg, m_h, v_micro, C, N, O; and those of the smoothest part.
MAIN, FIRST = 7, 4
# Least variance that is not smooth, in units of the process: below it nothing is gained, and digits are lost. And a squared distance that
# keeps derivatives finite at a node.
_NUGGET, _TINY = 1e-3, 1e-10
# Leave-one-out residuals beyond this rms do not steer the fit: single stars at the corners of a grid.
_CLIP = 0.05


class Kernel(nn.Module):
    """Covariance of spectra at labels scaled to [-1, 1].

    ``k = a(x) a(x') [w m(P x) + w' m(P' x) + r(x, x') m(P'' x)] + v (1 + x.x')`` with m the Matern-5/2 correlation of main labels
    projected by matrices P (which hold the lengths), a the exponential of a linear function (cool spectra vary more), and
    ``r = sum_e s_e (e e' + q_e (e e')^2 + c (e e')^3)`` over the other labels e.

    Parameters
    ----------
    n_labels
        Number of labels, of which the first `MAIN` are the main ones.
    """

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        others = n_labels - MAIN

        def number(value: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, value, dtype=torch.float64))

        self.mixing, self.mixing_lines = number(0.0, MAIN, MAIN), number(0.0, MAIN, MAIN)
        self.log_length, self.log_length_lines = number(0.5, MAIN), number(1.0, MAIN)
        self.log_length_first = number(0.3, FIRST)
        self.log_first, self.log_all = number(0.0), number(-1.5)
        self.log_strength, self.log_quadratic, self.log_cubic = (
            number(-4.0, others),
            number(-1.5, others),
            number(-2.5),
        )
        self.slope = number(0.0, MAIN)
        self.log_trend, self.log_nugget = number(1.5), number(-8.0)

    def projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrices P of the three Matern terms."""
        own = torch.eye(MAIN).to(self.mixing)
        main, lines = own + self.mixing, own + self.mixing_lines
        return (
            main[:, :FIRST] * torch.exp(-self.log_length_first),
            main * torch.exp(-self.log_length),
            lines * torch.exp(-self.log_length_lines),
        )

    def amplitude(self, x: Tensor) -> Tensor:
        """Return a, shape ``(n,)``."""
        return torch.exp(x[:, :MAIN] @ self.slope)

    def weights(self) -> Tensor:
        """Weights of the products of powers of the other labels, shape ``(3 n_others,)``."""
        s = torch.exp(self.log_strength)
        return torch.cat([s, s * torch.exp(self.log_quadratic), s * torch.exp(self.log_cubic)])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance ``(n, m)`` of points ``(n, n_labels)`` and ``(m, n_labels)``."""
        first, whole, lines = (matern(a[:, :MAIN] @ p, b[:, :MAIN] @ p) for p in self.projections())
        response = (_powers(a) * self.weights()) @ _powers(b).T
        smooth = torch.exp(self.log_first) * first + torch.exp(self.log_all) * whole + response * lines
        return self.amplitude(a)[:, None] * self.amplitude(b) * smooth + torch.exp(self.log_trend) * (
            1 + a[:, :MAIN] @ b[:, :MAIN].T
        )

    def at_nodes(self, x: Tensor) -> Tensor:
        """Covariance ``(n, n)`` of nodes ``(n, n_labels)``, with what is not smooth."""
        return self(x, x) + self.nugget * torch.eye(len(x)).to(x)

    @property
    def nugget(self) -> Tensor:
        """Variance of what is not smooth."""
        return torch.exp(self.log_nugget) + _NUGGET


def _powers(x: Tensor) -> Tensor:
    """Powers of the other labels, shape ``(n, 3 n_others)``."""
    e = x[:, MAIN:]
    return torch.cat([e, e.square(), e * e.square()], 1)


def matern(a: Tensor, b: Tensor) -> Tensor:
    """Matern-5/2 correlation ``(n, m)`` of points ``(n, d)`` and ``(m, d)`` in units of the length."""
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    r2 = 5 * squared.clamp_min(0) + _TINY
    r = r2.sqrt()
    return (1 + r + r2 / 3) * torch.exp(-r)


def _matern_slopes(a: Tensor, b: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Return `matern` ``(n, m)`` and its derivatives ``(n, k, m)`` as points ``a (n, d)`` move ``along (n, k, d)``."""
    squared = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    r2 = 5 * squared.clamp_min(0) + _TINY
    r = r2.sqrt()
    fall = torch.exp(-r)
    nearer = (along * a[:, None]).sum(2, keepdim=True) - along @ b.T
    return (1 + r + r2 / 3) * fall, nearer * (-5 / 3 * (1 + r) * fall)[:, None]


def leave_one_out(kernel: Kernel, x: Tensor) -> Tensor:
    """Matrix ``(n, n)`` that takes values at nodes ``(n, n_labels)`` to their leave-one-out residuals.

    Rasmussen & Williams 2006, eq. 5.12.
    """
    inverse = torch.linalg.inv(kernel.at_nodes(x))
    return inverse / inverse.diagonal()[:, None]


def fit_kernel(x: Tensor, products: Tensor, steps: int = 60) -> Kernel:
    """Choose a kernel by its leave-one-out residuals: the logarithm of their mean rms is least.

    Parameters
    ----------
    x
        Nodes, ``(n, n_labels)``, float64.
    products
        Inner products of the spectra less their mean, over their pixels, ``(n, n)``: all that the residuals' norms need.
    steps
        Of L-BFGS.
    """
    kernel = Kernel(x.shape[1])
    optimizer = torch.optim.LBFGS(kernel.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        residual = leave_one_out(kernel, x)
        rms = ((residual @ products) * residual).sum(1).clamp_min(1e-20).sqrt()
        value = rms.clamp_max(_CLIP).mean().log()
        value.backward()
        return value

    optimizer.step(loss)
    return kernel.requires_grad_(False)


class ElementProcess(nn.Module):
    """The mean of a Gaussian process with a `Kernel`, and the size of its error.

    Parameters
    ----------
    n_labels, n_components, n_nodes
        Sizes; the tensors are filled by `of` or from a file.
    """

    main: Tensor
    powers: Tensor
    projections: Tensor
    heights: Tensor
    slope: Tensor
    amplitude: Tensor
    trend: Tensor
    weights: Tensor
    error_weights: Tensor

    def __init__(self, n_labels: int, n_components: int, n_nodes: int) -> None:
        super().__init__()
        n_powers = 3 * (n_labels - MAIN)

        def zeros(*shape: int) -> Tensor:
            # Large terms cancel in its sums: in single precision likelihoods would be rough by a nat.
            return torch.zeros(*shape, dtype=torch.float64)

        self.register_buffer("main", zeros(n_nodes, MAIN))
        self.register_buffer("powers", zeros(n_nodes, n_powers))
        self.register_buffer("projections", zeros(MAIN, FIRST + 2 * MAIN))
        self.register_buffer("heights", zeros(2))
        self.register_buffer("slope", zeros(MAIN))
        self.register_buffer("amplitude", zeros(n_nodes))
        self.register_buffer("trend", zeros(1 + MAIN, n_components))
        self.register_buffer("weights", zeros(n_nodes, n_components))
        self.register_buffer("error_weights", zeros(_error_terms(torch.zeros(1, n_labels)).shape[1]))

    @classmethod
    def of(cls, kernel: Kernel, x: Tensor, values: Tensor, residual_rms: Tensor) -> ElementProcess:
        """Fit values ``(n, n_components)`` at nodes ``(n, n_labels)``, and the error's size to the leave-one-out rms ``(n,)``."""
        process = cls(x.shape[1], values.shape[1], len(x))
        weights = torch.linalg.solve(kernel.at_nodes(x), values)
        process.main.copy_(x[:, :MAIN])
        process.powers.copy_(_powers(x) * kernel.weights())
        process.projections.copy_(torch.cat(kernel.projections(), 1))
        process.heights.copy_(torch.stack([kernel.log_first, kernel.log_all]).exp())
        process.slope.copy_(kernel.slope)
        process.amplitude.copy_(kernel.amplitude(x))
        one = torch.ones(len(x), 1).to(x)
        process.trend.copy_(torch.exp(kernel.log_trend) * torch.cat([one, x[:, :MAIN]], 1).T @ weights)
        process.weights.copy_(weights)
        terms, level = _error_terms(x), residual_rms.clamp_min(1e-6).log()
        ridge = 1e-2 * len(x) * torch.eye(terms.shape[1]).to(x)
        ridge[0, 0] = 0
        found = torch.linalg.solve(terms.T @ terms + ridge, terms.T @ level)
        # Of single stars the logarithm scatters: its mean is not that of the square.
        found[0] += 0.5 * (2 * (level - terms @ found)).exp().mean().log()
        process.error_weights.copy_(found)
        return process

    def settings(self) -> dict[str, int | str]:
        """Return what the class needs to be built again."""
        return {"kind": "element-process", "nodes": len(self.main)}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_labels)`` to ``(n, n_components)``."""
        dtype, x = x.dtype, x.to(self.main)
        b = x[:, :MAIN]
        ends = [FIRST, MAIN, MAIN]
        here, nodes = (b @ self.projections).split(ends, 1), (self.main @ self.projections).split(ends, 1)
        first, whole, lines = (matern(p, q) for p, q in zip(here, nodes, strict=True))
        response = _powers(x) @ self.powers.T
        smooth = self.heights[0] * first + self.heights[1] * whole + response * lines
        smooth = smooth * self.amplitude * torch.exp(b @ self.slope)[:, None]
        return (smooth @ self.weights + self.trend[0] + b @ self.trend[1:]).to(dtype)

    def jacobian(self, x: Tensor) -> Tensor:
        """Slopes of `forward` by each label, shape ``(n, n_labels, n_components)``."""
        return self.slopes(x, torch.eye(x.shape[1]).to(self.main).expand(len(x), -1, -1)).to(x)

    def slopes(self, x: Tensor, directions: Tensor) -> Tensor:
        """Return derivatives ``(n, k, n_components)`` at ``x (n, n_labels)`` along ``directions (n, k, n_labels)``, in their precision.

        They are in closed form: of single precision and a few directions they cost a tenth of automatic differentiation in double.
        """
        to = directions.dtype
        x, towards = x.to(to), directions[..., :MAIN]
        b, powers = x[:, :MAIN], self.powers.to(to)
        ends = [FIRST, MAIN, MAIN]
        projections, main = self.projections.to(to), self.main.to(to)
        parts = zip(
            (b @ projections).split(ends, 1), (main @ projections).split(ends, 1),
            (towards @ projections).split(ends, 2), strict=True,
        )  # fmt: skip
        found = [_matern_slopes(here, nodes, along) for here, nodes, along in parts]
        (first, by_first), (whole, by_whole), (lines, by_lines) = found
        e, along = x[:, None, MAIN:], directions[..., MAIN:]
        response = _powers(x) @ powers.T
        by_response = torch.cat([along, 2 * e * along, 3 * e.square() * along], 2) @ powers.T
        low, high = self.heights.to(to)
        smooth = low * first + high * whole + response * lines
        by_smooth = low * by_first + high * by_whole + response[:, None] * by_lines
        by_smooth += by_response * lines[:, None]
        slope = self.slope.to(to)
        by_smooth += smooth[:, None] * (towards @ slope)[..., None]
        by_smooth *= (self.amplitude.to(to) * torch.exp(b @ slope)[:, None])[:, None]
        return by_smooth @ self.weights.to(to) + towards @ self.trend[1:].to(to)

    def error(self, x: Tensor) -> Tensor:
        """Return the expected rms error of the flux, shape ``(n,)``."""
        return torch.exp(_error_terms(x.to(self.main)) @ self.error_weights).to(x.dtype)


def _error_terms(x: Tensor) -> Tensor:
    """Terms of the logarithm of the error, ``(n, n_terms)``: 1, the main labels, products of the first, and how unusual the rest is."""
    b = x[:, :FIRST]
    i, j = torch.triu_indices(FIRST, FIRST)
    far = (x[:, MAIN:].square() + 1e-4).sqrt().mean(1, keepdim=True)
    return torch.cat(
        [torch.ones_like(far), x[:, :MAIN], b[:, i] * b[:, j], x[:, FIRST:MAIN].square(), far], 1
    )
