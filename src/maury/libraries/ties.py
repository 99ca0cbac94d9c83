"""Which of a library's labels are inferred, what the others follow, and which stars there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maury.errors import LabelError
from maury.labels import LabelSet
from maury.names import meant
from maury.priors import LogUniform

# Departures of more standard deviations lie where a library ends.
_FARTHEST = 3.0


class Tie(BaseModel):
    """What a label that is not inferred follows: ``at + sum(slope * label)``; of a label that is scaled by its logarithm, that of it.

    Attributes
    ----------
    at
        Its value where all that it follows are 0.
    follows
        Slopes, by the name of the label.
    scatter
        Standard deviation of real stars about it, in the same unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float = 0.0
    follows: dict[str, float] = {}
    scatter: float = Field(0.1, ge=0)


@dataclass(frozen=True)
class Ties:
    """An affine map from the labels that are inferred to all of a library's.

    Attributes
    ----------
    library
        The library's labels.
    labels
        Those that are inferred: some of the library's, or names of what several follow.
    ties
        Of each of the library's labels that is not inferred, what it follows.
    relations
        What some of those that are inferred follow among real stars, with their scatter: a part of their prior.

    Raises
    ------
    LabelError
        If a label is neither inferred nor tied, or both, or follows what is not inferred.
    """

    library: LabelSet
    labels: LabelSet
    ties: Mapping[str, Tie] = field(default_factory=dict)
    relations: Mapping[str, Tie] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, relation in self.relations.items():
            for other in (name, *relation.follows):
                if other not in self.labels.names or (other == name and name in relation.follows):
                    raise LabelError(
                        f"relations.{name}: {other} is not inferred; {meant(other, self.labels.names)}"
                    )
            if not relation.scatter > 0:
                raise LabelError(f"relations.{name}: a relation without scatter is a tie")
        for name in self.library.names:
            if (name in self.labels.names) == (name in self.ties):
                raise LabelError(f"{name}: a label of the library is either inferred or tied to others")
            if name in self.labels.names:
                wide, mine = self.library[name].prior, self.labels[name].prior
                if mine.low < wide.low or mine.high > wide.high:
                    raise LabelError(
                        f"{name}: [{mine.low:g}, {mine.high:g}] reaches beyond the library's [{wide.low:g}, {wide.high:g}]"
                    )
        for name, tie in self.ties.items():
            if name not in self.library.names:
                raise LabelError(f"ties.{name}: no such label; {meant(name, self.library.names)}")
            for other in tie.follows:
                if other not in self.labels.names:
                    raise LabelError(
                        f"ties.{name}: follows {other}, which is not inferred; {meant(other, self.labels.names)}"
                    )
        following = (*self.ties.values(), *self.relations.values())
        followed = {other for tie in following for other in tie.follows}
        for name in self.labels.names:
            if name not in self.library.names and name not in followed:
                raise LabelError(f"{name}: no label of the library is this or follows it")

    def matrix(self) -> Tensor:
        """Slopes ``(n_library, n_labels)``."""
        out = torch.zeros(len(self.library), len(self.labels), dtype=torch.float64)
        for i, name in enumerate(self.library.names):
            slopes = self.ties[name].follows if name in self.ties else {name: 1.0}
            for other, slope in slopes.items():
                out[i, self.labels.index(other)] = slope
        return out

    def offset(self) -> Tensor:
        """Values where all that is inferred is 0, ``(n_library,)``."""
        return torch.tensor(
            [self.ties[name].at if name in self.ties else 0.0 for name in self.library.names],
            dtype=torch.float64,
        )

    @property
    def is_identity(self) -> bool:
        """Whether the labels are the library's own."""
        return self.labels.names == self.library.names

    @property
    def places(self) -> list[int]:
        """Places of the tied labels among the library's."""
        return [i for i, name in enumerate(self.library.names) if name in self.ties]

    @property
    def tied(self) -> tuple[str, ...]:
        """Names of the tied labels, in the library's order."""
        return tuple(name for name in self.library.names if name in self.ties)

    def inferring(self, scatters: Mapping[str, float]) -> Ties:
        """Return the ties of which some tied labels are inferred themselves, about what they followed, with these scatters.

        Raises
        ------
        LabelError
            If one of them is not tied.
        """
        for name in scatters:
            if name not in self.ties:
                raise LabelError(f"{name} is not tied to others; {meant(name, self.tied)}")
        free = [name for name in self.tied if name in scatters]
        labels = LabelSet((*self.labels.labels, *(self.library[name] for name in free)))
        relations = {name: self.ties[name].model_copy(update={"scatter": scatters[name]}) for name in free}
        left = {name: tie for name, tie in self.ties.items() if name not in scatters}
        return Ties(self.library, labels, left, {**self.relations, **relations})

    def moved(self, beside: Mapping[str, float]) -> Ties:
        """Return the ties of which some labels have something beside what they follow, and no scatter about that."""
        ties = {
            name: tie.model_copy(update={"at": tie.at + beside[name], "scatter": 0.0})
            if name in beside
            else tie
            for name, tie in self.ties.items()
        }
        return Ties(self.library, self.labels, ties, self.relations)

    def followed(self, labels: Tensor, name: str) -> Tensor:
        """Return what a label follows, ``(n,)``, of labels ``(n, n_labels)``: of one that is scaled by its logarithm, that of it."""
        tie = self.ties[name] if name in self.ties else self.relations[name]
        mean = torch.full_like(labels[:, 0], tie.at)
        for other, slope in tie.follows.items():
            mean = mean + slope * labels[:, self.labels.index(other)]
        return mean

    def scatter(self) -> Tensor:
        """Return the standard deviations of real stars about what a label follows, ``(n_library,)``; 0 of what is inferred."""
        return torch.tensor(
            [self.ties[name].scatter if name in self.ties else 0.0 for name in self.library.names],
            dtype=torch.float64,
        )

    def spread(self) -> Tensor:
        """Return the matrix ``(n_library, n_library)`` that takes draws from N(0, 1) to what stars have beside what is followed.

        A label that only others follow (``alpha_m``) is their mean, weighed by their scatters: departures have none of it, or it could
        not be told from them. So it is taken out of the draws: ``S (1 - w w')`` with S the scatters and w along the slopes over them.
        """
        scatter, slopes = self.scatter(), self.matrix()
        keep = torch.eye(len(self.library), dtype=torch.float64)
        for j, name in enumerate(self.labels.names):
            if name in self.library.names:
                continue
            along = torch.where(scatter > 0, slopes[:, j] / scatter.clamp_min(1e-12), 0.0)
            along = along / along.norm().clamp_min(1e-12)
            keep = keep - along[:, None] * along
        return scatter[:, None] * keep

    def departures(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw what stars have beside what their tied labels follow, ``(n, n_library)``."""
        draws = torch.randn(n, len(self.library), generator=generator, dtype=torch.float64)
        return draws.clamp(-_FARTHEST, _FARTHEST) @ self.spread().T

    def logarithmic(self) -> Tensor:
        """Whether a tied label is followed in its logarithm, ``(n_library,)``."""
        return torch.tensor(
            [label.name in self.ties and isinstance(label.prior, LogUniform) for label in self.library]
        )

    def standardised(self, labels: Tensor, names: Collection[str]) -> Tensor:
        """Distances of labels ``(n, n_labels)`` from what they follow, in standard deviations, ``(n, n_names)``."""
        return (
            torch.cat([self._distance(labels, name)[:, None] for name in names], 1)
            if names
            else labels[:, :0]
        )

    def _distance(self, labels: Tensor, name: str) -> Tensor:
        relation, value = self.relations[name], labels[:, self.labels.index(name)]
        return (
            (value.log() if self.is_logarithmic(name) else value) - self.followed(labels, name)
        ) / relation.scatter

    def is_logarithmic(self, name: str) -> bool:
        """Whether a label is followed in its logarithm."""
        of = self.labels if name in self.labels.names else self.library
        return isinstance(of[name].prior, LogUniform)

    def related(self, labels: Tensor, names: Collection[str], generator: torch.Generator) -> Tensor:
        """Return labels ``(n, n_labels)`` in which the named ones are drawn about what they follow."""
        out = labels.clone()
        for name in names:
            prior = self.labels[name].prior
            z = torch.randn(len(out), generator=generator, dtype=out.dtype).clamp(-_FARTHEST, _FARTHEST)
            value = self.followed(out, name) + self.relations[name].scatter * z
            out[:, self.labels.index(name)] = (value.exp() if self.is_logarithmic(name) else value).clamp(
                prior.low, prior.high
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON card."""
        parts = {"ties": self.ties, "relations": self.relations}
        plain = {
            key: {name: tie.model_dump(mode="json") for name, tie in of.items()} for key, of in parts.items()
        }
        return {"labels": self.labels.to_list(), **plain}

    @classmethod
    def from_dict(cls, library: LabelSet, entry: Mapping[str, Any]) -> Ties:
        """Read what `to_dict` returned; errors as of the class."""
        ties, relations = (
            {str(name): Tie.model_validate(tie) for name, tie in entry.get(key, {}).items()}
            for key in ("ties", "relations")
        )
        return cls(library, LabelSet.from_list(entry["labels"]), ties, relations)


@dataclass(frozen=True)
class Region:
    """Stars that there are: surface gravities between two lines over effective temperature.

    Attributes
    ----------
    teff
        K, increasing.
    low, high
        Surface gravities there.
    """

    teff: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        n = len(self.teff)
        rising = all(a < b for a, b in zip(self.teff[:-1], self.teff[1:], strict=True))
        ordered = all(a < b for a, b in zip(self.low, self.high, strict=False))
        if n < 2 or len(self.low) != n or len(self.high) != n or not rising or not ordered:
            raise LabelError("a region is two lines, low below high, over rising teff, of as many points")

    def inside(self, teff: Tensor, logg: Tensor) -> Tensor:
        """Tell whether stars ``(n,)`` lie in it, bool, ``(n,)``; lines are level beyond their ends."""
        return (logg >= _line(teff, self.teff, self.low)) & (logg <= _line(teff, self.teff, self.high))

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain values for a JSON card."""
        return {"teff": list(self.teff), "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Sequence[float]]) -> Region:
        """Read what `to_dict` returned."""
        return cls(*(tuple(float(v) for v in entry[name]) for name in ("teff", "low", "high")))


def _line(x: Tensor, at: Sequence[float], values: Sequence[float]) -> Tensor:
    """Interpolate linearly."""
    knots, heights = torch.tensor(at, dtype=x.dtype), torch.tensor(values, dtype=x.dtype)
    right = torch.searchsorted(knots, x.detach().contiguous()).clamp(1, len(at) - 1)
    share = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return heights[right - 1] + share * (heights[right] - heights[right - 1])
