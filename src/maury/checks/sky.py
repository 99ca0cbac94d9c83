"""Real spectra with labels from the literature: bias and scatter beside stated errors, repeats, and chips against each other."""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maury.checks.runs import Key, run
from maury.constants import DEFAULT_MODEL
from maury.errors import ConfigError, MauryError
from maury.figures import new_figure
from maury.files import finite, write_json
from maury.inference.infer import AUTO, infer
from maury.inference.options import Options
from maury.models import Model, load_model
from maury.names import meant
from maury.posterior.result import Posterior
from maury.quantities import is_known, quantity
from maury.report.page import Cell, Section, write_page
from maury.report.plots import BLUE, GREY, draw_picture
from maury.spectra.formats.registry import read_all
from maury.spectra.spectrum import Spectrum

Array = NDArray[np.float64]
# Columns of a list of stars beside labels and their errors (`e_teff`).
_TEXT = ("file", "index", "star_id", "release", "kind", "snr", "label_source", "note")
# Temperatures between which stars are told apart, K.
_BINS = (0.0, 3000.0, 3600.0, 4500.0, 5500.0, 20_000.0)
# Share of |difference| over total error below two that is asked, and ratios of scatter to stated error that are right.
WITHIN, RATIO = 0.9, (0.7, 1.3)
# Labels that chips are compared in: what each of them tells of by itself.
CHIP_LABELS = ("teff", "logg", "m_h", "alpha_m", "v_rad")


@dataclass(frozen=True)
class Star:
    """A spectrum and what the literature says of its star.

    Attributes
    ----------
    file, index
        Where the spectrum is; the file is relative to the list's folder.
    star
        Name of the star.
    kind
        Of the file.
    labels, errors
        From the literature, by label; ``v_rad`` is at the barycentre.
    """

    file: str
    index: int
    star: str
    kind: str
    labels: Mapping[str, float]
    errors: Mapping[str, float]


@dataclass(frozen=True)
class Told:
    """A label as inferred: median, statistical and total error, and, of the whole spectrum, what it is compared with.

    ``total`` counts what the choice of the library does, where that is known.
    """

    value: float
    std: float
    total: float


@dataclass(frozen=True)
class Seen:
    """What inference said of a spectrum.

    Attributes
    ----------
    labels
        By label; ``v_rad`` at the barycentre, where that is known.
    chips
        The same of each chip by itself, if that was asked.
    verdict, flags
        As of `Posterior`.
    error
        Why there is nothing; empty otherwise.
    """

    labels: Mapping[str, Told] = field(default_factory=dict)
    chips: tuple[Mapping[str, Told], ...] = ()
    verdict: str = ""
    flags: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Seen:
        """Read what `asdict` made of one."""

        def told(labels: Mapping[str, Any]) -> dict[str, Told]:
            return {name: Told(**one) for name, one in labels.items()}

        return cls(
            told(entry["labels"]), tuple(told(chip) for chip in entry["chips"]), entry["verdict"],
            tuple(entry["flags"]), entry["error"],
        )  # fmt: skip


def read_stars(path: Path) -> list[Star]:
    """Read a list of stars.

    A CSV file with the columns ``file``, perhaps ``index`` (of the spectrum in it), ``star_id``, ``kind``, any labels and their errors
    (``e_teff``), and ``release``, ``snr``, ``label_source``, ``note``, which are not used. Empty cells are what is not known.

    Raises
    ------
    ConfigError
        If it cannot be read, has a column that means nothing, or names a file that is not there; says which and in which line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as a list of stars ({error})") from None
    if "file" not in names:
        raise ConfigError(f"{path}: has no column file")
    labels = [name for name in names if name not in _TEXT and not name.startswith("e_")]
    for name in (n for n in names if n not in _TEXT):
        if not is_known(name.removeprefix("e_")):
            raise ConfigError(f"{path}: column {name!r} is no label; {meant(name, (*_TEXT, *_KNOWN))}")
    if not rows:
        raise ConfigError(f"{path}: names no stars")
    out = []
    for line, row in enumerate(rows, start=2):
        where = f"{path}, line {line}"
        cells = {(key or "").strip(): (value or "").strip() for key, value in row.items() if key is not None}
        if not (path.parent / cells["file"]).is_file():
            raise ConfigError(f"{where}: no file {cells['file']!r} in {path.parent}")
        index = _number(cells.get("index") or "0", f"{where}: index")
        values = {n: _number(cells[n], f"{where}: {n}") for n in labels if cells.get(n)}
        errors = {n: _number(cells[f"e_{n}"], f"{where}: e_{n}") for n in labels if cells.get(f"e_{n}")}
        out.append(
            Star(cells["file"], int(index), cells.get("star_id") or cells["file"], cells.get("kind", ""), values, errors)
        )  # fmt: skip
    return out


_KNOWN = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {text!r} is no number")
    return value


def look(
    stars: Sequence[Star],
    model: Model | None,
    folder: Path,
    options: Options | None = None,
    *,
    chips: bool = False,
    jobs: int = 1,
    store: Path | None = None,
) -> Iterator[Seen]:
    """Infer real spectra, in order.

    Parameters
    ----------
    stars, model, options
        What, and how; without a model the default one and that of cool stars are tried on each spectrum, and the evidence chooses.
    folder
        That the files are relative to.
    chips
        Whether each chip is inferred by itself as well.
    jobs, store
        As of `maury.checks.runs.run`.
    """
    options = options or Options()
    keys: list[Key] = [[star.file, star.index] for star in stars]
    settings = {
        "model": AUTO if model is None else model.name, "chips": chips, "draws": options.draws, "seed": options.seed,
        "noise": options.noise, "labels": options.labels,
        "nuisances": [part if isinstance(part, str) else part.name for part in options.nuisances],
    }  # fmt: skip
    task = partial(_look, folder=str(folder), options=options, chips=chips, auto=model is None)
    for entry in run(
        model or load_model(DEFAULT_MODEL), task, keys, jobs=jobs, store=store, settings=settings
    ):
        yield Seen.of(entry)


def _look(
    model: Model, key: Key, *, folder: str, options: Options, chips: bool, auto: bool
) -> dict[str, Any]:
    file, index = key
    try:
        spectrum = spectrum_of(Path(folder) / file, index, model)
        found = _infer(spectrum, AUTO if auto else model, options)
        # Chips are compared with the model that explains the whole spectrum.
        alone = _chips(spectrum, load_model(found.model) if auto else model, options) if chips else ()
    except MauryError as error:
        return finite(asdict(Seen(error=str(error))))
    flags = (*found.flag_bad, *found.flag_warn)
    return finite(asdict(Seen(_told(found), alone, found.verdict, flags)))


def spectrum_of(path: Path, index: int, model: Model) -> Spectrum:
    """Read one spectrum of a file.

    Raises
    ------
    MauryError
        If it cannot be read, or the file has no spectrum of that number.
    """
    for item in read_all([path], model.instrument):
        if not isinstance(item, Spectrum):
            raise MauryError(item.message)
        if item.index == index:
            return item
    raise ConfigError(f"{path}: has no spectrum {index}")


def _infer(spectrum: Spectrum, model: Model | str, options: Options) -> Posterior:
    return infer(
        spectrum, model, draws=options.draws, seed=options.seed, priors=options.priors, noise=options.noise,
        budget=options.budget, nuisances=options.nuisances, labels=options.labels,
    )  # fmt: skip


def _told(posterior: Posterior) -> dict[str, Told]:
    summary, wide = posterior.summary(), posterior.diagnostics.systematic
    out = {}
    for name in posterior.stellar.names:
        entry = summary[name]
        total = wide[name].std if name in wide else entry["std"]
        out[name] = Told(entry["p50"], entry["std"], total)
    v_bary = posterior.v_bary
    if v_bary is not None and "v_rad" in out:
        out["v_rad"] = replace(out["v_rad"], value=v_bary["p50"])
    return out


def _chips(spectrum: Spectrum, model: Model, options: Options) -> tuple[dict[str, Told], ...]:
    """Infer each chip by itself; those that hold too little are left out."""
    seen, out = model.observed(spectrum), []
    for start, stop in seen.grid.chips:
        others = np.ones(seen.grid.n_pixels, dtype=bool)
        others[start:stop] = False
        try:
            out.append(_told(_infer(seen.masked(others), model, options)))
        except MauryError:
            continue
    return tuple(out)


def against_literature(stars: Sequence[Star], seen: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    """Compare with the literature, by label and range of teff (``"all"`` of them).

    Returns
    -------
    dict
        By label, by range: ``number``, ``bias`` (median difference), ``scatter`` (1.48 median absolute deviation), ``over_statistical``
        and ``over_total`` (the same of the differences over their errors, the literature's included where it is told), and
        ``within_two`` (share of differences below two total errors).
    """
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for star, one in zip(stars, seen, strict=True):
        for name, value in star.labels.items():
            if name in one.labels:
                told, theirs = one.labels[name], star.errors.get(name, 0.0)
                teff = star.labels.get("teff", one.labels["teff"].value if "teff" in one.labels else math.nan)
                difference = told.value - value
                found[name].append(
                    (teff, difference, difference / math.hypot(told.std, theirs), difference / math.hypot(told.total, theirs))
                )  # fmt: skip
    out: dict[str, dict[str, Any]] = {}
    for name, rows in found.items():
        values = np.array(rows)
        out[name] = {"all": _compared(values)}
        for low, high in itertools.pairwise(_BINS):
            inside = values[(values[:, 0] >= low) & (values[:, 0] < high)]
            if len(inside):
                out[name][f"{low:.0f}-{high:.0f} K"] = _compared(inside)
    return out


def _compared(rows: Array) -> dict[str, Any]:
    def scatter(x: Array) -> float:
        return float(1.4826 * np.median(np.abs(x - np.median(x))))

    return {
        "number": len(rows),
        "bias": float(np.median(rows[:, 1])),
        "scatter": scatter(rows[:, 1]),
        "over_statistical": scatter(rows[:, 2]),
        "over_total": scatter(rows[:, 3]),
        "within_two": float(np.mean(np.abs(rows[:, 3]) < 2)),
    }


def repeats(stars: Sequence[Star], seen: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    """Compare spectra of one star and kind with each other, by label.

    A combination, number 0 of a file with several spectra, holds the visits' light and is left out.

    Returns
    -------
    dict
        By label: ``number`` of spectra and ``ratio``, the scatter about each star's mean over the statistical errors, pooled.
    """
    combined = {star.file for star in stars if star.index > 0}
    groups: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    for star, one in zip(stars, seen, strict=True):
        if one.labels and not (star.index == 0 and star.file in combined):
            groups[star.star, star.kind].append(one)
    squares: dict[str, float] = defaultdict(float)
    freedom: dict[str, int] = defaultdict(int)
    number: dict[str, int] = defaultdict(int)
    for members in groups.values():
        for name in members[0].labels:
            told = [one.labels[name] for one in members if name in one.labels]
            if len(told) > 1:
                squares[name] += _chi2(told)
                freedom[name] += len(told) - 1
                number[name] += len(told)
    return {n: {"number": number[n], "ratio": math.sqrt(squares[n] / freedom[n])} for n in squares}


def _chi2(told: Sequence[Told], total: bool = False) -> float:
    errors = [t.total if total else t.std for t in told]
    values, weights = np.array([t.value for t in told]), np.array(errors) ** -2.0
    mean = np.average(values, weights=weights)
    return float(weights @ (values - mean) ** 2)


def between_chips(stars: Sequence[Star], seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Compare the chips of each spectrum: chi-squared of the labels that each tells of, and degrees of freedom.

    Over statistical errors (``chi2``): what a library does to all chips alike is no difference between them; and over total ones.
    """
    out = []
    for star, one in zip(stars, seen, strict=True):
        if len(one.chips) < 2:
            continue
        told = {
            name: [chip[name] for chip in one.chips]
            for name in CHIP_LABELS
            if all(name in chip for chip in one.chips)
        }
        parts = {name: _chi2(chips) for name, chips in told.items()}
        out.append(
            {
                "file": star.file, "index": star.index, "chi2": sum(parts.values()), "by_label": parts,
                "chi2_total": sum(_chi2(chips, total=True) for chips in told.values()),
                "freedom": (len(one.chips) - 1) * len(parts),
            }
        )  # fmt: skip
    return out


def figures_of(stars: Sequence[Star], seen: Sequence[Seen], model: str) -> dict[str, Any]:
    """Return all figures: against the literature, repeats, chips, verdicts, and what could not be inferred."""
    verdicts: dict[str, int] = defaultdict(int)
    for one in seen:
        verdicts[one.verdict or "failed"] += 1
    return {
        "model": model,
        "spectra": len(seen),
        "verdicts": dict(verdicts),
        "labels": against_literature(stars, seen),
        "repeats": repeats(stars, seen),
        "chips": between_chips(stars, seen),
        "failed": [
            {"file": star.file, "index": star.index, "reason": one.error}
            for star, one in zip(stars, seen, strict=True)
            if one.error
        ],
    }


def difference_figure(stars: Sequence[Star], seen: Sequence[Seen]) -> Figure:
    """Draw differences from the literature over temperature, a panel a label, with total errors."""
    names = [
        n for n in _KNOWN if any(n in s.labels and n in o.labels for s, o in zip(stars, seen, strict=True))
    ]
    if not names:
        raise ConfigError("no label of the list was inferred: there is nothing to draw")
    figure = new_figure(6.4, 1.8 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        rows = [
            (s.labels.get("teff", math.nan), o.labels[name].value - s.labels[name], o.labels[name].total)
            for s, o in zip(stars, seen, strict=True)
            if name in s.labels and name in o.labels
        ]
        teff, difference, error = np.array(rows).T
        axis.errorbar(teff, difference, error, fmt="o", ms=3, lw=0.8, color=BLUE)
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set_ylabel(quantity(name).axis)
    axes[-1].set_xlabel("effective temperature of the literature [K]")
    return figure


def write(folder: Path, figures: Mapping[str, Any], stars: Sequence[Star], seen: Sequence[Seen]) -> None:
    """Write ``sky.json``, ``sky.html`` and the picture, as far as there is something to show."""
    write_json(folder / "sky.json", finite(dict(figures)))
    picture = None
    if figures["labels"]:
        picture = draw_picture(folder / "differences.png", lambda: difference_figure(stars, seen))
    write_page(
        folder / "sky.html",
        f"Real stars, and {figures['model']}",
        f"{figures['spectra']} real spectra with labels from the literature",
        _sections(figures, picture),
    )


def _sections(figures: Mapping[str, Any], picture: Path | None) -> list[Section]:
    literature = [
        [name, span, str(e["number"]), e["bias"], e["scatter"], e["over_statistical"], e["over_total"],
         Cell(f"{e['within_two']:.2f}", e["within_two"] >= WITHIN)]
        for name, by in figures["labels"].items()
        for span, e in by.items()
    ]  # fmt: skip
    repeated = [
        [name, str(e["number"]), Cell(f"{e['ratio']:.2f}", RATIO[0] <= e["ratio"] <= RATIO[1])]
        for name, e in figures["repeats"].items()
    ]
    chips = [
        [e["file"], str(e["index"]), Cell(f"{e['chi2']:.1f}", e["chi2"] <= 2 * e["freedom"]), str(e["freedom"])]
        for e in figures["chips"]
    ]  # fmt: skip
    verdicts = [[kind, str(number)] for kind, number in figures["verdicts"].items()]
    failed = [[e["file"], str(e["index"]), e["reason"]] for e in figures["failed"]]
    out = [
        Section(
            "Against the literature",
            [
                "Maury less the literature: median, scatter (1.48 median absolute deviations), and the scatter over the stated errors. The "
                "last column is the share of differences below two total errors."
            ],
            ["label", "teff", "spectra", "bias", "scatter", "over statistical", "over total", "within two"],
            literature,
            picture,
            "differences from the literature over temperature, with total errors",
        ),
        Section("Verdicts", (), ["verdict", "spectra"], verdicts),
    ]
    if repeated:
        out.append(
            Section(
                "Repeats",
                ["Scatter of one star's spectra about their mean, over the statistical errors: 1 where these are right."],
                ["label", "spectra", "ratio"],
                repeated,
            )
        )  # fmt: skip
    if chips:
        out.append(
            Section(
                "Chips",
                [
                    "Each chip by itself: chi-squared of its labels about their mean, over statistical errors, and the degrees of freedom."
                ],
                ["file", "number", "chi-squared", "degrees of freedom"],
                chips,
            )
        )
    if failed:
        out.append(Section("Not inferred", (), ["file", "number", "reason"], failed))
    return out
