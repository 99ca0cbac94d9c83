"""``report.json`` and ``report.md``: an experiment's figures beside the paper's."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import maury
from maury.files import writing
from maury.labels import LabelSet
from maury.sampling.chains import Chains

# "The paper" wherever it is meant, and what it tells of its five-label system.
REFERENCE = (
    "*Bayesian Inference on Stellar Spectra with Flow-based Model* ([Gupta, Liu, Vazquez-Segovia, Wei & Zhu 2024]"
    "(https://ui.adsabs.harvard.edu/search/q=title%3A%22Bayesian%20Inference%20on%20Stellar%20Spectra%20with%20Flow-based%20Model%22))"
)
PAPER = {
    "log_density": "9.8 nats",
    "training": "95 min on a data-centre GPU",
    "efficiency_flow": "0.014-0.028",
    "simulator": "5 spectra/s a core",
}


def machine() -> dict[str, Any]:
    """Return what an experiment ran on."""
    return {"maury": maury.__version__, "python": platform.python_version(), "cores": os.cpu_count()}


def agreement(draws: np.ndarray[Any, Any], chains: Chains, labels: LabelSet) -> dict[str, dict[str, float]]:
    """Compare equally weighted draws ``(n, n_labels)`` with chains: shift of the median in sigma, and ratio of the widths."""
    out = {}
    for i, name in enumerate(labels.names):
        a, b = draws[:, i], chains.draws[:, i]
        out[name] = {
            "shift_sigma": float((np.median(a) - np.median(b)) / b.std()),
            "width_ratio": float(a.std() / b.std()),
        }
    return out


def chain_figures(chains: Chains, seconds: float) -> dict[str, Any]:
    """Return what a report tells of a chain."""
    return {
        "draws": len(chains.draws),
        "evaluations": chains.evaluations,
        "seconds": round(seconds, 1),
        "tau_max": float(np.max(chains.tau)),
        "rhat_max": float(np.max(chains.rhat)),
        "acceptance": chains.acceptance,
        "converged": chains.converged,
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def write_report(
    folder: Path,
    title: str,
    words: Sequence[str],
    figures: Mapping[str, Any],
    rows: Sequence[Sequence[Any]],
    pictures: Mapping[str, str],
) -> None:
    """Write both reports.

    Parameters
    ----------
    folder
        Where the pictures are.
    title, words
        Heading, and paragraphs below it.
    figures
        Everything measured; goes to ``report.json``.
    rows
        Of the table in ``report.md``: quantity, here, the paper.
    pictures
        File name to caption.
    """
    lines = [f"# {title}", "", f'An experiment of {REFERENCE}, "the paper".', ""]
    for paragraph in words:
        lines += [paragraph, ""]
    lines += [*_table(["quantity", "here", "the paper"], rows), ""]
    compared = figures.get("verified_against_mcmc")
    if compared:
        lines += ["Verified posterior of the example against MCMC on the same likelihood:", ""]
        entries = [[name, entry["shift_sigma"], entry["width_ratio"]] for name, entry in compared.items()]
        lines += [*_table(["label", "shift of the median [sigma]", "ratio of the widths"], entries), ""]
    for name, caption in pictures.items():
        if not (folder / name).exists():
            continue
        lines += [f"![{caption}]({name})", "", f"*{caption}*", ""]
    with writing(folder / "report.md") as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    with writing(folder / "report.json") as temporary:
        temporary.write_text(
            json.dumps({"title": title, **figures, "machine": machine()}, indent=1) + "\n", encoding="utf-8"
        )
