"""Figures of one posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from corner import corner
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from maury.errors import InferenceError, MauryWarning
from maury.figures import InlineFigure, new_figure
from maury.files import first_line, writing
from maury.forward.binary import RATIO, Pair
from maury.labels import LabelSet
from maury.text import for_picture

if TYPE_CHECKING:
    from maury.posterior.joint import JointPosterior
    from maury.posterior.result import Posterior
    from maury.posterior.summary import WeightedDraws

# Okabe & Ito's colours: told apart by everyone.
BLUE, ORANGE, GREY, RED, GREEN = "#0072B2", "#E69F00", "#8A8A8A", "#D55E00", "#009E73"
CHIP_NAMES = ("blue chip", "green chip", "red chip")
_CORNER_DRAWS = 20_000


def draw_picture(path: Path, make: Callable[[], Figure]) -> Path | None:
    """Write what ``make`` draws as a PNG; a picture that fails is a `MauryWarning`, for none is worth a run.

    It fails by a disk that is full, and by settings of the user's: TeX that is asked for and not there, a font that is not.

    Returns
    -------
    Path or None
        The picture, if there is one. One of an earlier run is not taken for it.
    """
    path.unlink(missing_ok=True)
    try:
        figure = make()
        with writing(path) as temporary:
            figure.savefig(temporary, dpi=130)
    except Exception as error:
        warnings.warn(f"{path}: could not be drawn ({first_line(error)})", MauryWarning, stacklevel=2)
        return None
    return path


def _axis_names(labels: LabelSet) -> list[str]:
    return [label.axis for label in labels.labels]


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
    labels = posterior.stellar
    # The flow of a single star says nothing of a companion's labels.
    flow = {"flow": posterior.flow_draws} if posterior.flow_draws.shape[1] == len(labels) else {}
    samples = {
        **flow,
        f"verified ({posterior.method})": posterior.sample(_CORNER_DRAWS)[:, : len(labels)],
    }
    title = f"{for_picture(posterior.spectrum.id)}\n{for_picture(posterior.model)}, k-hat {posterior.khat:.2f}, ESS {posterior.ess:.0f}"
    return samples_figure(samples, labels, truth, title)


def corner_of_draws(found: WeightedDraws, truth: Mapping[str, float] | None = None) -> Figure:
    """Corner plot of the star's labels; 39 % and 86 % regions, the truth (red) if known."""
    labels = found.stellar
    columns = [found.labels.index(name) for name in labels.names]
    return samples_figure({"verified": found.sample(_CORNER_DRAWS)[:, columns]}, labels, truth)


def samples_figure(
    samples: Mapping[str, NDArray[np.float64]],
    labels: LabelSet,
    truth: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Corner plot of one or two samples ``(n, n_labels)`` by name, the last filled; 39 % and 86 % regions."""
    n = len(labels)
    # A corner of two labels has no room for a legend but above.
    figure = InlineFigure(figsize=(1.9 * n + 0.8, 1.9 * n + 0.8) if n > 2 else (6, 6))
    limits = _ranges(*samples.values(), low=labels.low.numpy(), high=labels.high.numpy())
    # One and two sigma of a two-dimensional Gaussian.
    options = {"bins": 30, "range": limits, "levels": (0.393, 0.865), "smooth": 1.0, "plot_datapoints": False}
    colours = dict(zip(samples, (ORANGE, BLUE)[-len(samples) :], strict=True))
    for name, sample in samples.items():
        filled = colours[name] == BLUE
        corner(
            sample,
            fig=figure,
            labels=_axis_names(labels),
            color=colours[name],
            weights=np.full(len(sample), 1 / len(sample)),
            plot_density=False,
            fill_contours=filled,
            no_fill_contours=not filled,
            hist_kwargs={"lw": 1.6},
            label_kwargs={"fontsize": 12},
            max_n_ticks=4,
            **options,
        )
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    if truth is not None:
        axes = np.array(figure.axes).reshape(n, n)
        for i, name in enumerate(labels.names):
            for row in range(i, n):
                axes[row, i].axvline(truth[name], color=RED, lw=1)
            for column in range(i):
                axes[i, column].axhline(truth[labels.names[i]], color=RED, lw=1)
        handles.append(Line2D([], [], color=RED, label="truth"))
    size = 13 if n > 2 else 9
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.97, 0.97),
        fontsize=size,
        title=title,
        title_fontsize=size - 1,
    )
    return figure


def walkers_figure(
    chain: NDArray[np.float64], labels: LabelSet, truth: Mapping[str, float] | None = None
) -> Figure:
    """Draw every walker of chains ``(n_steps, n_walkers, n_labels)`` against the step, label by label."""
    n = len(labels)
    figure = new_figure(9, 1.5 * n + 0.6)
    axes = np.atleast_1d(figure.subplots(n, 1, sharex=True))
    thin = max(1, len(chain) // 1500)
    for i, (axis, name) in enumerate(zip(axes, _axis_names(labels), strict=True)):
        steps = np.arange(0, len(chain), thin)
        axis.plot(steps, chain[::thin, :, i], color="black", lw=0.3, alpha=0.25, rasterized=True)
        if truth is not None:
            axis.axhline(truth[labels.names[i]], color=RED, lw=1)
        axis.set_ylabel(name, fontsize=9)
    axes[-1].set_xlabel("step after burn-in")
    figure.suptitle(
        f"{chain.shape[1]} walkers" + ("; red: the truth" if truth is not None else ""), fontsize=11
    )
    return figure


def total_error(posterior: Posterior) -> NDArray[np.float64]:
    """Error of each used pixel with the correlated part of the noise, in the units of the spectrum, shape ``(n,)``."""
    fit, process = posterior.fit, posterior.diagnostics.residuals
    if process is None or not process.used:
        return fit.sigma
    deviation = process.amplitude * fit.continuum
    deviation += process.in_lines * np.clip(fit.continuum - fit.flux, 0, None)
    return np.hypot(fit.sigma, deviation)


def fit_figure(posterior: Posterior) -> Figure:
    """Observed spectrum (black), model (orange), residual in units of its error, and pixels out of use (grey), chip by chip.

    Where residuals are correlated, what those before a pixel let expect of it is drawn over them (orange).
    """
    spectrum, fit = posterior.spectrum, posterior.fit
    grid = spectrum.grid
    model, residual, error = (np.full(grid.n_pixels, np.nan) for _ in range(3))
    model[fit.pixels], residual[fit.pixels] = fit.flux, fit.residual
    noise = f"jitter {100 * posterior.quantile('jitter', 0.5):.1f} %"
    process = posterior.diagnostics.residuals
    if process and process.used:
        noise += (
            f", {100 * process.amplitude:.1f} % (in lines {100 * process.in_lines:.0f} % of their depth) "
            f"correlated over {process.scale:.0f} km/s"
        )
    error[fit.pixels] = total_error(posterior)
    predicted = np.full(grid.n_pixels, np.nan)
    predicted[fit.pixels] = fit.predicted
    used = np.zeros(grid.n_pixels, dtype=bool)
    used[fit.pixels] = True

    n = len(grid.chips)
    names = spectrum.meta.get("chips") or (
        CHIP_NAMES if n == len(CHIP_NAMES) else [f"chip {i + 1}" for i in range(n)]
    )
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
        if process and process.used:
            lower.plot(wavelength, predicted[chip] / error[chip], color=ORANGE, lw=0.5)
        lower.set_ylim(-5, 5)
        for axis in (upper, lower):
            axis.set_xlim(wavelength[0], wavelength[-1])
        upper.tick_params(labelbottom=False)
        upper.set_ylabel("flux / median")
        lower.set_ylabel(r"residual [$\sigma$]")
        name = for_picture(str(names[i]))
        upper.text(0.005, 0.04, name, transform=upper.transAxes, fontsize=10)
    figures[0].legend(loc="lower right", ncols=3, fontsize=9)
    figures[-1].set_xlabel("vacuum wavelength [Angstrom]")
    figure.suptitle(
        f"{for_picture(spectrum.id)}: chi2/n {fit.rchi2:.2f} with the file's errors, {fit.rchi2_jitter:.2f} with {noise}; "
        f"{fit.pixels.size} of {grid.n_pixels} pixels used",
        fontsize=12,
    )
    return figure


def companion_figure(posterior: Posterior, low: float, high: float) -> Figure:
    """Observed spectrum between two wavelengths (Angstrom), both stars' light together, and each star's alone, at the best draw.

    Raises
    ------
    InferenceError
        If there is one star, the posterior was loaded from a file, or no pixel lies between the two.
    """
    pixels = None if posterior.target is None else posterior.target.likelihood.pixels
    pair = None if pixels is None else pixels.model
    if pixels is None or not isinstance(pair, Pair):
        raise InferenceError(
            "one star's light was fitted, or the posterior comes from a file: infer the spectrum with companion='auto'"
        )
    fit = posterior.fit
    wavelength = posterior.spectrum.grid.wavelength[fit.pixels]
    shown = (wavelength > low) & (wavelength < high)
    if not shown.any():
        raise InferenceError(f"no pixel of the spectrum was used between {low:g} and {high:g} Angstrom")
    best = torch.from_numpy(posterior.draws[(posterior.log_likelihood + posterior.log_prior).argmax()])
    with torch.no_grad():
        first, second = (
            pixels.to_pixels(pair.single(pair.stars(best[None, : pair.n_labels]))).double().numpy()
        )
    ratio = float(best[posterior.labels.index(RATIO)])
    curves = {
        "both stars": (RED, fit.flux / fit.continuum),
        "first star": (BLUE, first / (1 + ratio)),
        "companion": (GREEN, second * ratio / (1 + ratio)),
    }
    figure = new_figure(9, 4)
    axis = figure.subplots()
    observed = (fit.flux + fit.residual) / fit.continuum
    axis.step(wavelength[shown], observed[shown], color=GREY, where="mid", label="observed")
    for name, (colour, light) in curves.items():
        axis.plot(wavelength[shown], light[shown], color=colour, label=name)
    axis.set(xlabel="vacuum wavelength [Angstrom]", ylabel="flux / continuum", xlim=(low, high))
    axis.set_ylim(0, 1.2 * max(1.0, float(np.nanmax(observed[shown]))))
    axis.legend(ncols=4, loc="upper center", fontsize=9)
    return figure


def visits_figure(star: JointPosterior) -> Figure:
    """Velocities of a star's visits at the barycentre, and each visit's own labels beside the joint ones (0 +- 1)."""
    joint, n = star.summary(), len(star.visits)
    place = np.arange(1, n + 1)
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    known = all(v is not None for v in star.v_bary())
    centre = star.v_bary() if known else [joint[f"v_rad_{i}"]["p50"] for i in place]
    error = [joint[f"v_rad_{i}"]["std"] for i in place]
    left.errorbar(place, centre, yerr=error, fmt="o", color=BLUE, capsize=3)
    left.set_xticks(place)
    left.set_xlabel("visit")
    left.set_ylabel("barycentric velocity [km/s]" if known else "velocity [km/s]")
    if star.velocity_variation is not None:
        left.set_title(f"ln evidence for variation {star.velocity_variation:.1f}")
    names = [name for name in joint if name in star.visits[0].labels.names]
    right.axhspan(-1, 1, color=BLUE, alpha=0.2, lw=0)
    for i, visit in enumerate(star.visits):
        alone = visit.summary()
        x = np.arange(len(names)) + 0.5 * ((i + 0.5) / n - 0.5)
        y = [(alone[k]["p50"] - joint[k]["p50"]) / joint[k]["std"] for k in names]
        right.errorbar(
            x, y, yerr=[alone[k]["std"] / joint[k]["std"] for k in names], fmt="o", color=GREY, ms=4, lw=1
        )
    right.set_xticks(range(len(names)), [star.labels[k].symbol or k for k in names])
    right.set_ylabel(r"visits alone [joint $\sigma$]")
    return figure
