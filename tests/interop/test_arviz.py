"""Posteriors in ArviZ and corner."""

import sys
import warnings
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

GROUPS = {"posterior", "sample_stats", "prior", "flow", "observed_data", "constant_data"}


def test_inference_data(posterior):
    arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "InferenceData"):
        pytest.skip("ArviZ 1.x has DataTree")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data = posterior.to_arviz(number=4000)
    assert set(data.groups()) == GROUPS
    assert "equally weighted: 4000 resampled" in data.posterior.attrs["draws"]
    assert data.posterior["teff"].attrs["units"] == "K"
    summary = arviz.summary(data, var_names=["teff", "v_bary"], kind="stats", round_to="none")
    expected = posterior.summary()["teff"]
    assert summary.loc["teff", "mean"] == pytest.approx(expected["mean"], abs=0.2 * expected["std"])
    assert summary.loc["teff", "sd"] == pytest.approx(expected["std"], rel=0.15)
    assert summary.loc["v_bary", "mean"] == pytest.approx(posterior.v_bary["mean"], abs=0.02)


def test_weighted_draws_are_kept_as_they_are(posterior):
    data = posterior.to_arviz(weighted=True)
    np.testing.assert_array_equal(
        data.posterior["logg"].values[0], posterior.draws[:, posterior.labels.index("logg")]
    )
    np.testing.assert_allclose(np.exp(data.sample_stats["log_weight"].values).sum(), 1)
    assert data.posterior.attrs["draws"].startswith("weighted")
    assert data.sample_stats.attrs["khat"] == posterior.khat


def test_data_tree_where_arviz_has_no_inference_data(posterior, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "arviz", ModuleType("arviz"))
    tree = posterior.to_arviz()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == GROUPS
    assert tree["prior"]["teff"].shape == tree["posterior"]["teff"].shape
    tree.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")


def test_the_prior_is_the_model_s(posterior):
    prior = posterior.to_arviz(number=4000).prior
    for label in posterior.labels:
        assert prior[label.name].min() >= label.prior.low
        assert prior[label.name].max() <= label.prior.high
        assert float(prior[label.name].std()) == pytest.approx(label.prior.std, rel=0.05)


def test_resampling_agrees_with_the_weights(posterior):
    resampled = posterior.to_arviz(number=20_000, seed=1).posterior
    assert not np.array_equal(resampled["m_h"], posterior.to_arviz(number=20_000, seed=2).posterior["m_h"])
    entry = posterior.summary()["m_h"]
    assert float(resampled["m_h"].mean()) == pytest.approx(entry["mean"], abs=0.05 * entry["std"])


def test_corner_arrays(posterior):
    from corner import corner

    draws, weights, labels = posterior.corner_arrays()
    assert draws.shape == (len(weights), 6) == (len(posterior.draws), len(labels))
    assert labels[0] == r"$T_{\rm eff}$ [K]"
    assert weights.sum() == pytest.approx(1)
    assert posterior.corner_arrays(nuisance=True).labels[-1] == "jitter"
    assert len(corner(draws, weights=weights, labels=labels, fig=Figure()).axes) == 36
