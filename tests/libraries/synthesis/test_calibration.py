"""Line strengths come back from spectra that were made with them."""

from __future__ import annotations

import numpy as np
import pytest
from marcs_files import atmosphere

from maury.libraries.synthesis import calibration
from maury.libraries.synthesis.calibration import (
    Problem,
    Standard,
    State,
    Window,
    derivatives,
    features,
    groups,
    step,
)
from maury.libraries.synthesis.engine import Star
from maury.libraries.synthesis.lines import LineList

RNG = np.random.default_rng(3)
N = 30
WINDOW = Window(15200.0, 15260.0)


@pytest.fixture(scope="module")
def lines():
    wavelength = np.sort(RNG.uniform(15203, 15257, N))
    return LineList(
        np.array(["26.000"] * N),
        np.ones(N, np.int64),
        wavelength,
        np.linspace(5.0, 6.5, N),
        RNG.uniform(-1.0, 0.0, N),
        np.full(N, 2.5),
        np.full(N, 9.0),
        np.zeros(N),
    )


def spectrum(lines, star, wavelength):
    """Lines of a curve of growth that saturates, as wide as their damping says."""
    absorption = np.zeros(len(wavelength))
    for x, gf, damping in zip(lines.wavelength, lines.log_gf, lines.damping, strict=True):
        width = 0.15 + 0.02 * damping
        absorption += 10 ** (gf + star.abundances.get("Fe", 0.0)) * np.exp(
            -0.5 * ((wavelength - x) / width) ** 2
        )
    return np.exp(-0.6 * absorption * star.v_micro**0.2)


def standard(name, lines, star, **kwargs):
    wavelength = np.arange(15195.0, 15265.0, 0.02)
    return Standard(
        name,
        star,
        atmosphere(star.teff, star.logg, star.m_h),
        wavelength,
        spectrum(lines, star, wavelength),
        **kwargs,
    )


def synthesise(standard, lines, star):
    wavelength = np.arange(15195.0, 15265.0, 0.02)
    return WINDOW.smooth(wavelength, spectrum(lines, star, wavelength), extra=standard.macro)


def test_components_of_a_transition_belong_together(lines):
    close = LineList(*(np.repeat(getattr(lines, k), 2) for k in lines.__dataclass_fields__))
    shifted = LineList(**{**close.__dict__, "wavelength": close.wavelength + np.tile([0.0, 0.1], N)})
    number = features(shifted)
    assert len(set(number.tolist())) == N
    assert (number[::2] == number[1::2]).all()


def test_groups_hold_features_that_do_not_reach_each_other():
    centre, reach = RNG.uniform(0, 100, 200), RNG.uniform(0.2, 3, 200)
    found = groups(centre, reach)
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    for group in found:
        order = group[np.argsort(centre[group])]
        assert ((centre[order] - reach[order])[1:] >= (centre[order] + reach[order])[:-1] - 1e-9).all()


def test_strengths_damping_and_the_standards_labels_come_back(lines):
    true = lines.adjusted(lines.log_gf + RNG.normal(0, 0.2, N), np.full(N, 3.2))
    stars = [Star(4286.0, 2.2, -0.4, 1.0), Star(4400.0, 2.2, 0.0, 1.5, {"Fe": 0.1})]
    known = [stars[0], Star(4400.0, 2.2, 0.0, 1.5, {"Fe": 0.0})]
    standards = [
        standard("one", true, stars[0], velocity=0.0, macro=0.0, sigma=0.003),
        standard("two", true, stars[1], velocity=0.0, macro=0.0, sigma=0.003, free={"Fe": 0.2}),
    ]
    standards = [Standard(**{**s.__dict__, "star": star}) for s, star in zip(standards, known, strict=True)]
    problem = Problem(
        lines,
        features(lines),
        standards,
        WINDOW,
        synthesise,
        gf_sigma=np.full(N, 0.5),
        damping_mean=np.full(N, np.log(2.5)),
        damping_sigma=np.full(N, 0.5),
        reach=np.full(N, 2.5),
    )
    start = State(np.zeros(N), np.full(N, np.log(2.5)), known)
    state = start
    for _ in range(4):
        base = [
            synthesise(s, problem.adjusted(state.log_gf, state.damping), star)
            for s, star in zip(standards, state.stars, strict=True)
        ]
        state = step(problem, state, start, base, derivatives(problem, state, base))
    made = [
        synthesise(s, problem.adjusted(state.log_gf, state.damping), star)
        for s, star in zip(standards, state.stars, strict=True)
    ]
    before = [synthesise(s, lines, star) for s, star in zip(standards, known, strict=True)]
    for s, new, old in zip(standards, made, before, strict=True):
        observed = s.observed(WINDOW)
        assert (new - observed).std() < 0.1 * (old - observed).std()
    error = state.log_gf - (true.log_gf - lines.log_gf)
    assert np.median(np.abs(error)) < 0.05
    assert state.stars[1].abundances["Fe"] == pytest.approx(0.1, abs=0.05)


def test_the_window_takes_a_velocity_out_and_keeps_the_continuum():
    wavelength = np.arange(15195.0, 15265.0, 0.02)
    line = lambda x: 1 - 0.5 * np.exp(-0.5 * ((wavelength - x) / 0.1) ** 2)  # noqa: E731
    rest, moved = (
        WINDOW.smooth(wavelength, line(15230.0)),
        WINDOW.smooth(wavelength, line(15230.0 * (1 + 30 / 299792.458)), velocity=30.0),
    )
    np.testing.assert_allclose(moved, rest, atol=1e-3)
    assert rest[:20] == pytest.approx(1.0)


def test_too_many_groups_are_an_error():
    with pytest.raises(ValueError, match="too many groups"):
        groups(np.zeros(5), np.ones(5), limit=3)
    assert calibration.continuum_basis(WINDOW.wavelength).sum(axis=1) == pytest.approx(1.0)
