"""Figures of one posterior. They are made without pyplot: no global state, no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from corner import corner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from maury.files import writing
from maury.labels import LabelSet

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

# Okabe & Ito's colours: told apart by everyone.
BLUE, ORANGE, GREY, RED = "#0072B2", "#E69F00", "#8A8A8A", "#D55E00"
CHIP_NAMES = ("blue chip", "green chip", "red chip")
_CORNER_DRAWS = 20_000


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure in inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG by a temporary name."""
    with writing(path) as temporary:
        figure.savefig(temporary, dpi=130)


def loss_figure(steps: Sequence[int], nats: Sequence[float]) -> Figure:
    """Draw validation log density against training steps."""
    figure = new_figure(7, 4)
    axis = figure.subplots()
    axis.plot(steps, nats, color=BLUE, marker="o", ms=3)
    axis.set_xlabel("training step")
    axis.set_ylabel("mean log density of the truth [nats]")
    axis.set_title("validation spectra, density over u (prior = N(0, 1))", fontsize=11)
    axis.grid(alpha=0.3)
    return figure


def _axis_names(labels: LabelSet) -> list[str]:
    return [f"{label.symbol} [{label.unit}]" if label.unit else label.symbol for label in labels.labels]


def _ranges(
    *samples: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Range of each label that holds 99.5 % of every sample, a little wider, inside the prior."""
    edges = np.array([np.quantile(sample, [0.0025, 0.9975], axis=0) for sample in samples])
    start, stop = edges[:, 0].min(0), edges[:, 1].max(0)
    pad = 0.08 * np.maximum(stop - start, 1e-9)
    return [
        (float(a), float(b))
        for a, b in zip(np.maximum(start - pad, low), np.minimum(stop + pad, high), strict=True)
    ]


def corner_figure(posterior: Posterior, truth: Mapping[str, float] | None = None) -> Figure:
    """Corner plot: the verified posterior (blue) over the flow's (orange); 39 % and 86 % regions, the truth (red) if known."""
    labels = posterior.labels.select(posterior.labels.names[:-1])
    n = len(labels)
    verified, flow = posterior.resample(_CORNER_DRAWS)[:, :n], posterior.flow_draws
    figure = Figure(figsize=(1.9 * n + 0.8, 1.9 * n + 0.8))
    FigureCanvasAgg(figure)
    limits = _ranges(verified, flow, low=labels.low.numpy(), high=labels.high.numpy())
    # One and two sigma of a two-dimensional Gaussian.
    options = {"bins": 30, "range": limits, "levels": (0.393, 0.865), "smooth": 1.0, "plot_datapoints": False}
    for sample, colour in ((flow, ORANGE), (verified, BLUE)):
        corner(
            sample,
            fig=figure,
            labels=_axis_names(labels),
            color=colour,
            weights=np.full(len(sample), 1 / len(sample)),
            plot_density=False,
            fill_contours=colour == BLUE,
            no_fill_contours=colour != BLUE,
            hist_kwargs={"lw": 1.6},
            label_kwargs={"fontsize": 12},
            max_n_ticks=4,
            **options,
        )
    handles = [
        Line2D([], [], color=ORANGE, label="flow"),
        Line2D([], [], color=BLUE, label=f"verified ({posterior.method})"),
    ]
    if truth is not None:
        axes = np.array(figure.axes).reshape(n, n)
        for i, name in enumerate(labels.names):
            for row in range(i, n):
                axes[row, i].axvline(truth[name], color=RED, lw=1)
            for column in range(i):
                axes[i, column].axhline(truth[labels.names[i]], color=RED, lw=1)
        handles.append(Line2D([], [], color=RED, label="truth"))
    title = f"{posterior.spectrum.id}\n{posterior.model}, k-hat {posterior.khat:.2f}, ESS {posterior.ess:.0f}"
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.97, 0.97),
        fontsize=13,
        title=title,
        title_fontsize=12,
    )
    return figure


def fit_figure(posterior: Posterior) -> Figure:
    """Observed spectrum (black), model (orange), residual in units of its error, and pixels out of use (grey), chip by chip."""
    spectrum, fit = posterior.spectrum, posterior.fit
    grid = spectrum.grid
    model, residual, error = (np.full(grid.n_pixels, np.nan) for _ in range(3))
    model[fit.pixels], residual[fit.pixels] = fit.flux, fit.residual
    jitter = posterior.quantile("jitter", 0.5)
    error[fit.pixels] = np.sqrt(1 / spectrum.ivar[fit.pixels] + (jitter * fit.flux) ** 2)
    used = np.zeros(grid.n_pixels, dtype=bool)
    used[fit.pixels] = True

    n = len(grid.chips)
    figure = new_figure(15, 3.6 * n)
    figures = figure.subplots(2 * n, 1, gridspec_kw={"height_ratios": [3, 1] * n})
    for i, (start, stop) in enumerate(grid.chips):
        chip = slice(start, stop)
        wavelength, good = grid.wavelength[chip], used[chip]
        upper, lower = figures[2 * i], figures[2 * i + 1]
        scale = np.nanmedian(spectrum.flux[chip][good]) if good.any() else 1.0
        flux = spectrum.flux[chip] / (scale or 1.0)
        upper.plot(wavelength, np.where(good, flux, np.nan), color="black", lw=0.7, label="observed")
        upper.plot(wavelength, np.where(good, np.nan, flux), color=GREY, lw=0.5, alpha=0.5, label="not used")
        upper.plot(wavelength, model[chip] / (scale or 1.0), color=ORANGE, lw=0.8, label="model x continuum")
        if good.any():
            low, high = np.nanquantile(flux[good], [0.001, 0.999])
            upper.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
        lower.axhspan(-1, 1, color=BLUE, alpha=0.15, lw=0)
        lower.plot(wavelength, residual[chip] / error[chip], color=BLUE, lw=0.5)
        lower.set_ylim(-5, 5)
        for axis in (upper, lower):
            axis.set_xlim(wavelength[0], wavelength[-1])
        upper.tick_params(labelbottom=False)
        upper.set_ylabel("flux / median")
        lower.set_ylabel(r"residual [$\sigma$]")
        name = CHIP_NAMES[i] if n == len(CHIP_NAMES) else f"chip {i + 1}"
        upper.text(0.005, 0.04, name, transform=upper.transAxes, fontsize=10)
    figures[0].legend(loc="lower right", ncols=3, fontsize=9)
    figures[-1].set_xlabel("vacuum wavelength [Angstrom]")
    figure.suptitle(
        f"{spectrum.id}: chi2/n {fit.rchi2:.2f} with the file's errors, {fit.rchi2_jitter:.2f} with jitter "
        f"{100 * jitter:.1f} %; {fit.pixels.size} of {grid.n_pixels} pixels used",
        fontsize=12,
    )
    return figure
