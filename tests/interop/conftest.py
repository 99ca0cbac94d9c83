"""One posterior for all tests of this folder."""

from dataclasses import replace

import pytest

from maury.inference.infer import infer
from maury.models import load_model
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="session")
def posterior():
    model = load_model()
    spectrum = simulate_visit(model, TRUTH, snr=80, seed=3, v_correction=-14.5)
    where = {"ra": 6.111, "dec": 53.688, "flux_unit": "1e-17 erg / (Angstrom s cm2)"}
    return infer(replace(spectrum, id="2M0024", meta=where), model, draws=400)
