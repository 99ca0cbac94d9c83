"""A posterior whose file tries to write HTML into pages, and its stored copy."""

from dataclasses import replace

import pytest

import maury
from maury.models import load_model
from maury.training.demo import TRUTH, simulate_visit

HOSTILE = '</script><script>document.title="taken"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="session")
def posterior():
    star = simulate_visit(load_model(), TRUTH, snr=60, seed=3, v_correction=12.34)
    star = replace(star, id=HOSTILE, path="visits/<b>star</b>.fits", meta={"ra": 10.5, "lsf_source": HOSTILE})
    return maury.infer(star, draws=400, seed=5)
