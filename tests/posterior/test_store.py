"""Posteriors on disk: what is read is what was saved, and what cannot be read says so."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import maury
from maury.errors import InferenceError
from maury.models import load_model
from maury.posterior.diagnostics import (
    BetweenLibraries,
    Diagnostics,
    ResidualProcess,
    SecondStar,
    Tried,
)
from maury.posterior.store import FORMAT, load
from maury.priors import TruncatedNormal
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def posterior():
    star = simulate_visit(load_model(), TRUTH, snr=60, seed=3, v_correction=12.34)
    star = replace(
        star,
        id="Star <b>",
        path="visits/star.fits",
        index=2,
        meta={"ra": np.float64(10.5), "hdu": 1, "when": np.datetime64("2020-01-01")},
        bitmask=np.arange(star.grid.n_pixels) % 7,
    )
    gaia = TruncatedNormal(low=0.5, high=5.1, mean=2.6, sigma=0.2)
    return maury.infer(star, draws=400, seed=5, priors={"logg": gaia})


@pytest.fixture(scope="module")
def file(posterior, tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "star.nc"
    posterior.save(path)
    return path


def test_what_is_read_is_what_was_saved(posterior, file):
    found = load(file)
    assert found.summary() == posterior.summary()
    assert found.v_bary == posterior.v_bary
    assert found.labels == posterior.labels
    a, b = found.to_json(), posterior.to_json()
    assert a.keys() == b.keys()
    for name in ("khat", "ess", "log_evidence", "rchi2", "rchi2_jitter", "seconds", "v_sini_ul95"):
        assert a[name] == pytest.approx(b[name], rel=1e-12), name
    for name in ("flag_warn", "flag_bad", "misfit", "method", "model", "id", "file", "index"):
        assert a[name] == b[name], name
    assert found.evaluations == posterior.evaluations


def test_spectrum_and_fit_come_back(posterior, file):
    found = load(file)
    for name in ("flux", "ivar", "bitmask", "good"):
        np.testing.assert_array_equal(getattr(found.spectrum, name), getattr(posterior.spectrum, name))
    np.testing.assert_array_equal(found.spectrum.grid.wavelength, posterior.spectrum.grid.wavelength)
    assert found.spectrum.grid.chips == posterior.spectrum.grid.chips
    assert found.spectrum.meta == {"ra": 10.5, "hdu": 1, "when": "2020-01-01"}
    for name in ("pixels", "flux", "continuum", "residual", "sigma", "whitened", "predicted"):
        np.testing.assert_array_equal(getattr(found.fit, name), getattr(posterior.fit, name))
    np.testing.assert_array_equal(found.flow_draws, posterior.flow_draws)
    assert len(found.plot_fit().axes) == 18


def test_provenance_is_kept(file):
    origin = load(file).provenance
    assert origin["seed"] == 5
    assert origin["versions"]["maury"]
    assert "MNRAS" in origin["reference"]
    assert len(origin["model_version"]) == 12


def test_likelihood_is_not_stored(file):
    found = load(file)
    with pytest.raises(InferenceError, match="infer the spectrum again"):
        found.log_prob(found.draws[:1])


def test_it_can_be_saved_again(file, tmp_path):
    load(file).save(tmp_path / "again.nc")
    assert load(tmp_path / "again.nc").summary() == load(file).summary()


def test_diagnostics_are_kept(posterior, file):
    assert load(file).diagnostics == replace(posterior.diagnostics, windows=posterior.windows)
    everything = Diagnostics(
        posterior.diagnostics.misfit,
        ResidualProcess(0.01, 0.1, 20.0, 12.0, True),
        {"teff": BetweenLibraries(1.0, 2.0, 3.0, 1.0, 0.5)},
        (Tried("a", -3.0, 0.9), Tried("b", -5.0, 0.1)),
        SecondStar(25.0, True, 0.3),
    )
    assert Diagnostics.from_record(json.loads(json.dumps(everything.to_record()))) == everything
    told = everything.to_json()
    assert list(told) == ["misfit", "residuals", "systematic", "models", "companion"]
    assert told["models"][1] == {"model": "b", "log_evidence": -5.0, "probability": 0.1, "left_out": ""}
    assert Diagnostics().to_json() == {}
    with pytest.raises(ValueError, match="gain"):
        Diagnostics.from_record({"companion": {"used": True, "khat": 0.1}})


def test_others_open_it(posterior, file):
    """Whoever takes the draws of ``posterior`` as they are has the right answer."""
    tree = xr.open_datatree(file, engine="h5netcdf")
    assert set(tree.children) == {"posterior", "sample_stats", "weighted", "flow", "spectrum", "fit"}
    assert tree["spectrum"]["wavelength"].attrs["units"] == "Angstrom"
    known = {*posterior.labels.names, "v_bary"}
    for name in ("posterior", "weighted"):
        group = tree[name].to_dataset()
        assert known <= set(group)
        assert group.attrs["inference_library"] == "maury"
        assert group["teff"].attrs == {"units": "K", "long_name": "Effective temperature"}
    assert set(tree["posterior"].data_vars) == known
    assert "equally weighted" in tree["posterior"].attrs["draws"]
    for name, entry in posterior.summary().items():
        error = 4 * entry["std"] / posterior.ess**0.5
        assert float(tree["posterior"][name].mean()) == pytest.approx(entry["mean"], abs=error), name
        assert float(tree["posterior"][name].std()) == pytest.approx(entry["std"], rel=0.4), name
    np.testing.assert_array_equal(tree["weighted"]["log_weight"].values[0], posterior.log_weights)


def test_arviz_opens_it(posterior, file):
    arviz = pytest.importorskip("arviz")
    found = arviz.summary(arviz.from_netcdf(str(file)).posterior, kind="stats", round_to="none")
    entry = posterior.summary()["v_sini"]
    assert found.loc["v_sini", "mean"] == pytest.approx(
        entry["mean"], abs=4 * entry["std"] / posterior.ess**0.5
    )
    assert found.loc["v_bary", "mean"] == pytest.approx(posterior.v_bary["mean"], abs=0.05)


def test_files_of_format_1_still_open(posterior, file, tmp_path):
    """They held weighted draws in ``posterior``, and no p-values of single checks."""
    tree = xr.open_datatree(file, engine="h5netcdf").load()
    weighted, record = tree["weighted"].to_dataset(), json.loads(tree.attrs["record"])
    stats = ["log_weight", "log_likelihood", "log_prior", "log_proposal"]
    found = record.pop("diagnostics")
    record["extra"] = posterior.diagnostics.to_json()
    assert "p_scatter" not in json.dumps(record["extra"])
    old = {f"/{name}": tree[name].to_dataset() for name in ("flow", "spectrum", "fit")}
    old["/posterior"] = weighted[list(posterior.labels.names)]
    old["/sample_stats"] = weighted[stats].assign_attrs(tree["sample_stats"].attrs)
    attributes = tree.attrs | {"record": json.dumps(record | {"format": 1})}
    tree = xr.DataTree.from_dict(old)
    tree.attrs.update(attributes)
    tree.to_netcdf(tmp_path / "old.nc", engine="h5netcdf")
    again = load(tmp_path / "old.nc")
    assert again.summary() == posterior.summary()
    assert again.diagnostics.misfit.p_predictive == found["misfit"]["p_predictive"]
    for a, b in zip(again.diagnostics.misfit.checks, posterior.diagnostics.misfit.checks, strict=True):
        assert a.name == b.name
        assert a.p_scatter == pytest.approx(b.p_scatter, rel=0.2)
    again.save(tmp_path / "new.nc")
    assert load(tmp_path / "new.nc").summary() == posterior.summary()


def test_missing(tmp_path):
    with pytest.raises(InferenceError, match=r"none\.nc: no such file"):
        load(tmp_path / "none.nc")


@pytest.mark.parametrize("kind", ["text", "half", "other", "old", "labels", "pixels", "newer"])
def test_what_cannot_be_read_says_so(file, tmp_path, kind):
    path = tmp_path / f"{kind}.nc"
    reason = "is damaged or of another version"
    if kind == "text":
        path.write_text("not netCDF")
        reason = "cannot be read as netCDF"
    elif kind == "half":
        path.write_bytes(file.read_bytes()[:100_000])
        reason = "cannot be read as netCDF"
    elif kind == "other":
        xr.Dataset({"x": ("n", [1.0])}).to_netcdf(path, engine="h5netcdf")
        reason = "holds no posterior"
    else:
        tree = xr.open_datatree(file, engine="h5netcdf").load()
        if kind == "old":
            del tree["fit"]
            reason = "draws only"
        elif kind == "labels":
            tree.attrs["record"] = tree.attrs["record"].replace('"labels": [', '"labels": [{"name": "x"}, ')
        elif kind == "newer":
            tree.attrs["record"] = tree.attrs["record"].replace(f'"format": {FORMAT}', '"format": 99')
        else:
            tree["fit"]["pixels"].values[-1] = 10**6
        tree.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InferenceError, match=reason) as error:
        load(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)
