"""Draw the pictures of docs/explain/statistics.md, all from runs of maury: ``python docs/tools/pictures.py`` (two minutes).

The star is that of ``maury demo``; ranks and coverage are those of docs/results/calibration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from matplotlib.figure import Figure
from scipy import stats

import maury
from maury.checks.coverage import central_credibility, coverage
from maury.figures import new_figure
from maury.inference.flow import Flow
from maury.models import to_model_grid
from maury.posterior.result import Posterior
from maury.priors import Uniform
from maury.report.plots import BLUE, GREY, ORANGE, RED
from maury.sampling.importance import effective_sample_size, fit_pareto, pareto_smooth
from maury.sampling.proposal import FlowAndJitter, StudentT
from maury.training.demo import TRUTH, simulate_visit

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "images" / "statistics"


def save(figure: Figure, name: str) -> None:
    """Write a picture of the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=110, metadata={"Software": None})


def bounded(model: maury.models.Model) -> None:
    """Draw a label at the edge of its prior, in its own units and in u."""
    slow = simulate_visit(model, TRUTH | {"v_sini": 1.0}, snr=20.0, seed=5, v_correction=None)
    posterior = maury.infer(slow, model, draws=20_000)
    v_sini = posterior.sample(20_000)[:, posterior.labels.index("v_sini")]
    mean, std = v_sini.mean(), v_sini.std()
    figure = new_figure(11, 3.4)
    left, middle, right = figure.subplots(1, 3)
    prior = Uniform(low=0, high=100)
    u = np.linspace(-3.5, 3.5, 300)
    left.plot(u, prior.from_normal(torch.from_numpy(u)).numpy(), color="black")
    left.axhspan(0, 100, color="0.93")
    left.set(xlabel="u", ylabel="v sin i [km/s]", title="the map: u = Phi$^{-1}$(F(x))", ylim=(-15, 115))
    middle.hist(v_sini, bins=40, density=True, color=BLUE, alpha=0.7)
    x = np.linspace(-4, 8, 300)
    middle.plot(
        x, stats.norm.pdf(x, mean, std), color=RED, ls="--", label="Gaussian of the same\nmean and width"
    )
    middle.axvspan(-4, 0, color="0.85")
    middle.text(-3.8, 0.02, "impossible", fontsize=9)
    middle.set(xlabel="v sin i [km/s]", title="in its own units", xlim=(-4, 8), ylim=(0, None), yticks=[])
    middle.legend(fontsize=8, frameon=False)
    mapped = prior.to_normal(torch.from_numpy(v_sini)).numpy()
    right.hist(mapped, bins=40, density=True, color=BLUE, alpha=0.7)
    right.plot(u, stats.norm.pdf(u), color=GREY, ls=":", label="prior, N(0, 1)")
    right.set(xlabel="u", title="in u: no edge to cross", xlim=(-5, 1), yticks=[])
    right.legend(fontsize=8, frameon=False)
    save(figure, "bounded")


def flow_weights(
    model: maury.models.Model, posterior: Posterior, n: int = 4000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return draws ``(n, n_labels)`` over u straight from the flow, and their log weights ``(n,)`` with the exact posterior."""
    assert posterior.target is not None
    with torch.no_grad():
        context = model.estimator.context(*to_model_grid(posterior.spectrum, model))
    u = posterior.labels.to_normal(torch.from_numpy(posterior.sample(2000)))
    jitter = StudentT(u[:, -1].mean(0, keepdim=True), 1.5 * u[:, -1].std().view(1, 1))
    flow = Flow(model.estimator, context, posterior.stellar)
    proposal = FlowAndJitter(flow, jitter)
    generator = torch.Generator().manual_seed(0)
    draws = proposal.complete(flow.sample(n, generator), generator)
    log_proposal = proposal.log_prob(draws, flow.log_prob(proposal.stellar(draws)))
    return draws, posterior.target.log_prob(draws) - log_proposal


def weights(posterior: Posterior, draws: torch.Tensor, log_weights: torch.Tensor) -> None:
    """Draw samples of the flow, and what the exact likelihood leaves of them."""
    theta = posterior.labels.from_normal(draws).numpy()
    share = (log_weights - log_weights.max()).exp().numpy()
    figure = new_figure(11, 4)
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    left.plot(theta[:, 0], theta[:, 1], ".", color=ORANGE, ms=2)
    left.set(title=f"1. draws of the flow: {len(theta):,}", xlabel="teff [K]", ylabel="log g")
    middle.scatter(theta[:, 0], theta[:, 1], s=60 * share, color=ORANGE, edgecolor="black", lw=0.3)
    middle.set(title=f"2. weighed: worth {effective_sample_size(log_weights):.1f} draws", xlabel="teff [K]")
    w = posterior.weights / posterior.weights.max()
    right.scatter(posterior.draws[:, 0], posterior.draws[:, 1], s=20 * w, color=BLUE, lw=0)
    right.set(title=f"3. refined: {len(w):,} draws worth {posterior.ess:.0f}", xlabel="teff [K]")
    for axis in (left, middle, right):
        axis.axvline(TRUTH["teff"], color=RED, lw=0.8)
        axis.axhline(TRUTH["logg"], color=RED, lw=0.8)
    spread = theta[:, :2].std(0)
    left.set(
        xlim=TRUTH["teff"] + 3 * spread[0] * np.array([-1, 1]),
        ylim=TRUTH["logg"] + 3 * spread[1] * np.array([-1, 1]),
    )
    save(figure, "weights")


def tails(posterior: Posterior, log_weights: torch.Tensor) -> None:
    """Draw the largest weights of a good and of a poor proposal, with the Pareto distributions fitted to them."""
    raw = posterior.log_likelihood + posterior.log_prior - posterior.log_proposal
    figure = new_figure(9, 3.6)
    for axis, values, name, colour in zip(
        figure.subplots(1, 2),
        (raw, log_weights.numpy()),
        ("refined proposal", "flow alone"),
        (BLUE, ORANGE),
        strict=True,
    ):
        _, khat = pareto_smooth(values)
        w = np.sort(np.exp(values - values.max()))[::-1] / np.exp(values - values.max()).mean()
        size = int(min(0.2 * len(w), 3 * np.sqrt(len(w))))
        tail, threshold = w[:size], w[size]
        k, sigma = fit_pareto(np.sort(tail - threshold))
        p = (np.arange(size) + 0.5) / size
        axis.semilogx(p * size / len(w), tail, ".", color=colour, label="largest weights")
        axis.semilogx(
            p * size / len(w), threshold + sigma * (p**-k - 1) / k, color="black", lw=1, label="Pareto fit"
        )
        axis.set(
            title=f"{name}: k-hat = {khat:.2f}",
            xlabel="share of the draws with a larger weight",
            ylabel="weight / mean",
        )
        axis.set_yscale("linear" if khat < 0.5 else "log")
        axis.legend(fontsize=8, frameon=False)
    save(figure, "khat")


def evidence() -> None:
    """Draw two libraries on one cool star: fit and evidence."""
    cool = simulate_visit(
        maury.load_model("btsettl-apogee"),
        {"teff": 3350.0, "logg": 4.8, "m_h": -0.1, "v_rad": 12.0, "v_sini": 6.0, "jitter": 0.004},
        snr=60.0,
        seed=3,
        v_correction=None,
    )
    found = {name: maury.infer(cool, name) for name in ("btsettl-apogee", "kurucz-apogee")}
    both = maury.infer(cool, "auto")
    figure = new_figure(10, 3.6)
    for axis, (name, posterior), colour in zip(
        figure.subplots(2, 1, sharex=True, sharey=True), found.items(), (BLUE, ORANGE), strict=True
    ):
        fit = posterior.fit
        x = cool.grid.wavelength[fit.pixels]
        axis.plot(x, (fit.flux + fit.residual) / fit.continuum, color="0.6", lw=1.5, label="observed")
        axis.plot(x, fit.flux / fit.continuum, color=colour, lw=0.9, label=name)
        log_z = next(tried.log_evidence for tried in both.diagnostics.models if tried.model == name)
        best = max(tried.log_evidence for tried in both.diagnostics.models)
        teff, jitter = (posterior.quantile(label, 0.5) for label in ("teff", "jitter"))
        title = f"{name}: teff = {teff:.0f} K, jitter {jitter:.3f}, ln Z {log_z - best:+.0f}"
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8, ncols=2, loc="lower right")
        axis.set(xlim=(16000, 16090), ylim=(0.55, 1.15))
    axis.set_xlabel("wavelength [Angstrom]")
    save(figure, "evidence")


def continuum(posterior: Posterior) -> None:
    """Draw the continuum that the likelihood integrates over."""
    fit, grid = posterior.fit, posterior.spectrum.grid
    figure = new_figure(11, 3.8)
    for i, (axis, (start, stop)) in enumerate(
        zip(figure.subplots(1, 3, sharey=True), grid.chips, strict=True)
    ):
        inside = (fit.pixels >= start) & (fit.pixels < stop)
        x = grid.wavelength[fit.pixels[inside]]
        axis.plot(x, (fit.flux + fit.residual)[inside], color="0.65", lw=0.4, label="observed")
        axis.plot(x, fit.flux[inside], color=BLUE, lw=0.5, label="model x continuum")
        axis.plot(x, fit.continuum[inside], color=RED, lw=1.5, label="continuum")
        axis.set_xlabel("wavelength [Angstrom]")
        if i == 0:
            axis.set_ylabel("flux")
            axis.legend(fontsize=8, loc="lower left")
    save(figure, "continuum")


def ranks() -> None:
    """Draw ranks and coverage of the calibration on file, and what wrong posteriors would look like."""
    table = Table.read(DOCS / "results" / "calibration" / "kurucz-apogee" / "calibration.ecsv")
    good = np.asarray(table["rank_teff"])
    # The same posteriors as if all errors were 40 % too small, or all medians half a sigma too high: exact for Gaussians.
    z = stats.norm.ppf(np.clip(good, 1e-4, 1 - 1e-4))
    cases = {
        "as maury gives them": (good, BLUE),
        "errors 40 % too small": (stats.norm.cdf(z / 0.6), ORANGE),
        "medians 0.5 sigma too high": (stats.norm.cdf(z - 0.5), RED),
    }
    figure = new_figure(11, 5.6)
    top, bottom = figure.subplots(2, 3, sharex="row")
    n = len(good)
    low, high = stats.binom.ppf([0.005, 0.995], n, 0.1)
    for axis, below, (name, (values, colour)) in zip(top, bottom, cases.items(), strict=True):
        axis.axhspan(low, high, color="0.88")
        axis.hist(values, bins=10, range=(0, 1), color=colour, alpha=0.85)
        axis.set(title=name, xlabel="rank of the true teff", ylim=(0, 0.28 * len(good)))
        found = coverage(central_credibility(values))
        below.fill_between(found.level, found.level - found.band, found.level + found.band, color="0.88")
        below.plot([0, 1], [0, 1], color="0.4", lw=0.8)
        below.plot(found.level, found.share, color=colour)
        below.set(xlabel="credibility", xlim=(0, 1), ylim=(0, 1))
    top[0].set_ylabel(f"spectra of {n}")
    bottom[0].set_ylabel("share of truths inside")
    save(figure, "ranks")


def tarp() -> None:
    """Draw balls around random points that have the truth on their edge."""
    rng = np.random.default_rng(2)
    draws = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 0.7]], 600)
    figure = new_figure(8, 3.8)
    for axis, truth, reference in zip(
        figure.subplots(1, 2), ((0.4, 0.2), (-1.1, -1.0)), ((2.2, -1.2), (-0.2, 1.9)), strict=True
    ):
        radius = np.hypot(*(np.array(truth) - reference))
        inside = np.hypot(*(draws - reference).T) < radius
        axis.plot(*draws[~inside].T, ".", color="0.7", ms=3)
        axis.plot(*draws[inside].T, ".", color=BLUE, ms=3)
        angle = np.linspace(0, 2 * np.pi, 200)
        axis.plot(
            reference[0] + radius * np.cos(angle), reference[1] + radius * np.sin(angle), color="black", lw=1
        )
        axis.plot(*reference, "k+", ms=9, label="random point")
        axis.plot(*truth, "x", color=RED, ms=9, mew=2, label="truth")
        axis.set(
            aspect="equal",
            xlim=(-4.2, 4.2),
            ylim=(-3.2, 3.2),
            title=f"credibility {inside.mean():.2f}",
            xticks=[],
            yticks=[],
        )
    axis.legend(fontsize=8, loc="lower right")
    save(figure, "tarp")


def correlated(model: maury.models.Model, star: maury.Spectrum) -> None:
    """Draw a fringe of 2 %: residuals and labels, with independent pixels and with a correlated part."""
    fringe = 1 + 0.02 * np.sin(2 * np.pi * star.grid.wavelength / 25.0)
    fringed = replace(star, flux=star.flux * fringe)
    found = {noise: maury.infer(fringed, model, noise=noise) for noise in ("independent", "auto")}
    figure = new_figure(11, 3.8)
    left, middle, right = figure.subplots(1, 3)
    fit = found["independent"].fit
    x = star.grid.wavelength[fit.pixels]
    left.plot(x, fit.residual / fit.continuum, color=GREY, lw=0.5)
    left.set(
        xlim=(16000, 16200), ylim=(-0.08, 0.08), xlabel="wavelength [Angstrom]", title="residual / continuum"
    )
    for (noise, posterior), colour in zip(found.items(), (ORANGE, BLUE), strict=True):
        z = posterior.fit.whitened
        lag = np.arange(1, 31)
        middle.plot(
            lag,
            [np.mean(z[k:] * z[:-k]) / np.mean(z**2) for k in lag],
            ".-",
            color=colour,
            label=f"noise = {noise}",
        )
        names = posterior.stellar.names
        offset = [(posterior.summary()[n]["mean"] - TRUTH[n]) / posterior.summary()[n]["std"] for n in names]
        right.plot(offset, range(len(names)), "o", color=colour, label=f"noise = {noise}")
    middle.axhline(0, color="0.4", lw=0.8)
    middle.set(xlabel="pixels apart", title="correlation of what is left")
    middle.legend(fontsize=8, frameon=False)
    right.axvspan(-2, 2, color="0.9")
    right.axvline(0, color="0.4", lw=0.8)
    right.set(yticks=range(len(names)), yticklabels=names, xlabel="(mean - truth) / error", title="labels")
    save(figure, "correlated")


def main() -> None:
    """Draw every picture."""
    model = maury.load_model()
    star = simulate_visit(model, TRUTH, snr=80.0, seed=1, v_correction=None)
    posterior = maury.infer(star, model)
    # At a lower S/N the flow is near enough for its weights to be drawn.
    faint = maury.infer(simulate_visit(model, TRUTH, snr=25.0, seed=1, v_correction=None), model)
    draws, log_weights = flow_weights(model, faint)
    bounded(model)
    weights(faint, draws, log_weights)
    tails(faint, log_weights)
    evidence()
    continuum(posterior)
    ranks()
    tarp()
    correlated(model, star)


if __name__ == "__main__":
    main()
