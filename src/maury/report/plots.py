"""Figures of one posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from maury.errors import InferenceError, MauryWarning
from maury.figures import InlineFigure, new_figure
from maury.files import first_line, writing
from maury.forward.binary import RATIO, Pair
from maury.labels import LabelSet
from maury.report.density import heights, line, plane
from maury.report.elements import is_element
from maury.report.observed import CHIP_NAMES, total_error
from maury.report.panels import marks, told_by
from maury.report.svg import Sample, limits, said
from maury.text import for_picture

if TYPE_CHECKING:
    from maury.posterior.diagnostics import Window
    from maury.posterior.joint import JointPosterior
    from maury.posterior.result import Posterior
    from maury.posterior.summary import WeightedDraws
    from maury.spectra.spectrum import Spectrum

# Okabe & Ito's colours: told apart by everyone.
BLUE, ORANGE, GREY, RED, GREEN = "#0072B2", "#E69F00", "#8A8A8A", "#D55E00", "#009E73"
# Cells of a corner plot's panel, along an axis.
_CELLS = 60
# Draws with weights, or equally weighted.
Draws = tuple[NDArray[np.float64], NDArray[np.float64]] | NDArray[np.float64]


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


def corner_figure(
    posterior: Posterior,
    truth: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
    jitter: bool = False,
) -> Figure:
    """Corner plot: the verified posterior (blue) over the flow's (orange); 39 % and 86 % regions, the truth (red) if known.

    Parameters
    ----------
    posterior
        What is drawn.
    truth
        Of labels, by name.
    labels
        Names of those that are shown, in this order; all that are of the star by default, but no more elements than the model's own labels.
    jitter
        Show the nuisance too.

    Raises
    ------
    LabelError
        If there is no such label.
    """
    names = list(labels) if labels is not None else shown_labels(posterior)
    if jitter:
        names += [name for name in posterior.labels.names if name not in (*posterior.stellar.names, *names)]
    chosen = posterior.labels.select(names)
    columns = [posterior.labels.index(name) for name in chosen.names]
    samples = {f"verified ({posterior.method})": (posterior.draws[:, columns], posterior.weights)}
    stellar = posterior.stellar.names
    # The flow of a single star says nothing of a companion's labels, nor of elements.
    if posterior.flow_draws.shape[1] == len(stellar) and set(chosen.names) <= set(stellar):
        flow = posterior.flow_draws[:, [stellar.index(name) for name in chosen.names]]
        samples = {"flow": (flow, np.full(len(flow), 1 / max(len(flow), 1))), **samples}
    title = f"{for_picture(posterior.spectrum.id)}\n{for_picture(posterior.model)}, k-hat {posterior.khat:.2f}, ESS {posterior.ess:.0f}"
    return samples_figure(samples, chosen, truth, title)


def shown_labels(posterior: Posterior) -> list[str]:
    """Return the labels that a corner plot shows if it is not told which: the star's, without elements that were asked for beside them."""
    return [name for name in posterior.stellar.names if not is_element(posterior, name)]


def corner_of_draws(found: WeightedDraws, truth: Mapping[str, float] | None = None) -> Figure:
    """Corner plot of the star's labels; 39 % and 86 % regions, the truth (red) if known."""
    labels = found.stellar
    columns = [found.labels.index(name) for name in labels.names]
    return samples_figure({"verified": (found.draws[:, columns], found.weights)}, labels, truth)


def samples_figure(
    samples: Mapping[str, Draws],
    labels: LabelSet,
    truth: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Corner plot of one or two samples by name, the last filled and told in the titles; 39 % and 86 % regions.

    Parameters
    ----------
    samples
        Draws ``(n, n_labels)`` and their weights ``(n,)``, or equally weighted draws.
    labels, truth
        Of the draws; the truth (red), by name, where it is known.
    title
        Of the legend.
    """
    n = len(labels)
    # A corner of two labels has no room for a legend but above.
    figure = InlineFigure(figsize=(1.9 * n + 0.8, 1.9 * n + 0.8) if n > 2 else (6, 6))
    told = [s if isinstance(s, tuple) else (s, np.full(len(s), 1 / len(s))) for s in samples.values()]
    styled = [Sample("", draws, weights) for draws, weights in told]
    box = limits(styled[::-1], labels.low.numpy(), labels.high.numpy())
    colours = dict(zip(samples, (ORANGE, BLUE)[-len(samples) :], strict=True))
    axes = figure.subplots(n, n, squeeze=False)
    figure.subplots_adjust(
        left=0.09, bottom=0.09, right=0.985, top=0.955 if n > 2 else 0.9, wspace=0.06, hspace=0.06
    )
    for row in range(n):
        for column in range(n):
            axis = axes[row, column]
            if column > row:
                axis.set_axis_off()
                continue
            for sample, colour in zip(styled, colours.values(), strict=True):
                _corner_cell(axis, sample, row, column, box, colour)
            _corner_axis(axis, labels, row, column, n, box)
            if truth is not None:
                axis.axvline(truth[labels.names[column]], color=RED, lw=1)
                if column < row:
                    axis.axhline(truth[labels.names[row]], color=RED, lw=1)
        last = styled[-1]
        axes[row, row].set_title(said(last.draws[:, row], last.weights), fontsize=10, loc="left", pad=4)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    if truth is not None:
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


def _corner_cell(
    axis: Axes, sample: Sample, row: int, column: int, box: NDArray[np.float64], colour: str
) -> None:
    """Draw one sample into a cell: a density on the diagonal, regions below it."""
    filled = colour == BLUE
    (low, high), middles = box[column], (np.arange(_CELLS) + 0.5) / _CELLS
    x = low + middles * (high - low)
    if row == column:
        density = line(sample.draws[:, row], sample.weights, low, high, _CELLS)
        axis.plot(x, density, color=colour, lw=1.6)
        if filled:
            axis.fill_between(x, density, color=colour, alpha=0.25, lw=0)
        return
    density = plane(sample.draws[:, column], sample.draws[:, row], sample.weights, box[[column, row]], _CELLS)
    if not density.any():
        return
    y = box[row, 0] + middles * (box[row, 1] - box[row, 0])
    # Lines to the very edges: what leans on a bound is cut off there, not rounded.
    inner, outer = heights(density, (0.393, 0.865))
    if not outer < inner < density.max():
        return
    if filled:
        axis.contourf(x, y, density.T, [outer, inner, density.max()], colors=[colour], alpha=0.3)
        axis.contourf(x, y, density.T, [inner, density.max()], colors=[colour], alpha=0.35)
    axis.contour(x, y, density.T, [outer, inner], colors=[colour], linewidths=1.2)


def _corner_axis(
    axis: Axes, labels: LabelSet, row: int, column: int, n: int, box: NDArray[np.float64]
) -> None:
    """Set ends, ticks and names of a cell; numbers and names stand at the left and at the bottom alone."""
    names = _axis_names(labels)
    axis.set_xlim(*box[column])
    axis.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    axis.tick_params(direction="in", labelsize=9)
    if row == column:
        axis.set_ylim(0, None)
        axis.set_yticks([])
    else:
        axis.set_ylim(*box[row])
        axis.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    if row == n - 1:
        axis.set_xlabel(names[column], fontsize=12)
        axis.tick_params(axis="x", rotation=45)
    else:
        axis.tick_params(labelbottom=False)
    if column == 0 and row:
        axis.set_ylabel(names[row], fontsize=12)
    else:
        axis.tick_params(labelleft=False)


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


def fit_figure(posterior: Posterior) -> Figure:
    """Observed spectrum and residual over the whole range, and below it, with the model, the windows that tell most (`Posterior.windows`).

    Where residuals are correlated, what those before a pixel let expect of it is drawn over them (orange).
    """
    spectrum, fit = posterior.spectrum, posterior.fit
    grid, windows = spectrum.grid, posterior.windows
    columns = 3
    rows = -(-len(windows) // columns)
    figure = new_figure(15, 4.6 + 2.9 * rows)
    above, below = cast(
        "Sequence[SubFigure]", figure.subfigures(2, 1, height_ratios=[4.6, max(2.9 * rows, 0.1)])
    )
    _whole(above, posterior)
    if windows:
        axes = below.subplots(2 * rows, columns, gridspec_kw={"height_ratios": [3, 1] * rows}, squeeze=False)
        for place, window in enumerate(windows):
            row, column = divmod(place, columns)
            _window(axes[2 * row, column], axes[2 * row + 1, column], posterior, window, place + 1)
        for axis in axes.ravel():
            if not axis.lines:
                axis.set_axis_off()
    noise = f"jitter {100 * posterior.quantile('jitter', 0.5):.1f} %"
    process = posterior.diagnostics.residuals
    if process and process.used:
        noise += f" and {100 * process.amplitude:.1f} % correlated over {process.scale:.0f} km/s"
    figure.suptitle(
        f"{for_picture(spectrum.id)}: chi2/n {fit.rchi2:.2f} with the file's errors, {fit.rchi2_jitter:.2f} with {noise}; "
        f"{fit.pixels.size} of {grid.n_pixels} pixels used",
        fontsize=12,
    )
    return figure


def _chip_titles(spectrum: Spectrum) -> list[str]:
    n = len(spectrum.grid.chips)
    names = spectrum.meta.get("chips") or (
        CHIP_NAMES if n == len(CHIP_NAMES) else [f"chip {i + 1}" for i in range(n)]
    )
    return [for_picture(str(name)) for name in names]


def _whole(figure: SubFigure, posterior: Posterior) -> None:
    """Draw every chip, side by side, as wide as it is long: flux over the continuum, pixels out of use, residual and windows."""
    spectrum, fit = posterior.spectrum, posterior.fit
    grid = spectrum.grid
    shown = [
        (chip, name)
        for chip, name in zip(grid.chips, _chip_titles(spectrum), strict=True)
        if ((fit.pixels >= chip[0]) & (fit.pixels < chip[1])).any()
    ]
    widths = [grid.wavelength[stop - 1] - grid.wavelength[start] for (start, stop), _ in shown]
    axes = figure.subplots(
        2,
        len(shown),
        gridspec_kw={"height_ratios": [3, 1], "width_ratios": widths},
        sharey="row",
        squeeze=False,
    )
    observed = (fit.flux + fit.residual) / fit.continuum
    low, high = np.quantile(observed, [0.001, 0.999])
    pull = np.clip(fit.residual / total_error(posterior), -5, 5)
    for i, ((start, stop), name) in enumerate(shown):
        upper, lower = axes[:, i]
        wavelength, member = grid.wavelength[start:stop], (fit.pixels >= start) & (fit.pixels < stop)
        pixels = fit.pixels[member] - start
        continuum = np.interp(np.arange(stop - start), pixels, fit.continuum[member])
        every, used, errors = (np.full(stop - start, np.nan) for _ in range(3))
        every[:] = spectrum.flux[start:stop] / continuum
        used[pixels], errors[pixels] = observed[member], pull[member]
        upper.plot(wavelength, every, color=GREY, lw=0.5, alpha=0.5, label="not used")
        upper.plot(wavelength, used, color="black", lw=0.5, label="observed")
        upper.set_ylim(low - 0.1 * (high - low), high + 0.12 * (high - low))
        lower.axhspan(-1, 1, color=BLUE, alpha=0.15, lw=0)
        lower.plot(wavelength, errors, color=BLUE, lw=0.4)
        lower.set_ylim(-5, 5)
        for number, window in enumerate(posterior.windows, start=1):
            if wavelength[0] < window.high and window.low < wavelength[-1]:
                for axis in (upper, lower):
                    axis.axvspan(window.low, window.high, color=ORANGE, alpha=0.3, lw=0)
                middle = min(max((window.low + window.high) / 2, wavelength[0]), wavelength[-1])
                upper.annotate(
                    str(number), (middle, 1), xycoords=("data", "axes fraction"), xytext=(0, -3),
                    textcoords="offset points", ha="center", va="top", fontsize=9, fontweight="bold",
                )  # fmt: skip
        for axis in (upper, lower):
            axis.set_xlim(wavelength[0], wavelength[-1])
        upper.tick_params(labelbottom=False)
        upper.set_title(name, fontsize=10)
        if i:
            for axis in (upper, lower):
                axis.tick_params(left=False)
    axes[0, 0].set_ylabel("flux / continuum")
    axes[1, 0].set_ylabel(r"residual [$\sigma$]")
    axes[0, 0].legend(loc="lower left", ncols=2, fontsize=9)
    figure.supxlabel("vacuum wavelength [Angstrom]", fontsize=10)


def _window(upper: Axes, lower: Axes, posterior: Posterior, window: Window, place: int) -> None:
    """Draw a window: data, model and lines, and the residual below."""
    fit = posterior.fit
    wavelength = posterior.spectrum.grid.wavelength[fit.pixels]
    inside = (wavelength > window.low) & (wavelength < window.high)
    # Where pixels are out of use the curves break.
    breaks = np.flatnonzero(np.diff(fit.pixels[inside]) > 1) + 1
    error = total_error(posterior)

    def broken(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.insert(values[inside], breaks, np.nan)

    w = broken(wavelength)
    upper.plot(
        w, broken((fit.flux + fit.residual) / fit.continuum), color="black", lw=1.0, drawstyle="steps-mid"
    )
    upper.plot(w, broken(fit.flux / fit.continuum), color=RED, lw=1.4)
    lower.axhspan(-1, 1, color=BLUE, alpha=0.15, lw=0)
    lower.plot(w, broken(fit.residual / error), color=BLUE, lw=0.8)
    process = posterior.diagnostics.residuals
    if process and process.used:
        lower.plot(w, broken(fit.predicted / error), color=ORANGE, lw=0.8)
    lower.set_ylim(-5, 5)
    free = -np.inf
    for at, name in marks(posterior, window):
        upper.axvline(at, color=GREY, lw=0.7, ls=":")
        half = 0.012 * len(name) * (window.high - window.low)
        if at - half > free:
            upper.annotate(
                for_picture(name), (at, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", va="bottom", fontsize=8,
            )  # fmt: skip
            free = at + half
    for axis in (upper, lower):
        axis.set_xlim(window.low, window.high)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    upper.tick_params(labelbottom=False)
    upper.set_ylabel("flux / cont.", fontsize=9)
    lower.set_ylabel(r"res. [$\sigma$]", fontsize=9)
    lower.set_xlabel(for_picture(f"({place})  {told_by(window)}".rstrip()), fontsize=9)


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
