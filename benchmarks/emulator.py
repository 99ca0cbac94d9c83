"""How good the shipped emulator is where stars are: spectra that the engine makes anew, explained by it.

``python benchmarks/emulator.py marcs-maury-grid.toml --work build/emulator --output docs/results/standards/emulator.json`` needs
Turbospectrum (docs/libraries.md), a minute and a half of a core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from maury.checks.libraries import most_likely
from maury.files import writing
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries.emulator import Emulator
from maury.libraries.process import on_grid
from maury.libraries.synthesis.atmospheres import MarcsCollection
from maury.libraries.synthesis.design import star_of
from maury.libraries.synthesis.grid import SynthesisConfig
from maury.likelihood.problem import Problem
from maury.likelihood.target import Target
from maury.models import folder
from maury.priors import LogUniform, Uniform
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import apogee
from maury.spectra.spectrum import Spectrum
from maury.toml import read_config

# teff, logg, m_h, alpha_m, c_m, n_m, v_micro of stars as they are seen.
STARS = (
    (4286, 1.66, -0.52, 0.25, 0.0, 0.1, 1.7), (3788, 1.2, 0.0, 0.1, 0.0, 0.1, 1.9), (4600, 2.5, -0.2, 0.05, -0.05, 0.2, 1.6),
    (4900, 2.9, -1.0, 0.25, 0.0, 0.1, 1.6), (5772, 4.44, 0.0, 0.0, 0.0, 0.0, 1.1), (3771, 4.65, 0.1, 0.0, 0.0, 0.0, 0.9),
    (5000, 4.55, -0.2, 0.05, 0.0, 0.0, 0.9), (6300, 4.2, -0.3, 0.05, 0.0, 0.0, 1.3), (4000, 1.4, -0.3, 0.1, -0.1, 0.25, 1.8),
    (3650, 0.7, -0.1, 0.05, 0.0, 0.2, 2.0),
)  # fmt: skip
SNR, SCATTER = 200.0, 0.7


def make(config: SynthesisConfig, emulator: Emulator, work: Path) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Return normalised flux and all labels of the stars, their tied ones scattered; spectra are kept in a folder."""
    labels = torch.tensor(STARS, dtype=torch.float64)
    departures = emulator.ties.departures(len(labels), torch.Generator().manual_seed(7)) * SCATTER
    whole = emulator.complete(labels, departures).double()
    engine, atmospheres = config.make_engine(work), MarcsCollection(config.atmospheres)
    low, high = atmospheres.axes[2][[0, -1]]
    out = []
    for i, row in enumerate(whole):
        file = work / f"{i}.npy"
        if not file.exists():
            star = star_of(row.numpy())
            atmosphere = atmospheres.at(
                star.teff, star.logg, float(np.clip(star.donor_metallicity, low, high))
            )
            with writing(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, engine.synthesise(star, atmosphere).normalised)
        out.append((np.load(file), departures[i]))
    return out


def main() -> None:
    """Make, explain, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    config = read_config(arguments.config, SynthesisConfig)
    emulator = Emulator.load(folder("marcs-apogee") / "emulator.safetensors").requires_grad_(False)
    model, instrument = ForwardModel(emulator, 0.4).eval(), apogee()
    extra = {"v_rad": Uniform(-30.0, 30.0), "v_sini": Uniform(0.0, 100.0), "jitter": LogUniform(5e-4, 0.1)}
    labels = emulator.labels + LabelSet(tuple(label(name, prior) for name, prior in extra.items()))
    sampler = model.sampler(instrument.pixels, instrument.lsf)
    inside = model.usable(instrument.pixels.wavelength, labels)
    air = config.low + config.step * np.arange(round((config.high - config.low) / config.step) + 1)
    wavelength, grid = to_vacuum(air), emulator.grid
    rows = []
    for star, (flux, departures) in zip(STARS, make(config, emulator, arguments.work), strict=True):
        seen = sampler(on_grid(wavelength, flux, grid)[None])[0].double().numpy()
        theta = torch.tensor([*star, 0.0, 2.0, 0.005], dtype=torch.float64)
        still = torch.cat([theta[:7], torch.zeros(2, dtype=torch.float64)])[None]
        mine = sampler(model(still, departures[None]))[0].double().numpy()
        row = {
            "labels": dict(zip(emulator.labels.names, star, strict=True)),
            "rms": float(np.sqrt(np.mean((seen - mine)[inside] ** 2))),
            "stated": float(emulator.error(theta[None, :7])[0]),
        }
        spectrum = Spectrum(
            instrument.pixels, np.where(inside, seen, 1.0), np.where(inside, SNR**2, 0.0), lsf=instrument.lsf
        )
        for name in ("none", "default"):
            likelihood = Problem(model, labels).likelihood(spectrum, nuisances=name)
            target = Target(likelihood, labels).with_reference_continuum(theta)
            target, u = most_likely(target, labels.to_normal(theta))
            found = labels.from_normal(u)
            _, precision = target.newton(u[None])
            error = torch.linalg.inv(precision[0]).diagonal().sqrt() * labels.scale(u)
            row[name] = {
                label_: {"offset": float(found[i] - theta[i]), "error": float(error[i])}
                for i, label_ in enumerate(emulator.labels.names)
            }
        rows.append(row)
    z = {
        name: {
            key: float(
                np.sqrt(np.mean([(row[name][key]["offset"] / row[name][key]["error"]) ** 2 for row in rows]))
            )
            for key in emulator.labels.names
        }
        for name in ("none", "default")
    }
    with writing(arguments.output) as temporary:
        text = json.dumps(
            {"snr": SNR, "scatter": SCATTER, "rms_of_offset_over_error": z, "stars": rows}, indent=1
        )
        temporary.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(z, indent=1))


if __name__ == "__main__":
    main()
