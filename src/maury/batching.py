"""Several inferences side by side: each asks, and questions of one kind are answered together.

An inference is written as if there were one spectrum, as a generator: it yields a question and is sent the answer. `together` runs many,
so that flow and forward model see batches; `alone` runs one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from maury.inference.flow import Flow, flow_densities, flow_draws
from maury.likelihood.batch import log_likelihoods, newtons
from maury.likelihood.target import Target

T = TypeVar("T")


@dataclass(frozen=True)
class Draws:
    """Ask for ``(n, n_labels)`` draws of a flow."""

    flow: Flow
    n: int
    generator: torch.Generator


@dataclass(frozen=True)
class Densities:
    """Ask for a flow's log density ``(n,)`` at ``u (n, n_labels)``."""

    flow: Flow
    u: Tensor


@dataclass(frozen=True)
class LogLikelihoods:
    """Ask for the log likelihood ``(n,)`` at ``u (n, n_labels)``."""

    target: Target[Any]
    u: Tensor


@dataclass(frozen=True)
class Newton:
    """Ask for gradient and precision at ``u (n, n_labels)``; see `Target.newton`."""

    target: Target[Any]
    u: Tensor


Question = Draws | Densities | LogLikelihoods | Newton
Steps = Generator[Question, Any, T]

_ANSWERS: dict[type, Callable[[Sequence[Any]], Sequence[Any]]] = {
    Draws: lambda asked: flow_draws(
        [q.flow for q in asked], [q.n for q in asked], [q.generator for q in asked]
    ),
    Densities: lambda asked: flow_densities([q.flow for q in asked], [q.u for q in asked]),
    LogLikelihoods: lambda asked: log_likelihoods([(q.target, q.u) for q in asked]),
    Newton: lambda asked: newtons([(q.target, q.u) for q in asked]),
}


def alone(steps: Steps[T]) -> T:
    """Run one inference; what it raises is raised."""
    (found,) = together([steps])
    if isinstance(found, Exception):
        raise found
    return found


def together(many: Sequence[Steps[T]]) -> list[T | Exception]:
    """Run several inferences; each ends with its result or with what it raised, and does not stop the others."""
    found: dict[int, T | Exception] = {}
    asked: dict[int, Question] = {}

    def go_on(i: int, advance: Callable[[], Question]) -> None:
        try:
            asked[i] = advance()
        except StopIteration as end:
            found[i] = end.value
        except Exception as error:
            found[i] = error

    for i, steps in enumerate(many):
        go_on(i, lambda steps=steps: next(steps))  # type: ignore[misc]
    while asked:
        # The kind that most wait for goes first, so that batches are large.
        kinds = [type(q) for q in asked.values()]
        kind = max(_ANSWERS, key=kinds.count)
        members = [i for i, q in asked.items() if type(q) is kind]
        answers = _answer(kind, [asked.pop(i) for i in members])
        for i, answer in zip(members, answers, strict=True):
            steps = many[i]
            if isinstance(answer, Exception):
                go_on(i, lambda steps=steps, answer=answer: steps.throw(answer))  # type: ignore[misc]
            else:
                go_on(i, lambda steps=steps, answer=answer: steps.send(answer))  # type: ignore[misc]
    return [found[i] for i in range(len(many))]


def _answer(kind: type, asked: list[Any]) -> Sequence[Any]:
    """Answer all, or, if that fails, each by itself, so that only the one at fault is told."""
    answer = _ANSWERS[kind]
    try:
        return answer(asked)
    except Exception as error:
        if len(asked) == 1:
            return [error]
    return [one for question in asked for one in _answer(kind, [question])]
