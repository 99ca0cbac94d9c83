"""A second star's light is noticed where it is, and not where the library is wrong."""

from __future__ import annotations

import pytest

from maury.checks.gap import FAULTS, Bed
from maury.inference.infer import infer
from maury.models import load_model


@pytest.mark.parametrize(("fault", "strength", "found"), [("companion", 0.3, True), ("library", 1.0, False)])
def test_light_of_a_second_star(fault, strength, found):
    spectrum, _ = Bed(load_model(), (100.0, 200.0)).spectrum(FAULTS[fault], strength, 0, 3)
    posterior = infer(spectrum, draws=300)
    second = posterior.diagnostics.second_light
    assert second is not None
    assert ("second_light" in posterior.flag_warn) == found
    assert (second.gain > 20) == found
    if found:
        assert posterior.verdict == "flagged"
        assert 0.01 < second.share < 0.5


def test_one_velocity_is_asked_for(monkeypatch):
    """Posteriors of two stars, and of stars whose velocity is held, have no second light to look for."""
    from types import SimpleNamespace

    from maury.inference.second_light import second_light

    for names in (("teff", "v_rad", "v_rad_2"), ("teff",)):
        target = SimpleNamespace(labels=SimpleNamespace(names=names), likelihood=SimpleNamespace(pixels=None))
        assert second_light(SimpleNamespace(target=target, u=None)) is None
