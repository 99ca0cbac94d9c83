"""Computations side by side: each asks, and questions of one kind are answered together.

A computation is written as if it were the only one, as a generator: ``value = yield from ask(question)``. `together` runs many, so that
networks and models see batches; `alone` runs one. A kind of question is a class, and answers all that were asked of it at once.

What a computation does between two questions is done for it alone, while the others wait: little work is meant to stand there. What
takes long and cannot be asked stalls the batch; which steps of an inference do is said in `maury.inference.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Self, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Question(Generic[A]):
    """What a computation may ask; ``A`` is the type of one answer."""

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[A]:
        """Answer all that was asked at one time, in order.

        Where this raises, each question is answered by itself, so that only the one at fault is told.
        """
        raise NotImplementedError


Steps = Generator[Question[Any], Any, T]


def ask(question: Question[A]) -> Steps[A]:
    """Ask, and return the answer; to be used with ``yield from``."""
    answer: A = yield question
    return answer


def alone(steps: Steps[T]) -> T:
    """Run one computation; what it raises is raised."""
    (found,) = together([steps])
    if isinstance(found, Exception):
        raise found
    return found


def together(many: Sequence[Steps[T]]) -> list[T | Exception]:
    """Run several computations; each ends with its result or with what it raised, and does not stop the others."""
    found: dict[int, T | Exception] = {}
    asked: dict[int, Question[Any]] = {}

    def go_on(i: int, advance: Callable[[], Question[Any]]) -> None:
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
        kinds = [type(question) for question in asked.values()]
        kind = max(dict.fromkeys(kinds), key=kinds.count)
        members = [i for i, question in asked.items() if type(question) is kind]
        answers = _answer(kind, [asked.pop(i) for i in members])
        for i, answer in zip(members, answers, strict=True):
            steps = many[i]
            if isinstance(answer, Exception):
                go_on(i, lambda steps=steps, answer=answer: steps.throw(answer))  # type: ignore[misc]
            else:
                go_on(i, lambda steps=steps, answer=answer: steps.send(answer))  # type: ignore[misc]
    return [found[i] for i in range(len(many))]


def _answer(kind: type[Question[Any]], asked: list[Any]) -> Sequence[Any]:
    """Answer all, or, if that fails, each by itself."""
    try:
        return kind.answer(asked)
    except Exception as error:
        if len(asked) == 1:
            return [error]
    return [one for question in asked for one in _answer(kind, [question])]


def by_class(objects: Sequence[Any], answer: Callable[[type, list[int]], Sequence[A]]) -> list[A]:
    """Answer questions about objects of several classes, class by class.

    Parameters
    ----------
    objects
        What each question is about.
    answer
        Given a class and the places of its objects, return their answers.
    """
    found: dict[int, A] = {}
    classes = [type(item) for item in objects]
    for one in dict.fromkeys(classes):
        members = [i for i, other in enumerate(classes) if other is one]
        found |= dict(zip(members, answer(one, members), strict=True))
    return [found[i] for i in range(len(objects))]
