"""How far a long command is: counts, rates and the time left, on a terminal or a line a minute in a log; and what remains after Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from maury.commands.console import err

T = TypeVar("T")
# Seconds between lines of a log that no terminal shows.
LOG_EVERY = 60.0
# Seconds: what is told as done faster than this was done before, by the run that this one goes on with.
_AT_ONCE = 0.005


class Stopped(Exception):
    """Ctrl-C: the message says what is kept, and how to go on."""


@contextmanager
def stoppable(kept: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C end a command in one line, with what ``kept`` says then: where the results so far are, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(kept()) from None


class Pace:
    """Rate and time left, of what this run does itself.

    Parameters
    ----------
    clock
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._done = 0.0
        self._fresh = self._spent = 0.0

    def add(self, done: float) -> None:
        """Count what is done by now, in all."""
        now = self._clock()
        if now - self._last > _AT_ONCE * max(1.0, done - self._done):
            self._fresh += done - self._done
            self._spent += now - self._last
        self._last, self._done = now, done

    @property
    def rate(self) -> float:
        """Of this run, a second; 0 before the first."""
        return self._fresh / self._spent if self._fresh > 0 else 0.0

    def left(self, total: float | None) -> float | None:
        """Seconds until all is done; None if that is not known."""
        if total is None or self.rate == 0:
            return None
        return max(0.0, (total - self._done) / self.rate - (self._clock() - self._last))

    def in_words(self, total: float | None) -> str:
        """Write ``3.2/s, 0:01:20 left``, or ``41 s each, ...``."""
        if self.rate == 0:
            return ""
        pace = f"{self.rate:.3g}/s" if self.rate >= 1 else f"{1 / self.rate:.3g} s each"
        left = self.left(total)
        return pace if left is None else f"{pace}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Write ``0:01:20``."""
    return str(timedelta(seconds=math.ceil(seconds)))


@contextmanager
def counting(text: str, total: float | None = None) -> Iterator[Callable[..., None]]:
    """Show how many are done, how fast it goes, and the time left.

    Yields
    ------
    callable
        Of what is done by now, and of the total where it changes.
    """
    pace, known = Pace(), total

    with shown(text, lambda: pace.in_words(known)) as show:

        def update(done: float, now: float | None = None) -> None:
            nonlocal known
            known = now if now is not None else known
            pace.add(done)
            show(done, known)

        yield update


def counted(items: Iterable[T], text: str, total: int | None) -> Iterator[T]:
    """Yield items, counting them for whoever watches."""
    with counting(text, total) as update:
        update(0)
        for number, item in enumerate(items, start=1):
            yield item
            update(number)


@contextmanager
def shown(text: str, words: Callable[[], str]) -> Iterator[Callable[[float, float | None], None]]:
    """Show a bar with some words on a terminal, elsewhere a line a minute; yield what takes the number done and the total."""
    last = time.monotonic()

    def log(done: float, total: float | None) -> None:
        nonlocal last
        if time.monotonic() - last > LOG_EVERY:
            last = time.monotonic()
            of = f"{done:.0f}" if total is None else f"{done:.0f} of {total:.0f}"
            line = ", ".join(part for part in (of, words()) if part)
            err.print(f"{text}: {line}", highlight=False, soft_wrap=True)

    if not err.is_terminal:
        yield log
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Words(ProgressColumn):
        """Asked for as often as the bar is drawn: time passes between two that are done."""

        def render(self, _: Task) -> Text:
            return Text(words())

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Words(),
        console=err,
    ) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
