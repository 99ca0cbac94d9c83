"""What calibration outcomes say, all together and by S/N, teff and v_sini: figures, pictures and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from maury.checks.calibration import Outcome
from maury.checks.coverage import Coverage, bins, central_credibility, coverage, needed
from maury.checks.local import FEWEST as FEWEST_LOCAL
from maury.checks.local import local_coverage
from maury.errors import ConfigError
from maury.figures import new_figure
from maury.files import write_ecsv, write_json
from maury.labels import LabelSet
from maury.models import Model
from maury.networks.conformal import FEWEST, FILE, Conformal
from maury.report.page import Cell, Section, write_page
from maury.report.plots import BLUE, GREY, ORANGE, draw_picture
from maury.sampling.verification import KHAT_LIMIT

Array = NDArray[np.float64]
# A bin with fewer spectra says nothing.
_FEWEST = 20
_SMALL_P = 0.01
CONFORMAL = "flow, conformal"
_EDGES = {"snr": (10.0, 30.0, 100.0, 300.0), "v_sini": (0.0, 5.0, 30.0, 100.0)}


def credibilities(outcomes: Sequence[Outcome], model: Model) -> dict[str, dict[str, Array]]:
    """Credibilities ``(n,)`` of the truths, by stage (``verified``, ``flow``) and statistic.

    Statistics are ``joint`` (highest density), ``tarp``, and each label's name (central intervals).
    """
    ranks = np.array([o.ranks for o in outcomes])
    flow_ranks = np.array([o.flow_ranks for o in outcomes])
    out: dict[str, dict[str, Array]] = {}
    for stage, prefix, found, labels in (
        ("verified", "", ranks, model.problem.inferred),
        ("flow", "flow_", flow_ranks, model.problem.stellar),
    ):
        out[stage] = {
            "joint": np.array([getattr(o, f"{prefix}credibility") for o in outcomes]),
            "tarp": np.array([getattr(o, f"{prefix}tarp") for o in outcomes]),
            **{name: central_credibility(found[:, i]) for i, name in enumerate(labels.names)},
        }
    return out


def _judged(values: Array) -> dict[str, float]:
    found = coverage(values)
    return {
        "error": found.error,
        "band": found.band,
        "p_value": found.p_value,
        "bias": found.bias,
        "share_in_68": float(np.mean(values < 0.683)),
        "number": found.number,
    }


def _binned(outcomes: Sequence[Outcome], values: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Judge the statistics in bins of S/N, teff and v_sini."""
    teff = np.array([o.teff for o in outcomes])
    edges = {**_EDGES, "teff": tuple(np.quantile(teff, [0, 1 / 3, 2 / 3, 1]).round())}
    out: dict[str, dict[str, Any]] = {}
    for key, these in edges.items():
        place = np.clip([getattr(o, key) for o in outcomes], these[0], these[-1])
        for name, member in bins(place, np.array(these)):
            if member.sum() >= _FEWEST:
                out.setdefault(key, {})[name] = {k: _judged(v[member]) for k, v in values.items()}
    return out


def _recalibrated(values: Mapping[str, Array]) -> dict[str, Array]:
    """Return what split-conformal recalibration by every other truth makes of the credibilities of the rest; nothing of few."""
    known, new = ({key: value[i::2] for key, value in values.items() if key != "tarp"} for i in (0, 1))
    if len(known["joint"]) < FEWEST:
        return {}
    conformal = Conformal.of(known)
    # A truth lies on the edge of the region of the level at which it is let in.
    return {
        key: np.searchsorted(conformal.scores[key], value, side="left") / (len(conformal.scores[key]) + 1)
        for key, value in new.items()
    }


def _local(outcomes: Sequence[Outcome], values: Mapping[str, Mapping[str, Array]]) -> dict[str, Any]:
    """Test whether joint regions hold their share of truths everywhere."""
    known = {name: np.array([getattr(o, name) for o in outcomes]) for name in ("teff", "v_sini", "snr")}
    return {
        stage: asdict(local_coverage(found["joint"], known))
        for stage, found in values.items()
        if len(outcomes) >= FEWEST_LOCAL
    }


def report(outcomes: Sequence[Outcome], model: Model) -> dict[str, Any]:
    """Return figures over all outcomes.

    Raises
    ------
    ConfigError
        If a posterior's draws are not finite.
    """
    ranks = np.array([o.ranks for o in outcomes])
    if not np.isfinite(ranks).all():
        raise ConfigError(
            f"ranks of {int((~np.isfinite(ranks).all(1)).sum())} of {len(ranks)} spectra are not finite"
        )
    density, limit, limit_prior, khat, efficiency = (
        np.array([getattr(o, k) for o in outcomes])
        for k in ("log_density", "limit", "limit_prior", "khat", "efficiency")
    )
    figures = {
        "spectra": len(outcomes),
        "efficiency_median": float(np.median(efficiency)),
        "efficiency_p05": float(np.quantile(efficiency, 0.05)),
        "ess_median": float(np.median([o.ess for o in outcomes])),
        "khat_below_limit": float(np.mean(khat < KHAT_LIMIT)),
        "nested": sum(o.method == "nested" for o in outcomes),
        "rank_ks_p": {
            name: float(stats.kstest(ranks[:, i], "uniform").pvalue)
            for i, name in enumerate(model.problem.inferred.names)
        },
        "flow_log_density_mean": float(density.mean()),
        "flow_log_density_median": float(np.median(density)),
        "information_limit_mean": float(limit.mean()),
        "information_limit_with_prior_mean": float(limit_prior.mean()),
        "seconds_median": float(np.median([o.seconds for o in outcomes])),
        "evaluations_median": float(np.median([o.evaluations for o in outcomes])),
    }
    if len(outcomes) < _FEWEST:
        return figures
    values = credibilities(outcomes, model)
    covered = {stage: {k: _judged(v) for k, v in found.items()} for stage, found in values.items()}
    recalibrated = _recalibrated(values["flow"])
    if recalibrated:
        covered[CONFORMAL] = {key: _judged(value) for key, value in recalibrated.items()}
    return figures | {
        "coverage": covered,
        "coverage_by": {stage: _binned(outcomes, found) for stage, found in values.items()},
        "local": _local(outcomes, values),
    }


def write_outcomes(folder: Path, outcomes: Sequence[Outcome], figures: dict[str, Any], model: Model) -> None:
    """Write ``calibration.html``, ``calibration.json``, the table of all spectra ``calibration.ecsv``, and the pictures.

    And, of 100 spectra or more, ``conformal.json``: in the model's folder the flow's intervals can be recalibrated by it.
    """
    from astropy.table import Table

    inferred, stellar = model.problem.inferred, model.problem.stellar
    table = Table({f"true_{name}": [o.truth[i] for o in outcomes] for i, name in enumerate(inferred.names)})
    for i, name in enumerate(inferred.names):
        table[f"rank_{name}"] = [o.ranks[i] for o in outcomes]
    for i, name in enumerate(stellar.names):
        table[f"flow_rank_{name}"] = [o.flow_ranks[i] for o in outcomes]
    for key in (
        "snr",
        "credibility",
        "flow_credibility",
        "tarp",
        "flow_tarp",
        "log_density",
        "limit",
        "limit_prior",
        "khat",
        "efficiency",
        "ess",
        "method",
        "seconds",
        "evaluations",
    ):
        table[key] = [getattr(o, key) for o in outcomes]
    write_ecsv(folder / "calibration.ecsv", table)
    write_json(folder / "calibration.json", figures)
    if len(outcomes) >= FEWEST:
        Conformal.of(credibilities(outcomes, model)["flow"]).save(folder / FILE)
    ranks = draw_picture(
        folder / "ranks.png", lambda: rank_figure(np.array([o.ranks for o in outcomes]), inferred)
    )
    covered = None
    if len(outcomes) >= _FEWEST:
        covered = draw_picture(
            folder / "coverage.png", lambda: coverage_figure(credibilities(outcomes, model))
        )
    write_page(
        folder / "calibration.html",
        f"Calibration of {model.name}",
        f"{len(outcomes)} spectra drawn from the prior, each inferred and compared with its truth",
        _sections(figures, ranks, covered),
    )


def _sections(figures: Mapping[str, Any], ranks: Path | None, covered: Path | None) -> list[Section]:
    """Return what the page shows, in the order in which it is asked."""
    ks = figures["rank_ks_p"]
    keys = (
        ("khat_below_limit", "share with k-hat below 0.7 (no nested sampling needed)"),
        ("efficiency_median", "sampling efficiency of the verified posterior, median"),
        ("efficiency_p05", "the same, 5th percentile"),
        ("flow_log_density_mean", "log density of the flow at the truth, mean [nats]"),
        ("information_limit_with_prior_mean", "information limit of that, mean [nats]"),
        ("seconds_median", "seconds a spectrum, median"),
        ("evaluations_median", "likelihood evaluations a spectrum, median"),
    )
    number = figures["spectra"]
    found = [
        Section(
            "Ranks of the truth",
            [
                "If posteriors are right, the share of a posterior below the truth is uniform. The band holds the whole curve of a right "
                "posterior in 99 of 100 cases.",
            ],
            ["label", *ks],
            [["Kolmogorov-Smirnov p", *(Cell(f"{p:.3g}", p > _SMALL_P) for p in ks.values())]],
            ranks,
            "empirical distribution of ranks minus the uniform one, by label",
        ),
        Section("Figures", (), ["quantity", ""], [[text, figures[key]] for key, text in keys]),
    ]
    if "coverage" not in figures:
        return [*found, Section("Coverage", [f"It needs at least {_FEWEST} spectra; there are {number}."])]
    header = ["statistic", "largest error", "99 % band", "p", "bias", "share within 68.3 %"]
    for stage in figures["coverage"]:
        rows = [_row(name, e) for name, e in figures["coverage"][stage].items()]
        text = [
            "Shares of truths within regions of each credibility: joint (highest density), TARP (balls around random points) and "
            f"central intervals by label. An error of 0.03 is told from none by {needed(0.03)} spectra; there are {number}.",
        ]
        picture = covered if stage == "verified" else None
        found.append(Section(f"Coverage, {stage} posterior", text, header, rows, picture))
    if figures["local"]:
        found.append(_local_section(figures["local"]))
    for stage in ("verified", "flow"):
        rows = [
            _row(f"{key} {name}: {statistic}", e)
            for key, by in figures["coverage_by"][stage].items()
            for name, values in by.items()
            for statistic, e in values.items()
            if statistic in ("joint", "tarp")
        ]
        found.append(Section(f"By S/N, v_sini and teff, {stage} posterior", (), header, rows))
    return found


def _local_section(local: Mapping[str, Mapping[str, Any]]) -> Section:
    """Show the local test."""

    def where(place: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in place.items())

    rows: list[list[str | float | Cell]] = [
        [
            stage,
            Cell(f"{e['p_value']:.3g}", e["p_value"] > _SMALL_P),
            f"{e['lowest']:.3f} at {where(e['where_lowest'])}",
            f"{e['highest']:.3f} at {where(e['where_highest'])}",
        ]
        for stage, e in local.items()
    ]
    text = [
        "Whether teff, v_sini and S/N predict that a truth lies outside its joint region: nothing does if posteriors are right everywhere. "
        "The share of truths inside the 68.3 % region is what a regression expects where it is lowest and highest."
    ]
    return Section("Local coverage", text, ["stage", "p", "lowest", "highest"], rows)


def _row(name: str, entry: Mapping[str, float]) -> list[str | float | Cell]:
    inside = entry["error"] <= entry["band"]
    return [
        name,
        Cell(f"{entry['error']:.3f}", inside),
        f"{entry['band']:.3f}",
        entry["p_value"],
        f"{entry['bias']:+.3f}",
        f"{entry['share_in_68']:.3f}",
    ]


def rank_figure(ranks: Array, labels: LabelSet) -> Figure:
    """Draw the ranks' empirical distribution minus the uniform one, by label, with the 99 % band of a Kolmogorov-Smirnov test."""
    n, d = ranks.shape
    columns = (d + 1) // 2
    figure = new_figure(3.2 * columns, 5.2)
    axes = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False).ravel()
    band = float(stats.kstwo.ppf(0.99, n))
    for i, label in enumerate(labels.labels):
        x = np.sort(ranks[:, i])
        axes[i].axhspan(-band, band, color=GREY, alpha=0.25, lw=0)
        axes[i].axhline(0, color=GREY, lw=0.8)
        axes[i].step(x, (np.arange(n) + 1) / n - x, color=BLUE, where="post")
        axes[i].set_title(label.symbol)
    for unused in axes[d:]:
        unused.set_visible(False)
    axes[0].set_ylabel("ECDF - uniform")
    axes[columns].set_ylabel("ECDF - uniform")
    figure.supxlabel(f"rank of the truth ({n} spectra; band: 99 %)")
    return figure


def coverage_figure(values: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Draw share within minus level, of the flow (orange) and the verified posterior (blue), with the 99 % band."""
    names = list(values["verified"])
    columns = (len(names) + 2) // 3
    figure = new_figure(3.1 * columns, 7.2)
    axes = figure.subplots(3, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        for stage, colour in (("flow", ORANGE), ("verified", BLUE)):
            if name in values[stage]:
                found: Coverage = coverage(values[stage][name])
                axis.plot(found.level, found.share - found.level, color=colour, label=stage)
        axis.axhspan(-found.band, found.band, color=GREY, alpha=0.25, lw=0)
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set_title(name)
    for unused in axes[len(names) :]:
        unused.set_visible(False)
    axes[0].legend(fontsize=9)
    figure.supxlabel(f"credibility ({len(values['verified']['joint'])} spectra; band: 99 %)")
    figure.supylabel("share of truths within, minus credibility")
    return figure
