"""What callers hand over works as they mean it, or is refused with a reason."""

from __future__ import annotations

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch

import maury
from maury.errors import InferenceError, LabelError, MauryError, MauryWarning
from maury.inference.arguments import as_seed, one_each
from maury.inference.batch import infer_batch, labels_for
from maury.inference.flow import amortised
from maury.inference.infer import infer_files
from maury.inference.options import Keywords, Options
from maury.models import load_model
from maury.priors import ANY_PRIOR, LogUniform, Normal, TruncatedNormal, Uniform, as_prior


@pytest.fixture(scope="module")
def model():
    return load_model()


def settings(**changed):
    return Options(**changed)


def test_options_are_the_keywords_of_infer():
    """They are described once, where users look."""
    keywords = dict(inspect.signature(maury.infer).parameters)
    for name in ("spectrum", "model", "progress"):
        del keywords[name]
    assert list(keywords) == [field.name for field in fields(Options)] == list(Keywords.__annotations__)
    assert keywords.pop("priors").default is None
    assert Options(**{name: keyword.default for name, keyword in keywords.items()}) == Options()
    for name in (*keywords, "priors"):
        assert f"    {name}\n" in inspect.getdoc(maury.infer).replace("\n", "\n    ")


@pytest.mark.parametrize(
    ("options", "keywords", "message"),
    [
        (None, {"drws": 300}, "no option 'drws'; .*did you mean 'draws'"),
        ({"draws": 300}, {}, "options must be Options, or given as keywords, not dict"),
        (None, {"masks": None}, "masks: needs ranges of wavelength"),
        (None, {"masks": 15200}, "masks: needs ranges of wavelength"),
        (None, {"masks": (15200, 15300)}, "15200 is no pair of wavelengths"),
    ],
)
def test_what_is_no_option_is_refused(visit, model, options, keywords, message):
    with pytest.raises(InferenceError, match=message):
        infer_batch([visit], model, options, **keywords)
    with pytest.raises(InferenceError, match=message):
        list(infer_files("none.fits", model, options, **keywords))


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_whole_number_of_any_kind_is_a_seed(seed):
    assert settings(seed=seed).seed == 3
    assert type(settings(seed=seed).seed) is int


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, None, 1.5, 1.0, "1", [1], np.float64(2)])
def test_what_is_no_seed_is_refused(visit, model, seed):
    with pytest.raises(InferenceError, match="seed must"):
        as_seed(seed)
    with pytest.raises(InferenceError, match="seed must"):
        maury.infer(visit, model, seed=seed)


def test_seeds_of_several_spectra(visit, model):
    assert one_each(np.int64(4), 2) == [4, 4]
    assert one_each(np.array([1, 2]), 2) == [1, 2]
    with pytest.raises(InferenceError, match="one for each of 2 spectra, not 3"):
        one_each([1, 2, 3], 2)
    for function in (infer_batch, amortised):
        with pytest.raises(InferenceError, match="not 3"):
            function([visit, visit], model, seeds=[1, 2, 3])
    a, b = amortised([visit, visit], model, draws=np.int64(8), seeds=np.int64(1))
    np.testing.assert_allclose(a.draws, b.draws, rtol=1e-4)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("draws", 99),
        ("draws", 1e3),
        ("draws", 10**12),
        ("draws", None),
        ("noise", "loud"),
        ("noise", ["auto"]),
        ("false_alarm", None),
        ("false_alarm", "1"),
        ("false_alarm", float("nan")),
        ("companion", "perhaps"),
        ("nuisances", "dillution"),
        ("nuisances", 3),
        ("nuisances", [3]),
        ("masks", [1]),
        ("masks", [("a", 2)]),
        ("priors", [1]),
        ("priors", {"teff": 5000}),
        ("priors", {"teff": (5000,)}),
        ("priors", {"teff": (5000, 4000)}),
        ("priors", {"teff": "4000-5000"}),
        ("priors", {"teff": (4000, "hot")}),
        ("priors", {"teff": (float("nan"), 5000)}),
        ("priors", {"teff": (-1e308, 1e308)}),
        ("priors", {"teff": {"low": 1, "high": 2}}),
    ],
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(MauryError, match=option if option != "priors" else "prior"):
        settings(**{option: value})


def test_several_spectra_are_not_one(visit, model):
    with pytest.raises(InferenceError, match=r"one spectrum, not 2: infer_batch"):
        maury.infer([visit, visit], model)
    with pytest.raises(InferenceError, match="NoneType"):
        maury.infer(None, model)
    with pytest.raises(InferenceError, match="into a list"):
        infer_batch(visit, model)
    with pytest.raises(InferenceError, match="spectrum 1 is of type str"):
        infer_batch([visit, "a.fits"], model)


def test_a_path_is_one_file(model, tmp_path):
    (failure,) = infer_files(str(tmp_path / "missing.fits"), model)
    assert "missing.fits: no such file" in failure.reason


def test_priors_as_people_write_them(visit, model):
    labels = labels_for(
        visit, model, {"teff": (4000, 5000), "logg": Normal(2.6, 0.05), "m_h": np.array([-0.5, 0.0])}
    )
    assert labels["teff"].prior == Uniform(low=4000, high=5000)
    wide = model.labels["logg"].prior
    assert labels["logg"].prior == TruncatedNormal(low=wide.low, high=wide.high, mean=2.6, sigma=0.05)
    assert labels["m_h"].prior == Uniform(-0.5, 0)


def test_a_prior_wider_than_the_models_is_cut_and_told(visit, model):
    with pytest.warns(MauryWarning, match=r"prior of teff: \[3000, 5000\] is cut to \[3600, 5000\]"):
        labels = labels_for(visit, model, {"teff": (3000, 5000)})
    assert labels["teff"].prior == Uniform(3600, 5000)
    with pytest.warns(MauryWarning, match="v_sini"):
        assert labels_for(visit, model, {"v_sini": Normal(5, 2, -10, 50)})["v_sini"].prior.low == 0
    with pytest.raises(LabelError, match=r"prior of teff: \[7000, 8000\] lies outside"):
        labels_for(visit, model, {"teff": (7000, 8000)})
    with pytest.raises(LabelError, match=r"prior of teff.*no mass"):
        labels_for(visit, model, {"teff": Normal(20000, 1)})


def test_the_models_own_priors_are_never_told_of(visit, model, recwarn):
    labels_for(visit, model, {label.name: label.prior for label in model.labels})
    labels_for(visit, model, {"teff": Normal(4500, 100), "logg": (1, 2)})
    assert not [w for w in recwarn if issubclass(w.category, MauryWarning)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Uniform(2, 1), "low < high"),
        (lambda: Uniform(1), "high"),
        (lambda: Uniform(1, 2, 3), "low, high"),
        (lambda: Uniform(1, low=2, high=3), "each once"),
        (lambda: LogUniform(0, 1), "low > 0"),
        (lambda: Normal(0, -1), "sigma"),
        (lambda: Normal(float("nan"), 1), "mean"),
        (lambda: Normal(0, 1e308).within(0, 1), "no mass"),
        (lambda: as_prior(None, "teff"), "prior of teff"),
    ],
)
def test_a_prior_that_is_none_says_why(make, reason):
    with pytest.raises(LabelError, match=reason):
        make()


def test_files_of_priors_are_told_by_their_own_names():
    with pytest.raises(ValueError, match="low < high"):
        ANY_PRIOR.validate_python({"kind": "uniform", "low": 2, "high": 1})
    assert ANY_PRIOR.validate_python({"kind": "truncated-normal", "mean": 1, "sigma": 2}) == Normal(1, 2)


def test_one_spectrum_that_cannot_be_takes_no_other_with_it(visit, model, monkeypatch):
    """The flow's first look and verification catch the same."""
    import maury.inference.flow as module

    original = module.to_model_grid

    def fails(spectrum, model):
        if spectrum.id == "odd":
            raise ValueError("no such grid")
        return original(spectrum, model)

    from dataclasses import replace

    monkeypatch.setattr(module, "to_model_grid", fails)
    odd, good = amortised([replace(visit, id="odd"), visit], model)
    assert isinstance(odd, ValueError)
    assert good.draws.shape == (64, 6)
