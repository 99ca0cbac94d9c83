"""What is inferred: labels with their priors, units and symbols."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from maury.errors import LabelError
from maury.names import meant
from maury.priors import ANY_PRIOR, Prior
from maury.quantities import Quantity, Role, is_known, quantity


@dataclass(frozen=True)
class Label:
    """One inferred quantity, and the prior that it has.

    Attributes
    ----------
    quantity
        What it measures: name, unit, symbol, UCD, decimals, role, number (`maury.quantities`).
    prior
        Its prior.
    """

    quantity: Quantity
    prior: Prior

    @property
    def name(self) -> str:
        """Name, the number of a star or visit included."""
        return self.quantity.name

    @property
    def unit(self) -> str:
        """Unit, empty where it has none."""
        return self.quantity.unit

    @property
    def symbol(self) -> str:
        """Symbol of figures."""
        return self.quantity.symbol or self.name

    @property
    def role(self) -> Role:
        """Whether it is of the star, of the visit or a nuisance."""
        return self.quantity.role

    @property
    def axis(self) -> str:
        """What a figure writes beside an axis: symbol and unit."""
        return self.quantity.axis

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON card."""
        entry = {
            "name": self.name,
            "unit": self.unit,
            "symbol": self.symbol,
            "prior": self.prior.model_dump(),
        }
        # The name alone does not tell a visit's number from a star's.
        return entry if self.quantity.visit is None else entry | {"visit": self.quantity.visit}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Label:
        """Read what `to_dict` returned.

        Raises
        ------
        LabelError
            If the prior's kind or values are not possible, or a label that is known has another unit.
        """
        name = str(entry.get("name", "?"))
        try:
            prior = ANY_PRIOR.validate_python(entry["prior"])
        except (KeyError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it has no prior"
            raise LabelError(f"label {name}: {reason}") from None
        about, unit = quantity(name), str(entry.get("unit", ""))
        visit = entry.get("visit")
        if visit is not None:
            if not isinstance(visit, int) or not name.endswith(f"_{visit}"):
                raise LabelError(f"label {name}: is not of visit {visit!r}")
            about = quantity(name.removesuffix(f"_{visit}")).of(visit=visit)
        if not is_known(name):
            about = replace(about, unit=unit, symbol=str(entry.get("symbol", "")))
        elif entry.get("unit") is not None and unit != about.unit:
            raise LabelError(
                f"label {name}: is in {unit or 'no unit'}; maury has it in {about.unit or 'none'}"
            )
        return cls(about, prior)


def _bounded(prior: Prior, label: Label) -> Prior:
    if math.isfinite(prior.high - prior.low):
        return prior
    try:
        return prior.within(label.prior.low, label.prior.high)
    except LabelError as error:
        raise LabelError(f"prior of {label.name}: {error}") from None


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of labels with independent priors.

    Arrays of labels have the shape ``(..., n_labels)`` and are float64.

    Raises
    ------
    LabelError
        If two labels share a name.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise LabelError(f"two labels share a name: {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __getitem__(self, name: str) -> Label:
        return self.labels[self.index(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(label.name for label in self.labels)

    def index(self, name: str) -> int:
        """Return the place of a label.

        Raises
        ------
        LabelError
            If there is no such label.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise LabelError(f"no label {name!r}: {meant(name, self.names, 'the labels are')}") from None

    def select(self, names: Iterable[str]) -> LabelSet:
        """Return the named labels, in the given order."""
        return LabelSet(tuple(self[name] for name in names))

    def of(self, *roles: Role) -> LabelSet:
        """Return the labels that have one of these roles."""
        return LabelSet(tuple(label for label in self.labels if label.role in roles))

    def without(self, *roles: Role) -> LabelSet:
        """Return the labels that have none of these roles."""
        return LabelSet(tuple(label for label in self.labels if label.role not in roles))

    def place(self, role: Role) -> int | None:
        """Return the place of the one label that has a role; None if none has it.

        Raises
        ------
        LabelError
            If several have it.
        """
        places = [i for i, label in enumerate(self.labels) if label.role is role]
        if len(places) > 1:
            raise LabelError(f"several labels are {role}: {', '.join(self.names[i] for i in places)}")
        return places[0] if places else None

    def with_priors(self, priors: Mapping[str, Prior]) -> LabelSet:
        """Return a copy in which the named labels have other priors; one without bounds gets those that the label had."""
        for name in priors:
            self.index(name)
        return LabelSet(
            tuple(
                replace(label, prior=_bounded(priors[label.name], label)) if label.name in priors else label
                for label in self.labels
            )
        )

    def __add__(self, other: LabelSet) -> LabelSet:
        return LabelSet(self.labels + other.labels)

    @property
    def low(self) -> Tensor:
        """Lower bounds, shape ``(n_labels,)``."""
        return torch.tensor([label.prior.low for label in self.labels], dtype=torch.float64)

    @property
    def high(self) -> Tensor:
        """Upper bounds, shape ``(n_labels,)``."""
        return torch.tensor([label.prior.high for label in self.labels], dtype=torch.float64)

    @property
    def std(self) -> Tensor:
        """Standard deviations of the priors, shape ``(n_labels,)``."""
        return torch.tensor([label.prior.std for label in self.labels], dtype=torch.float64)

    def _each(self, method: str, values: Tensor) -> Tensor:
        if values.shape[-1] != len(self):
            raise LabelError(f"expected {len(self)} labels ({', '.join(self.names)}), not {values.shape[-1]}")
        columns = [getattr(label.prior, method)(values[..., i]) for i, label in enumerate(self.labels)]
        return torch.stack(columns, dim=-1)

    def from_normal(self, u: Tensor) -> Tensor:
        """Map R^n to the prior's support, ``(..., n_labels)`` to ``(..., n_labels)``."""
        return self._each("from_normal", u)

    def to_normal(self, x: Tensor) -> Tensor:
        """Map the prior's support to R^n; the inverse of `from_normal`."""
        return self._each("to_normal", x)

    def log_abs_det(self, u: Tensor) -> Tensor:
        """``log |det dx/du|``, shape ``(...)``."""
        return self._each("log_abs_det", u).sum(-1)

    def scale(self, u: Tensor) -> Tensor:
        """``dx/du`` of each label, shape ``(..., n_labels)``; what turns a Jacobian in x into one in u."""
        return self._each("log_abs_det", u).exp()

    def log_jacobian_slope(self, u: Tensor, step: float = 1e-4) -> Tensor:
        """``d ln(dx/du) / du`` of each label, shape ``(..., n_labels)``, by central differences."""
        difference = self._each("log_abs_det", u + step) - self._each("log_abs_det", u - step)
        return difference / (2 * step)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log prior density, shape ``(...)``; ``-inf`` outside the support."""
        return self._each("log_prob", x).sum(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, n_labels)`` from the prior."""
        return self.from_normal(torch.randn(n, len(self), generator=generator, dtype=torch.float64))

    def to_list(self) -> list[dict[str, Any]]:
        """Return plain values for a JSON card."""
        return [label.to_dict() for label in self.labels]

    @classmethod
    def from_list(cls, entries: Sequence[Mapping[str, Any]]) -> LabelSet:
        """Read what `to_list` returned."""
        return cls(tuple(Label.from_dict(entry) for entry in entries))


def label(name: str, prior: Prior) -> Label:
    """Return a label that means what its name means everywhere in maury."""
    return Label(quantity(name), prior)
