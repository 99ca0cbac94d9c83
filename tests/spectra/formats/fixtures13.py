"""One star in thirteen file formats, as docs/formats.md lists them."""

import numpy as np

from maury.constants import C_KMS
from maury.forward.doppler import add_velocities
from maury.spectra import Spectrum, apstar_grid, nominal_visit_grid, write_apvisit
from maury.spectra.formats.star_writers import write_apstar, write_aspcapstar, write_mwm
from maury.spectra.linespread import Tabulated

V_BARY = 37.0
# What the survey thought, and the earth's motion in the observatory's frame.
V_SURVEY = (36.4, 37.3, 36.9)
BC = 12.3
SNR = 150.0


def star(wavelength):
    """Rest-frame flux of a star of narrow lines, vacuum Angstrom."""
    rng = np.random.default_rng(1)
    centres, depths = rng.uniform(15_150, 16_950, 500), rng.uniform(0.05, 0.5, 500)
    flux = np.ones_like(wavelength)
    for centre, depth in zip(centres, depths, strict=True):
        near = np.abs(wavelength - centre) < 4
        flux[near] -= depth * np.exp(-0.5 * ((wavelength[near] - centre) / 0.35) ** 2)
    return flux


def moved(wavelength, velocity):
    """Flux of the star receding at ``velocity`` km/s."""
    beta = velocity / C_KMS
    return star(wavelength * np.sqrt((1 - beta) / (1 + beta)))


def before(total, correction):
    """Velocity that, with the correction added, is ``total``."""
    return (total - correction) / (1 + correction / C_KMS)


def visit(n_pixels=4096, correction=BC, meta=None):
    grid = nominal_visit_grid(n_pixels)
    flux = 500 * moved(grid.wavelength, before(V_BARY, correction))
    rng = np.random.default_rng(2)
    noise = rng.normal(size=grid.n_pixels) * 500 / SNR
    return Spectrum(
        grid,
        flux + noise,
        np.full(grid.n_pixels, (SNR / 500) ** 2),
        "star",
        v_correction=correction,
        meta=meta or {},
    )


def at_rest(velocity, seed=3, lsf=None, masked=True):
    """The star as the survey resampled it, having taken out ``velocity``."""
    grid = apstar_grid()
    flux = moved(grid.wavelength, before(V_BARY, velocity))
    rng = np.random.default_rng(seed)
    flux = flux + rng.normal(size=grid.n_pixels) / SNR
    ivar = np.full(grid.n_pixels, SNR**2)
    if masked:
        ivar[1000:1040] = 0
        flux[1000:1040] = 3.0
    for start, stop in ((0, 246), (3274, 3585), (6080, 6344), (8335, 8575)):
        ivar[start:stop] = 0
    return Spectrum(grid, flux, ivar, "star", frame="rest", v_correction=velocity, lsf=lsf)


def kernels():
    return Tabulated(np.tile(np.exp(-0.5 * (np.arange(-7, 8) / 1.4) ** 2), (8575, 1)))


def write_all(folder):
    """Write the 13 files; return their paths by name."""
    from maury.spectra.barycentric import barycentric_correction

    place = {"ra": 6.111105, "dec": 53.688282, "jd_mid": 2457729.70782, "telescope": "apo25m"}
    computed = barycentric_correction(place["ra"], place["dec"], place["jd_mid"], place["telescope"])
    names = (
        *("apVisit-dr16", "apVisit-dr17", "apVisit-dr19", "apVisit-2048"),
        *("apStar-1", "apStar-3", "apStar-or", "apStar-and", "aspcapStar"),
        *("mwmVisit-apo", "mwmVisit-lco", "mwmStar-both", "mwmVisit-datasum"),
    )
    paths = {name: folder / f"{name}.fits" for name in names}
    write_apvisit(paths["apVisit-dr16"], visit(), release="dr16")
    write_apvisit(paths["apVisit-dr17"], visit(), release="dr17")
    write_apvisit(paths["apVisit-dr19"], visit(correction=computed, meta=place), release="dr19")
    write_apvisit(paths["apVisit-2048"], visit(2048), release="dr16")
    three = [at_rest(v, seed) for seed, v in enumerate(V_SURVEY)]
    write_apstar(paths["apStar-1"], three[:1], release="dr17")
    write_apstar(paths["apStar-3"], three, release="dr19")
    write_apstar(
        paths["apStar-or"], [at_rest(v, s, kernels()) for s, v in enumerate(V_SURVEY)], release="dr16"
    )
    write_apstar(paths["apStar-and"], three, release="dr17")
    write_aspcapstar(paths["aspcapStar"], at_rest(V_SURVEY[0]))
    write_mwm(paths["mwmVisit-apo"], apo=three)
    write_mwm(paths["mwmVisit-lco"], lco=three[:2])
    write_mwm(paths["mwmStar-both"], apo=three[:1], lco=three[1:2], kind="star")
    write_mwm(paths["mwmVisit-datasum"], lco=three[:1], wrong_datasum=True)
    return paths


def barycentric_velocity(spectrum):
    """Velocity of the star in a spectrum's frame by least squares, with what the file says added."""
    w, good = spectrum.grid.wavelength, spectrum.good
    level = np.median(spectrum.flux[good])

    def chi2(velocity):
        return (spectrum.ivar[good] * (spectrum.flux[good] - level * moved(w, velocity)[good]) ** 2).sum()

    centre = 0.0 if spectrum.frame == "rest" else before(V_BARY, spectrum.v_correction)
    for step in (2.0, 0.3, 0.05):
        trial = centre + step * np.arange(-2, 3)
        a, b, _ = np.polyfit(trial - centre, [chi2(v) for v in trial], 2)
        centre -= b / (2 * a)
    return add_velocities(centre, spectrum.v_correction)
