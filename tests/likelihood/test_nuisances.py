"""Nuisances that are integrated out linearly, against brute-force integration over the model itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maury.batching import alone
from maury.errors import InferenceError, ModelError
from maury.forward.binary import Pair, pair_labels
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.continuum import DEGREE
from maury.likelihood.noise import Correlation
from maury.likelihood.nuisances import (
    CarbonIsotopes,
    ChipVelocity,
    Dilution,
    Elements,
    LibraryByChip,
    LibraryModes,
    LimbDarkening,
    LineWidth,
    Macroturbulence,
    Microturbulence,
    Point,
    chosen,
    in_h_band,
    macroturbulence,
)
from maury.likelihood.pixels import Likelihood
from maury.likelihood.solution import SPREAD
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied, for_several
from maury.sampling.density import Density
from maury.sampling.modes import find_modes
from maury.sampling.proposal import Mixture, around
from maury.sampling.verification import weigh
from maury.spectra.linespread import Gaussian
from maury.spectra.spectrum import Spectrum
from maury.weights import write_model

JITTER = 0.004
# Nodes and weights of an integral over N(0, 1).
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


@pytest.fixture(scope="module")
def star(truth: Tensor) -> Tensor:
    return torch.cat([truth[0], torch.tensor([JITTER], dtype=torch.float64)])


@pytest.fixture(scope="module")
def near(star: Tensor) -> Tensor:
    """Labels within some errors of the star's, shape ``(3, 7)``."""
    steps = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [8, 0.02, 0.01, -0.01, 0.1, 0.4, 0.001],
            [-12, 0.03, -0.01, 0.02, -0.2, 0.3, -0.001],
        ],
        dtype=torch.float64,
    )
    return star + steps


@pytest.fixture(scope="module")
def few(visit: Spectrum) -> Spectrum:
    """A visit of which runs of ten pixels are left, a twentieth of all."""
    pixel = np.arange(visit.grid.n_pixels)
    return visit.masked(pixel % 200 >= 10)


@pytest.fixture(scope="module")
def plain(few: Spectrum, forward: ForwardModel, labels: LabelSet, star: Tensor) -> Likelihood:
    spectrum = replace(few, lsf=Gaussian(20_000.0))
    return Likelihood.of(spectrum, forward, labels).with_reference_continuum(star)


def frozen(likelihood: Likelihood, star: Tensor) -> Likelihood:
    """The likelihood with its noise as of the star's spectrum, as it is with nuisances, and a nuisance that does nothing."""
    return replace(likelihood, nuisances=(Nothing(),)).linearised(star)


@dataclass(frozen=True)
class Nothing:
    name: str = "nothing"
    width: float = 1.0
    unit: str = ""
    source: str = "a test"

    def derivative(self, at: Point) -> Tensor:
        return torch.zeros(1, len(at.spectrum), dtype=torch.float64)

    def centre(self, at: Point) -> float:
        return 0.0

    def each(self, at: Point) -> tuple[str, ...]:
        return ("nothing",)


def brute_force(
    likelihood: Likelihood,
    near: Tensor,
    spectra: Callable[[Tensor, float], Tensor],
    centre: float,
    width: float,
) -> Tensor:
    """Log of the likelihood's mean over one amplitude, at some labels; ``spectra`` gives models for them."""
    values = [likelihood.log_prob(near, spectra(near, centre + width * float(a))) for a in NODES]
    weights = torch.from_numpy(np.log(WEIGHTS / WEIGHTS.sum()))
    return torch.logsumexp(torch.stack(values) + weights[:, None], 0)


def member(likelihood: Likelihood, chip: int) -> Tensor:
    return torch.from_numpy(likelihood.chip == chip)


def test_is_the_dense_normal_density(plain: Likelihood, near: Tensor, star: Tensor) -> None:
    nuisances = (ChipVelocity(), LineWidth(), LimbDarkening(), Dilution())
    likelihood = replace(plain, nuisances=nuisances).linearised(star)
    found = likelihood.log_prob(near)
    linear, n = likelihood.linear, likelihood.n_pixels
    assert linear is not None
    design = torch.zeros(n, 3 * (DEGREE + 1), dtype=torch.float64)
    for i, (place, basis) in enumerate(likelihood.bases):
        design[place, i * (DEGREE + 1) : (i + 1) * (DEGREE + 1)] = basis[:, : DEGREE + 1]
    # All columns, also those of which the spectrum tells nothing.
    at = Point(plain.model, star[None, :-1], plain.to_pixels, plain.chip, plain.line_width)
    columns = torch.cat([nuisance.width * nuisance.derivative(at) for nuisance in nuisances]).double()
    m0, level = plain.spectra(star[None])[0], plain.reference
    error = plain.model.error(star[None, :-1]).double() * plain.error_shape
    for row, value in zip(near, found, strict=True):
        m = plain.spectra(row[None])[0]
        noise = plain.variance + ((row[-1] * m0) ** 2 + error**2) * level**2
        x, g = (level * m)[:, None] * design, level[:, None] * columns.T
        covariance = torch.diag(noise) + SPREAD**2 * x @ x.T + g @ g.T
        normal = torch.distributions.MultivariateNormal(level * (m + linear.offset), covariance)
        assert float(value) == pytest.approx(float(normal.log_prob(plain.flux)), abs=0.1)


@pytest.mark.parametrize("chip", [1, 2, 3])
def test_velocity_of_a_chip(plain: Likelihood, near: Tensor, star: Tensor, chip: int) -> None:
    one = ChipVelocity()

    @dataclass(frozen=True)
    class Single(Nothing):
        width: float = one.width

        def derivative(self, at: Point) -> Tensor:
            return one.derivative(at)[[chip - 1]]

    def spectra(labels: Tensor, velocity: float) -> Tensor:
        moved = labels.clone()
        moved[:, 4] += velocity
        return torch.where(member(plain, chip), plain.spectra(moved), plain.spectra(labels))

    likelihood = replace(plain, nuisances=(Single(),)).linearised(star)
    expected = brute_force(frozen(plain, star), near, spectra, 0.0, one.width)
    torch.testing.assert_close(likelihood.log_prob(near), expected, atol=0.1, rtol=0)


def test_limb_darkening_about_its_value_in_the_h_band(
    plain: Likelihood, near: Tensor, star: Tensor, forward: ForwardModel
) -> None:
    fast = near.clone()
    fast[:, 5] += 12
    start, other = fast[0], {}
    moved = plain.spectra(fast[:1])[0] - plain.spectra(star[None])[0]
    plain = replace(plain, flux=plain.flux + plain.reference * moved)

    def spectra(labels: Tensor, more: float) -> Tensor:
        e = min(max(forward.limb_darkening + more, 0.0), 1.0)
        model = other.setdefault(e, ForwardModel(forward.emulator, e))
        return plain.to_pixels(model(labels[:, :-1]))

    nuisance = LimbDarkening()
    likelihood = replace(plain, nuisances=(nuisance,)).linearised(start)
    centre = in_h_band(4800) - 0.6
    assert -0.3 < centre < -0.2
    expected = brute_force(frozen(plain, start), fast, spectra, centre, nuisance.width)
    difference = likelihood.log_prob(fast) - expected
    # The spectrum is not quite linear in a coefficient that is 0.25 off; what labels see is how that differs between them.
    assert float((difference - difference[0]).abs().max()) < 0.25
    assert float(difference.abs().max()) < 0.5


def test_dilution_of_a_chip(plain: Likelihood, near: Tensor, star: Tensor) -> None:
    @dataclass(frozen=True)
    class Green(Nothing):
        width: float = 0.02

        def derivative(self, at: Point) -> Tensor:
            return Dilution().derivative(at)[[1]]

    def spectra(labels: Tensor, light: float) -> Tensor:
        m = plain.spectra(labels)
        return torch.where(member(plain, 2), (m + light) / (1 + light), m)

    likelihood = replace(plain, nuisances=(Green(),)).linearised(star)
    expected = brute_force(frozen(plain, star), near, spectra, 0.0, 0.02)
    torch.testing.assert_close(likelihood.log_prob(near), expected, atol=0.1, rtol=0)


def test_an_element_that_is_not_inferred(plain: Likelihood, near: Tensor, star: Tensor) -> None:
    def spectra(labels: Tensor, more: float) -> Tensor:
        moved = labels.clone()
        moved[:, 3] += more
        return plain.spectra(moved)

    nuisance = Elements(0.05, ("alpha_m",))
    likelihood = replace(plain, nuisances=(nuisance,)).linearised(star)
    expected = brute_force(frozen(plain, star), near, spectra, 0.0, 0.05)
    torch.testing.assert_close(likelihood.log_prob(near), expected, atol=0.1, rtol=0)


def test_a_library_that_is_wrong_by_chip(plain: Likelihood, near: Tensor, star: Tensor) -> None:
    nuisance = LibraryByChip(widths=(("m_h", 0.02),))
    likelihood = replace(plain, nuisances=(nuisance,)).linearised(star)
    assert [of for _, of in likelihood.linear.of] == ["m_h contrast 1", "m_h contrast 2"]
    assert nuisance.common(plain.chip) == {"m_h": pytest.approx(0.02 / 3**0.5)}
    at = Point(plain.model, star[None, :-1], plain.to_pixels, plain.chip, plain.line_width)
    # What all chips have in common is a label's: no contrast holds it.
    slope = at.by_chip(at.slopes[2])
    shares = (nuisance.derivative(at) @ slope.T) / slope.square().sum(1)
    torch.testing.assert_close(shares.sum(1), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(shares @ shares.T, 0.02**2 * torch.eye(2).double(), atol=1e-8, rtol=1e-4)

    @dataclass(frozen=True)
    class First(LibraryByChip):
        def derivative(self, at: Point) -> Tensor:
            return super().derivative(at)[:1]

        def each(self, at: Point) -> list[str]:
            return ["first"]

    def spectra(labels: Tensor, more: float) -> Tensor:
        out = plain.spectra(labels)
        for chip in (1, 2, 3):
            moved = labels.clone()
            moved[:, 2] += float(shares[0, chip - 1]) * more
            out = torch.where(member(plain, chip), plain.spectra(moved), out)
        return out

    one = replace(plain, nuisances=(First(widths=(("m_h", 0.02),)),)).linearised(star)
    expected = brute_force(frozen(plain, star), near, spectra, 0.0, 1.0)
    torch.testing.assert_close(one.log_prob(near), expected, atol=0.1, rtol=0)


def test_modes_of_a_library(
    plain: Likelihood, near: Tensor, star: Tensor, forward: ForwardModel, tmp_path: Path
) -> None:
    wavelength = forward.emulator.grid.wavelength
    modes = torch.stack(
        [
            (wavelength * k / 3).sin() * forward.emulator.covered_mask() / math.sqrt(len(wavelength))
            for k in (1, 2)
        ]
    )
    amplitude = torch.tensor([0.25, 0.1])
    write_model(
        tmp_path / "modes.safetensors",
        {"modes": modes.float(), "amplitude": amplitude},
        {"source": "two sines"},
    )
    nuisance = LibraryModes.read(tmp_path / "modes.safetensors", forward.emulator)
    assert nuisance.source == "two sines"

    def spectra(labels: Tensor, more: float) -> Tensor:
        extra = forward.carried(modes[:1].float(), labels[:, :-1])[:, 0]
        return plain.to_pixels(forward(labels[:, :-1]) + more * extra)

    first = replace(nuisance, vectors=nuisance.vectors[:1])
    likelihood = replace(plain, nuisances=(first,)).linearised(star)
    expected = brute_force(frozen(plain, star), near, spectra, 0.0, 0.25)
    torch.testing.assert_close(likelihood.log_prob(near), expected, atol=0.1, rtol=0)
    assert len(replace(plain, nuisances=(nuisance,)).linearised(star).linear.of) == 2


def test_broadening_is_that_of_a_wider_profile(
    few: Spectrum, forward: ForwardModel, labels: LabelSet, star: Tensor, plain: Likelihood
) -> None:
    at = Point(forward, star[None, :-1], plain.to_pixels, plain.chip, plain.line_width)
    narrow, wide = (
        Likelihood.of(replace(few, lsf=Gaussian(20_000.0 / s)), forward, labels).spectra(star[None])[0]
        for s in (0.99, 1.01)
    )
    slopes = LineWidth().derivative(at)
    assert slopes.shape == (3, plain.n_pixels)
    expected = (wide - narrow) / 0.02
    assert float((slopes.sum(0) - expected).abs().max()) < 0.03 * float(expected.abs().max())
    # Macroturbulence is a broadening alike, of the star.
    turbulent = plain.to_pixels(ForwardModel(forward.emulator, v_macro=1.0)(star[None, :-1]))[0]
    change = turbulent - plain.spectra(star[None])[0]
    macro = Macroturbulence().derivative(at)[0]
    assert float((change - macro).abs().max()) < 0.05 * float(change.abs().max()) + 1e-5


def test_derivatives_of_the_likelihood(plain: Likelihood, star: Tensor) -> None:
    nuisances = (ChipVelocity(), LineWidth(), LimbDarkening(), Dilution())
    likelihood = replace(plain, nuisances=nuisances).linearised(star)
    curvature = likelihood.curvature(star[None])
    scale = curvature.fisher[0].diagonal().sqrt()
    steps = torch.diag(0.3 / scale)
    up, down = likelihood.log_prob(star + steps), likelihood.log_prob(star - steps)
    numeric = (up - down) / 0.6
    # The jitter's slope takes continuum and nuisances for known.
    difference = (curvature.gradient[0] / scale - numeric)[:-1].abs()
    assert float((difference - 0.03 * numeric[:-1].abs()).max()) < 0.3
    middle = likelihood.log_prob(star[None])
    second = -(up - 2 * middle + down) / 0.09
    torch.testing.assert_close(second[:-1], torch.ones(6).double(), atol=0.2, rtol=0)
    known = plain.curvature(star[None]).fisher[0].diagonal()
    assert bool((curvature.fisher[0].diagonal()[:-1] < known[:-1]).all())


def test_correlated_residuals_and_nuisances(plain: Likelihood, near: Tensor, star: Tensor) -> None:
    depth = (1 - plain.spectra(star[None])[0]).numpy()
    likelihood = replace(
        plain, correlation=Correlation(0.004, 0.01, 12.0, depth), nuisances=(Dilution(), ChipVelocity())
    ).linearised(star)
    linear = likelihood.linear
    assert linear is not None
    bare = replace(likelihood, nuisances=(Nothing(),)).linearised(star)
    covariance = bare._covariance(near[:1], plain.spectra(near[:1]), bare._normalised()[1])
    dense = torch.linalg.inv(covariance.solve(torch.eye(bare.n_pixels).double()[None])[0])
    m = plain.spectra(near[:1])[0]
    design = torch.zeros(bare.n_pixels, 3 * (DEGREE + 1), dtype=torch.float64)
    for i, (place, basis) in enumerate(bare.bases):
        design[place, i * (DEGREE + 1) : (i + 1) * (DEGREE + 1)] = basis[:, : DEGREE + 1]
    x = m[:, None] * design
    total = dense + SPREAD**2 * x @ x.T + linear.columns.T @ linear.columns
    normal = torch.distributions.MultivariateNormal(m + linear.offset, (total + total.T) / 2)
    expected = float(normal.log_prob(plain.flux / plain.reference)) - float(plain.reference.log().sum())
    assert float(likelihood.log_prob(near[:1])) == pytest.approx(expected, abs=0.05)


def test_what_the_spectrum_tells_of_a_nuisance(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, star: Tensor
) -> None:
    likelihood = Likelihood.of(visit, forward, labels)
    with torch.no_grad():
        moved = likelihood.spectra(star[None] + torch.tensor([0, 0, 0, 0, 0.4, 0, 0]))
        factor = (moved / likelihood.spectra(star[None]))[0]
    flux = torch.where(member(likelihood, 3), likelihood.flux * factor, likelihood.flux)
    shifted = replace(likelihood, flux=flux, nuisances=(ChipVelocity(), Dilution())).with_reference_continuum(
        star
    )
    assert shifted.amplitudes(star) == []
    found = {(a.nuisance.name, a.of): a for a in shifted.linearised(star).amplitudes(star)}
    red, blue = found["chip_velocity", "chip 3"], found["chip_velocity", "chip 1"]
    assert red.mean == pytest.approx(0.4, abs=0.2)
    assert blue.mean == pytest.approx(0.0, abs=0.2)
    assert 0.02 < red.std < 0.2
    assert found["dilution", "chip 1"].std < 0.02


def test_two_stars(visit: Spectrum, forward: ForwardModel, labels: LabelSet, star: Tensor) -> None:
    pair, of_pair = Pair(forward), pair_labels(labels)
    plain = Likelihood.of(visit, pair, of_pair)
    rows = torch.tensor([[*star[:6].tolist(), 4500.0, 3.0, 50.0, 12.0, 0.3, JITTER]], dtype=torch.float64)
    nuisances = (ChipVelocity(), LineWidth(), LimbDarkening(), Dilution())
    likelihood = replace(plain, nuisances=nuisances).linearised(rows[0])
    assert bool(likelihood.log_prob(rows).isfinite().all())
    at = Point(pair, rows[:, :-1], plain.to_pixels, plain.chip, plain.line_width)
    moved = rows.repeat(2, 1)
    for i, name in enumerate(of_pair.names):
        if name.startswith("v_rad"):
            moved[:, i] += torch.tensor([-0.5, 0.5], dtype=torch.float64)
    low, high = plain.spectra(moved)
    expected = high - low
    found = ChipVelocity().derivative(at).sum(0)
    assert float((found - expected).abs().max()) < 0.02 * float(expected.abs().max())
    mode = torch.ones(1, forward.emulator.grid.n_pixels)
    torch.testing.assert_close(
        LibraryModes(vectors=mode).derivative(at)[0], torch.ones(plain.n_pixels).double(), atol=1e-3, rtol=0
    )


class Brute(Density):
    """Labels, chips' velocities and dilutions, all sampled: the model itself at each, whose priors are N(0, 1) alike."""

    def __init__(self, likelihood: Likelihood, labels: LabelSet) -> None:
        self.likelihood, self.labels = likelihood, labels
        self.n = len(labels)

    @property
    def dim(self) -> int:
        return self.n + 6

    def log_likelihood(self, u: Tensor) -> Tensor:
        theta, a = self.labels.from_normal(u[:, : self.n]), u[:, self.n :]
        m = torch.zeros(len(u), self.likelihood.n_pixels, dtype=torch.float64)
        for chip in range(3):
            moved = theta.clone()
            moved[:, 4] += ChipVelocity().width * a[:, chip]
            light = Dilution().width * a[:, 3 + chip, None]
            here = member(self.likelihood, chip + 1)
            m[:, here] = (self.likelihood.spectra(moved)[:, here] + light) / (1 + light)
        return torch.cat(
            [self.likelihood.log_prob(t, x) for t, x in zip(theta.split(64), m.split(64), strict=True)]
        )

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@pytest.mark.slow
def test_sampling_nuisances_as_labels_gives_the_same_posterior(
    plain: Likelihood, labels: LabelSet, star: Tensor
) -> None:
    nuisances = (ChipVelocity(), Dilution())
    linear = replace(plain, nuisances=nuisances).linearised(star)
    target = Target(Tied.free(linear, len(labels)), labels)
    modes = find_modes(target, labels.to_normal(star[None]))
    linear = linear.linearised(labels.from_normal(modes.u[0]))
    target = Target(Tied.free(linear, len(labels)), labels)
    modes = find_modes(target, modes.u)
    generator = torch.Generator().manual_seed(0)
    found = alone(
        weigh(target, Mixture(around(modes.u, modes.factor), torch.ones(1).double()), 1500, generator)
    )
    # A first guess of all thirteen; the rounds of weighing adapt it.
    best = labels.from_normal(modes.u[0])
    told = linear.amplitudes(best)
    n = len(labels)
    place = torch.cat([modes.u[0], torch.tensor([a.mean / a.nuisance.width for a in told])])
    factor = torch.zeros(n + 6, n + 6, dtype=torch.float64)
    factor[:n, :n] = modes.factor[0]
    factor[n:, n:] = torch.diag(torch.tensor([1.5 * a.std / a.nuisance.width for a in told]))
    brute = Brute(frozen(plain, best), labels)
    guess = Mixture(around(place[None], factor[None]), torch.ones(1).double())
    exact = alone(weigh(brute, guess, 3000, generator))
    assert found.khat < 0.7
    assert exact.khat < 0.7
    assert found.draws.log_evidence == pytest.approx(exact.draws.log_evidence, abs=0.15)
    moments = []
    for draws, log_weights in ((found.draws.u, found.log_weights), (exact.draws.u[:, :n], exact.log_weights)):
        w = log_weights.exp()[:, None]
        mean = (w * draws).sum(0)
        moments.append((mean, (w * (draws - mean).square()).sum(0).sqrt()))
    (mean, std), (expected, spread) = moments
    assert float(((mean - expected) / spread).abs().max()) < 0.15
    torch.testing.assert_close(std / spread, torch.ones(n).double(), atol=0.25, rtol=0)


# What is chosen


def test_the_default_is_what_a_model_has(forward: ForwardModel) -> None:
    inferred = ("teff", "logg", "m_h", "alpha_m")
    names = [n.name for n in chosen("default", forward, inferred)]
    assert names == ["chip_velocity", "line_width", "limb_darkening", "dilution", "library_by_chip"]
    assert chosen("none", forward, inferred) == ()
    (elements,) = chosen("elements", forward, ("teff", "logg", "m_h"))
    assert elements.labels == ("alpha_m",)
    wide = Dilution(0.1)
    found = {n.name: n.width for n in chosen(("default", wide), forward, inferred)}
    assert found["dilution"] == 0.1
    assert [n.name for n in chosen("dilution, line_width", forward, inferred)] == ["dilution", "line_width"]


@pytest.mark.parametrize("width", [0.0, -1.0, math.inf, math.nan])
def test_a_width_must_be_positive(width: float) -> None:
    for kind in (
        ChipVelocity,
        LineWidth,
        LimbDarkening,
        Macroturbulence,
        Dilution,
        Microturbulence,
        CarbonIsotopes,
    ):
        with pytest.raises(InferenceError, match="width must be positive"):
            kind(width)


def test_what_is_no_nuisance_is_refused(plain: Likelihood, star: Tensor, forward: ForwardModel) -> None:
    with pytest.raises(InferenceError, match=r"no 'dillution'; did you mean 'dilution'"):
        chosen("dillution", forward, ())
    with pytest.raises(InferenceError, match="has no derivative"):
        chosen((3,), forward, ())
    with pytest.raises(InferenceError, match="neither a name nor several"):
        chosen(3, forward, ())

    @dataclass(frozen=True)
    class Wrong(Nothing):
        def derivative(self, at: Point) -> Tensor:
            return torch.full((1, len(at.spectrum)), math.nan)

    with pytest.raises(InferenceError, match="nuisance nothing: its derivative must be finite"):
        replace(plain, nuisances=(Wrong(),)).linearised(star)
    with pytest.raises(InferenceError, match="width must be positive"):
        chosen((Nothing(width=0.0),), forward, ())


def test_modes_of_another_emulator_are_refused(forward: ForwardModel, tmp_path: Path) -> None:
    path = tmp_path / "modes.safetensors"
    n = forward.emulator.grid.n_pixels
    for tensors, message in (
        ({"modes": torch.ones(2, n)}, "modes and amplitude are wanted"),
        ({"modes": torch.ones(2, n - 1), "amplitude": torch.ones(2)}, "none of this model's emulator"),
        ({"modes": torch.ones(2, n), "amplitude": torch.zeros(2)}, "must be positive"),
    ):
        write_model(path, tensors, {})
        with pytest.raises(ModelError, match=message):
            LibraryModes.read(path, forward.emulator)


def test_macroturbulence_of_known_stars() -> None:
    # The Sun's radial-tangential 3.2 km/s; Arcturus, 5 km/s full width at half maximum; no step between giants and dwarfs.
    assert macroturbulence(5777, 4.44, 0.0) == pytest.approx(1.6, abs=0.02)
    assert macroturbulence(4286, 1.66, -0.52) == pytest.approx(2.1, abs=0.1)
    loggs = np.linspace(0, 5.5, 1000)
    values = np.array([macroturbulence(5500, logg, -0.3) for logg in loggs])
    assert np.abs(np.diff(values)).max() < 0.02
    assert values.min() > 0.5


def test_what_is_of_the_star_is_one_in_several_spectra():
    """Labels' information with one amplitude for n spectra, and with n wider ones, is the same."""
    n, rng = 3, np.random.default_rng(2)
    slopes, column = rng.normal(size=(2, 50)), rng.normal(size=(1, 50))
    information, own, cross = slopes @ slopes.T, column @ column.T, slopes @ column.T
    one = n * information - n * cross @ np.linalg.inv(n * own + 1 / 0.2**2) @ (n * cross.T)
    wide, chip = for_several([LimbDarkening(0.2), ChipVelocity(0.3)], n)
    each = n * (information - cross @ np.linalg.inv(own + 1 / wide.width**2) @ cross.T)
    assert np.allclose(one, each)
    assert chip == ChipVelocity(0.3)
