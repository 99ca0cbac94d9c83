"""Priors of single labels, and the exact map between a prior's support and R.

The map is the probability integral transform: ``u = Phi^-1(F(x))`` with F the prior's cumulative distribution and Phi the standard
normal's. Every real u is a point inside the prior's support, so no draw can leave it, and the prior of u is N(0, 1): a flow that
does nothing returns the prior, and it keeps a finite density up to the bound itself (a logit box sends it to zero there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from torch import Tensor

from maury.errors import LabelError
from maury.names import config_problem

# ndtri of the smallest normal double is -37.5: beyond it x has long been the bound itself.
_TINY = torch.finfo(torch.float64).tiny
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_standard_normal(u: Tensor) -> Tensor:
    """Log density of N(0, 1), elementwise."""
    return -0.5 * u.square() - _LOG_SQRT_2PI


def _ndtr(x: Tensor) -> Tensor:
    return 0.5 * torch.special.erfc(-x * math.sqrt(0.5))


def _ndtri(p: Tensor) -> Tensor:
    return torch.special.ndtri(p.clamp_min(_TINY))


class _Prior(BaseModel):
    """Base of the priors: a density on ``[low, high]`` and its map to R.

    Raises
    ------
    LabelError
        If it is made of values that no such density has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What numbers without a name stand for.
    _order: ClassVar[tuple[str, ...]] = ("low", "high")

    low: float
    high: float

    def __init__(self, *values: float, **named: Any) -> None:
        kind = type(self).__name__
        if len(values) > len(self._order) or set(self._order[: len(values)]) & set(named):
            raise LabelError(f"{kind} takes {', '.join(self._order)}, each once; {len(values)} have no name")
        try:
            super().__init__(**dict(zip(self._order, values, strict=False)), **named)
        except ValidationError as error:
            raise LabelError(f"{kind}: {config_problem(error, type(self)).removeprefix(': ')}") from None

    # Files and cards are validated without it: what is wrong there is told with their names.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _ordered(self) -> _Prior:
        if not (math.isfinite(self.high - self.low) and self.low < self.high):
            raise ValueError(f"a prior needs finite bounds with low < high, not [{self.low}, {self.high}]")
        return self

    def within(self, low: float, high: float) -> Self:
        """Return the prior cut to a range.

        Raises
        ------
        LabelError
            If the prior has nothing there.
        """
        low, high = max(self.low, low), min(self.high, high)
        return (
            self if (low, high) == (self.low, self.high) else type(self)(**self._shape(), low=low, high=high)
        )

    def _shape(self) -> dict[str, float]:
        """Return what a prior is beside its bounds."""
        return {}

    def from_normal(self, u: Tensor) -> Tensor:
        """Map any real ``u`` to ``[low, high]``."""
        raise NotImplementedError

    def to_normal(self, x: Tensor) -> Tensor:
        """Map ``x`` in ``[low, high]`` to the real line; the inverse of `from_normal`."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x``; ``-inf`` outside ``[low, high]``."""
        inside = (x >= self.low) & (x <= self.high)
        return torch.where(inside, self._log_prob(x.clamp(self.low, self.high)), -math.inf)

    def _log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def log_abs_det(self, u: Tensor) -> Tensor:
        """``log |dx/du|`` at ``u``: by construction log N(u) - log p(x(u))."""
        return log_standard_normal(u) - self._log_prob(self.from_normal(u))

    @property
    def std(self) -> float:
        """Standard deviation of the prior."""
        raise NotImplementedError


class Uniform(_Prior):
    """Constant density on ``[low, high]``."""

    kind: Literal["uniform"] = "uniform"

    def from_normal(self, u: Tensor) -> Tensor:
        """Map any real ``u`` to ``[low, high]``."""
        # Each half counts from its own bound, so that neither loses digits.
        step = (self.high - self.low) * _ndtr(-u.abs())
        return torch.where(u < 0, self.low + step, self.high - step)

    def to_normal(self, x: Tensor) -> Tensor:
        """Map ``x`` in ``[low, high]`` to the real line."""
        below, above = (x - self.low) / (self.high - self.low), (self.high - x) / (self.high - self.low)
        return torch.where(below < above, _ndtri(below), -_ndtri(above))

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self.high - self.low))

    @property
    def std(self) -> float:
        """Standard deviation of the prior."""
        return (self.high - self.low) / math.sqrt(12)


class LogUniform(_Prior):
    """Density proportional to 1/x on ``[low, high]``, ``low > 0``."""

    kind: Literal["log-uniform"] = "log-uniform"

    @model_validator(mode="after")
    def _positive(self) -> LogUniform:
        if self.low <= 0:
            raise ValueError(f"a log-uniform prior needs low > 0, not {self.low}")
        return self

    @cached_property
    def _log(self) -> Uniform:
        return Uniform(low=math.log(self.low), high=math.log(self.high))

    def from_normal(self, u: Tensor) -> Tensor:
        """Map any real ``u`` to ``[low, high]``."""
        return self._log.from_normal(u).exp().clamp(self.low, self.high)

    def to_normal(self, x: Tensor) -> Tensor:
        """Map ``x`` in ``[low, high]`` to the real line."""
        return self._log.to_normal(x.log().clamp(self._log.low, self._log.high))

    def _log_prob(self, x: Tensor) -> Tensor:
        return -x.log() - math.log(self._log.high - self._log.low)

    @property
    def std(self) -> float:
        """Standard deviation of the prior."""
        span = self._log.high - self._log.low
        mean = (self.high - self.low) / span
        return math.sqrt((self.high**2 - self.low**2) / (2 * span) - mean**2)


class TruncatedNormal(_Prior):
    """Normal density of ``mean`` and ``sigma``, cut to ``[low, high]``; without bounds, to those of the label that it is given to.

    Examples
    --------
    >>> TruncatedNormal(2.6, 0.05).within(0.5, 5.1).high
    5.1
    """

    _order: ClassVar[tuple[str, ...]] = ("mean", "sigma", "low", "high")

    kind: Literal["truncated-normal"] = "truncated-normal"
    mean: float = Field(allow_inf_nan=False)
    sigma: float = Field(gt=0, allow_inf_nan=False)
    low: float = -math.inf
    high: float = math.inf

    @model_validator(mode="after")
    def _ordered(self) -> TruncatedNormal:
        if not self.low < self.high:
            raise ValueError(f"a prior needs low < high, not [{self.low}, {self.high}]")
        return self

    def _shape(self) -> dict[str, float]:
        return {"mean": self.mean, "sigma": self.sigma}

    @model_validator(mode="after")
    def _has_mass(self) -> TruncatedNormal:
        if self._mass < 1e-250:
            raise ValueError(
                f"the normal ({self.mean} +- {self.sigma}) has no mass in [{self.low}, {self.high}]"
            )
        return self

    @cached_property
    def _tails(self) -> tuple[Tensor, Tensor]:
        """Lower-tail and upper-tail mass that is cut off."""
        bounds = torch.tensor([self.low - self.mean, self.mean - self.high], dtype=torch.float64)
        below, above = _ndtr(bounds / self.sigma)
        return below, above

    @cached_property
    def _mass(self) -> float:
        bounds = torch.tensor([self.low - self.mean, self.high - self.mean], dtype=torch.float64) / self.sigma
        if bounds[0] > 0:
            bounds = -bounds.flip(0)
        return float(_ndtr(bounds[1]) - _ndtr(bounds[0]))

    def from_normal(self, u: Tensor) -> Tensor:
        """Map any real ``u`` to ``[low, high]``."""
        below, above = self._tails
        p = below.to(u) + _ndtr(u) * self._mass
        q = above.to(u) + _ndtr(-u) * self._mass
        z = torch.where(p < q, _ndtri(p), -_ndtri(q))
        return (self.mean + self.sigma * z).clamp(self.low, self.high)

    def to_normal(self, x: Tensor) -> Tensor:
        """Map ``x`` in ``[low, high]`` to the real line."""
        below, above = self._tails
        z = (x - self.mean) / self.sigma
        bounds = torch.tensor([self.mean - self.low, self.high - self.mean], dtype=torch.float64) / self.sigma
        from_low, to_high = _ndtr(bounds)
        # Each difference is taken on the side of the normal where it cancels least.
        p = torch.where(z < 0, _ndtr(z) - below.to(x), from_low.to(x) - _ndtr(-z)) / self._mass
        q = torch.where(z < 0, to_high.to(x) - _ndtr(z), _ndtr(-z) - above.to(x)) / self._mass
        return torch.where(p < q, _ndtri(p), -_ndtri(q))

    def _log_prob(self, x: Tensor) -> Tensor:
        return log_standard_normal((x - self.mean) / self.sigma) - math.log(self.sigma * self._mass)

    @property
    def std(self) -> float:
        """Standard deviation of the prior (by quadrature over its quantiles)."""
        p = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        return float(self.from_normal(torch.special.ndtri(p)).std())


# What the literature of a star gives: a value and its error.
Normal = TruncatedNormal
Prior = Uniform | LogUniform | TruncatedNormal
# What a caller may write: a prior, or the two ends of a uniform one.
PriorLike = Prior | Sequence[float]
ANY_PRIOR: TypeAdapter[Prior] = TypeAdapter(Annotated[Prior, Field(discriminator="kind")])


def _short(value: Any) -> Any:
    """Write out what a file may leave to be understood: two numbers are the ends of a uniform prior, a mean is of a normal one."""
    if isinstance(value, list) and len(value) == 2:
        return {"kind": "uniform", "low": value[0], "high": value[1]}
    if isinstance(value, Mapping) and "kind" not in value:
        return {"kind": "truncated-normal" if "mean" in value or "sigma" in value else "uniform", **value}
    return value


class PriorFile(BaseModel):
    """A file of priors."""

    model_config = ConfigDict(extra="forbid")

    priors: dict[str, Annotated[Prior, Field(discriminator="kind"), BeforeValidator(_short)]] = Field(
        {}, description="by label: ``[low, high]``, ``{mean, sigma}``, or a table with its ``kind``"
    )


def as_prior(value: Any, name: str) -> Prior:
    """Return what a caller wrote as a prior: a prior as it is, two numbers as the ends of a uniform one.

    Raises
    ------
    LabelError
        If it is neither; names the label ``name``.
    """
    if isinstance(value, Uniform | LogUniform | TruncatedNormal):
        return value
    wanted = "needs two numbers (low, high), or a prior such as Normal(mean, sigma)"
    if isinstance(value, str | Mapping):
        raise LabelError(f"prior of {name}: {wanted}, not {value!r}")
    try:
        low, high = (float(edge) for edge in value)
    except (TypeError, ValueError):
        raise LabelError(f"prior of {name}: {wanted}, not {value!r}") from None
    try:
        return Uniform(low=low, high=high)
    except LabelError as error:
        raise LabelError(f"prior of {name}: {error}") from None
