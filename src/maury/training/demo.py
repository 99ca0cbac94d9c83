"""A simulated APOGEE visit with known labels: what ``make demo`` infers."""

from __future__ import annotations

from pathlib import Path

import torch

from maury.models import Model
from maury.spectra.formats.writers import nominal_visit_grid, write_apvisit
from maury.spectra.instrument import apogee
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import Observing, Simulator, drawn_lsf, fibre_generator

TRUTH = {
    "teff": 4750.0,
    "logg": 2.55,
    "m_h": -0.21,
    "alpha_m": 0.09,
    "c_m": -0.08,
    "n_m": 0.17,
    "v_micro": 1.55,
    "v_rad": 41.7,
    "v_sini": 9.5,
    "jitter": 0.005,
}
SNR = 80.0
V_CORRECTION = 12.34


def simulate_visit(
    model: Model, truth: dict[str, float], *, snr: float, seed: int, v_correction: float | None
) -> Spectrum:
    """Simulate a visit on native pixels: three chips, uneven errors, masked pixels, continua and noise.

    Parameters
    ----------
    model
        Whose spectra.
    truth
        Value of each of its labels, nuisances included.
    snr
        Signal-to-noise ratio a pixel.
    seed
        Of the fibre, noise, masks and continua.
    v_correction
        Barycentric correction that the file shall state, km/s.
    """
    grid = nominal_visit_grid()
    observing = Observing(
        snr=(snr, snr * 1.0001), masked=(0.05, 0.06), chip_loss_probability=0, gap_probability=0
    )
    generator = torch.Generator().manual_seed(seed)
    lsf = drawn_lsf(apogee(), "native", fibre_generator(seed))
    simulator = Simulator(model.problem, grid, observing, lsf)
    simulator.usable[:] = True
    labels = torch.tensor([[truth[name] for name in model.labels.names]], dtype=torch.float64)
    simulation = simulator.observe(labels, generator)
    # The flux of an H = 9 star in the survey's units.
    level = 800.0
    return Spectrum(
        grid,
        level * simulation.flux[0].double().numpy(),
        simulation.ivar[0].double().numpy() / level**2,
        id="maury-demo",
        v_correction=v_correction,
        lsf=lsf,
    )


def write_demo(path: Path, model: Model, seed: int = 1) -> dict[str, float]:
    """Write the demonstration's apVisit file and return its true labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spectrum = simulate_visit(model, TRUTH, snr=SNR, seed=seed, v_correction=V_CORRECTION)
    write_apvisit(path, spectrum, release="dr16", header={"SNR": SNR})
    return {name: TRUTH[name] for name in model.labels.names}
