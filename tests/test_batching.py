"""Computations side by side: their questions are answered together, and what fails fails alone."""

from dataclasses import dataclass

import pytest

from maury.batching import Question, alone, ask, by_class, together

ANSWERED = []


@dataclass(frozen=True)
class Square(Question[float]):
    x: float
    least: float = -10.0

    @classmethod
    def answer(cls, asked):
        if any(q.x < q.least for q in asked):
            raise ValueError("left of the end")
        ANSWERED.append(len(asked))
        return [q.x**2 for q in asked]


@dataclass(frozen=True)
class Name(Question[str]):
    of: object

    @classmethod
    def answer(cls, asked):
        return by_class([q.of for q in asked], lambda kind, places: [f"{kind.__name__} {i}" for i in places])


def climb(least):
    first = yield from ask(Square(3.0))
    second = yield from ask(Square(-2.0, least))
    return first + second


def test_questions_of_one_kind_are_answered_together():
    ANSWERED.clear()
    assert together([climb(-5.0) for _ in range(4)]) == [13.0] * 4
    assert ANSWERED == [4, 4]


def test_only_the_one_at_fault_is_told():
    found = together([climb(-5.0), climb(-1.0), climb(-3.0)])
    assert found[0] == found[2] == 13.0
    assert isinstance(found[1], ValueError)
    with pytest.raises(ValueError, match="left of the end"):
        alone(climb(-1.0))


def test_a_computation_may_catch_what_goes_wrong():
    def careful():
        try:
            yield from climb(-1.0)
        except ValueError:
            return "caught"

    assert alone(careful()) == "caught"


def test_what_fails_between_questions_is_told():
    def steps():
        yield from ask(Square(1.0))
        raise KeyError("gone")

    good, bad = together([climb(-5.0), steps()])
    assert good == 13.0
    assert isinstance(bad, KeyError)


def test_a_kind_that_answers_nothing_is_told():
    def steps():
        yield Question()

    assert isinstance(together([steps()])[0], NotImplementedError)


def test_classes_are_answered_each_by_itself():
    def steps(of):
        return (yield from ask(Name(of)))

    assert together([steps(1), steps("a"), steps(2)]) == ["int 0", "str 1", "int 2"]
