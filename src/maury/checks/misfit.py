"""How often a wrong model is noticed, and what it does to labels where it is not: figures and pictures of a simulated reality gap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maury.checks.gap import FAULTS, IMPOSTORS, NONE, OPTIONS, Result, impostor
from maury.errors import ConfigError, InferenceError
from maury.figures import new_figure
from maury.files import write_json
from maury.inference.infer import infer
from maury.models import Model
from maury.report.page import Cell, Section, write_page
from maury.report.plots import BLUE, GREY, ORANGE, draw_picture

# Coverage of the 68 % regions that a robust result keeps.
_ENOUGH = 0.6
# Faults beside each other that a picture of coverages has room for.
_FEW = 8


def detection(results: Sequence[Result], false_alarm: float) -> dict[str, dict[str, dict[str, float]]]:
    """Share of spectra that are told to be unlike the model, by fault and strength.

    Parameters
    ----------
    results
        Of any faults; those of the fault ``none`` give the true rate of false alarms.
    false_alarm
        Rate that is asked for.

    Returns
    -------
    dict
        By fault, by strength: ``misfit`` (posterior predictive, or correlated residuals), ``novel`` (feature space), ``either``,
        ``moderate`` and ``severe`` (what is found moves labels so much, or more), and ``number``.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for fault, strength in sorted({(r.fault, r.strength) for r in results}):
        found = [r for r in results if (r.fault, r.strength) == (fault, strength)]
        misfit = np.array([r.p_predictive < false_alarm or r.correlated for r in found])
        novel = np.array([r.p_novelty < false_alarm for r in found])
        out.setdefault(fault, {})[f"{strength:g}"] = {
            "misfit": float(misfit.mean()),
            "novel": float(novel.mean()),
            "either": float((misfit | novel).mean()),
            "moderate": float(np.mean([r.grade in ("moderate", "severe") for r in found])),
            "severe": float(np.mean([r.grade == "severe" for r in found])),
            "number": len(found),
        }
    return out


def needed(false_alarm: float) -> int:
    """Spectra without fault by which a rate of false alarms can be told: ten alarms are to be expected among them."""
    return int(np.ceil(10 / false_alarm))


def check_impostors(model: Model, false_alarm: float) -> dict[str, list[str]]:
    """Return the flags of spectra that are no stars; a refusal counts as its flag."""
    out: dict[str, list[str]] = {}
    for kind in IMPOSTORS:
        try:
            posterior = infer(impostor(kind, instrument=model.instrument), model, false_alarm=false_alarm)
            out[kind] = [*posterior.flag_bad, *posterior.flag_warn]
        except InferenceError as error:
            out[kind] = [error.flag]
    return out


def labels_under(results: Sequence[Result]) -> dict[str, dict[str, dict[str, Any]]]:
    """Bias, error and coverage of each label, by fault (with its strength) and options.

    Returns
    -------
    dict
        By ``fault strength``, by options: ``bias`` (median offset), ``bias_sigma`` (over the median error), ``scatter`` (half of the
        central 68 % of offsets), ``error`` (median) and ``coverage_68`` by label, ``coverage_68_mean`` over all labels, and ``number``.
    """
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for fault, strength, options in sorted({(r.fault, r.strength, r.options) for r in results}):
        found = [r for r in results if (r.fault, r.strength, r.options) == (fault, strength, options)]
        names = list(found[0].offset)
        offset = {k: np.array([r.offset[k] for r in found]) for k in names}
        error = {k: float(np.median([r.error[k] for r in found])) for k in names}
        coverage = {k: float(np.mean([r.inside[k] for r in found])) for k in names}
        bias = {k: float(np.median(v)) for k, v in offset.items()}
        out.setdefault(f"{fault} {strength:g}", {})[options] = {
            "bias": bias,
            "bias_sigma": {k: bias[k] / error[k] for k in names},
            "scatter": {k: float(np.diff(np.quantile(v, [0.159, 0.841]))[0] / 2) for k, v in offset.items()},
            "error": error,
            "coverage_68": coverage,
            "coverage_68_mean": float(np.mean(list(coverage.values()))),
            "number": len(found),
        }
    return out


def detection_figure(found: dict[str, dict[str, dict[str, float]]], false_alarm: float) -> Figure:
    """Draw the share of spectra that is flagged over the strength of each fault."""
    names = [name for name in FAULTS if name in found]
    if not names:
        raise ConfigError("no fault was tried: there is nothing to draw")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(3.4 * columns, 2.9 * rows)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        strengths = sorted(found[name], key=float)
        x = [float(s) for s in strengths]
        for key, colour, label in (
            ("either", "black", "either"),
            ("misfit", BLUE, "residuals"),
            ("novel", ORANGE, "feature space"),
        ):
            width = 4.0 if key == "either" else 1.5
            axis.plot(
                x, [found[name][s][key] for s in strengths], "o-", color=colour, label=label, ms=4, lw=width
            )
        axis.axhline(false_alarm, color=GREY, lw=0.8)
        axis.axvline(FAULTS[name].default, color=GREY, lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
        axis.set_ylim(-0.03, 1.03)
        axis.set_title(name)
    for unused in axes[len(names) :]:
        unused.set_visible(False)
    axes[0].legend(fontsize=8)
    figure.supxlabel("strength (dotted: the default)")
    figure.supylabel("share flagged")
    return figure


def coverage_figure(found: dict[str, dict[str, dict[str, Any]]]) -> Figure:
    """Draw the coverage of 68 % intervals by label, fault and options."""
    # With all strengths there are too many to be given as much room.
    figure = new_figure(1.2 + (1.5 if len(found) <= _FEW else 0.6) * len(found), 4.0)
    axis = figure.subplots()
    colours = dict(zip(OPTIONS, (ORANGE, GREY, BLUE), strict=True))
    for k, (options, colour) in enumerate(colours.items()):
        label: str | None = options
        for i, by_options in enumerate(found.values()):
            if options in by_options:
                values = list(by_options[options]["coverage_68"].values())
                place = i + 0.22 * (k - 1) + np.linspace(-0.05, 0.05, len(values))
                axis.plot(place, values, "o", color=colour, ms=5 if len(found) <= _FEW else 3, label=label)
                label = None
    axis.axhline(0.683, color=GREY, lw=0.8)
    axis.set_xticks(range(len(found)), list(found), rotation=20 if len(found) <= _FEW else 50, ha="right")
    axis.set_ylim(0, 1)
    axis.set_ylabel("truths within 68 % (a point a label)")
    axis.legend(fontsize=9)
    return figure


def write(folder: Path, figures: dict[str, Any]) -> None:
    """Write ``misfit.html``, ``misfit.json``, and the pictures as far as there is something to show."""
    write_json(folder / "misfit.json", figures)
    curves = None
    if set(figures["detection"]) - {NONE.name}:
        curves = draw_picture(
            folder / "detection.png",
            lambda: detection_figure(figures["detection"], figures["false_alarm"]),
        )
    covered = draw_picture(folder / "coverage.png", lambda: coverage_figure(figures["labels"]))
    write_page(
        folder / "misfit.html",
        f"Wrong models, and {figures['model']}",
        "simulated spectra, spoilt in known ways: whether it is noticed, and what becomes of the labels",
        _sections(figures, curves, covered),
    )


def _sections(figures: dict[str, Any], curves: Path | None, covered: Path | None) -> list[Section]:
    rate = figures["false_alarm"]
    detected = [
        [
            f"{fault} {strength}",
            *(entry[k] for k in ("misfit", "novel", "either", "moderate", "severe")),
            str(entry["number"]),
        ]
        for fault, by in figures["detection"].items()
        for strength, entry in by.items()
    ]
    labels = [
        [fault, options, Cell(f"{e['coverage_68_mean']:.2f}", e["coverage_68_mean"] >= _ENOUGH)]
        + [f"{e['bias'][k]:+.3g} ({e['bias_sigma'][k]:+.1f})" for k in e["bias"]]
        for fault, by in figures["labels"].items()
        for options, e in by.items()
    ]
    names = list(next(iter(next(iter(figures["labels"].values())).values()))["bias"])
    return [
        Section(
            "Detection",
            [
                f"Share of spectra in which something is found, at a rate of false alarms of {rate:g} for each kind of evidence, and in "
                "which it moves labels by 0.5 (moderate) or 2 (severe) of their total errors."
            ]
            + [f"{name}: {meaning}." for name, meaning in figures["meaning"].items()],
            ["fault", "residuals", "feature space", "either", "moderate or severe", "severe", "spectra"],
            detected,
            curves,
            "share flagged over the strength of each fault",
        ),
        Section(
            "What is no star",
            (),
            ["spectrum", "flags"],
            [[kind, Cell(", ".join(flags), bool(flags))] for kind, flags in figures["impostors"].items()],
        ),
        Section(
            "Labels",
            [
                "Median offset from the truth (in units of the stated error), and the share of truths within central 68 % intervals.",
                "Options: independent pixels; auto, correlated residuals where there are any; robust, beside these a companion where there "
                "is one, and the error between libraries where it is known.",
            ],
            ["fault", "options", "within 68 %", *names],
            labels,
            covered,
            "coverage of 68 % intervals by label, fault and options",
        ),
    ]
