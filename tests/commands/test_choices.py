"""Priors and masks on the command line: of ``maury infer``, ``--joint`` and ``maury survey``."""

from __future__ import annotations

from dataclasses import replace

import pytest

import maury
from maury.commands.choices import priors_for, read_masks, read_priors
from maury.errors import MauryError, MauryWarning
from maury.models import load_model
from maury.priors import LogUniform, Normal, Uniform
from maury.spectra import write_table
from maury.survey import worker
from maury.survey.store import Store


@pytest.fixture(scope="module")
def star(tmp_path_factory, visit):
    path = tmp_path_factory.mktemp("star") / "star.ecsv"
    write_table(path, replace(visit, v_correction=None))
    return path


@pytest.mark.parametrize(
    ("text", "prior"),
    [
        ("logg=2.61+-0.05", Normal(2.61, 0.05)),
        ("logg=2.61±0.05", Normal(2.61, 0.05)),
        ("logg = 2.61 +/- 5e-2", Normal(2.61, 0.05)),
        ("logg=-0.2+-0.1", Normal(-0.2, 0.1)),
        ("logg=2:3", Uniform(2, 3)),
        ("logg=-1.5:-.5", Uniform(-1.5, -0.5)),
    ],
)
def test_a_prior_is_written_as_people_do(text, prior):
    assert read_priors([text]) == {"logg": prior}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["logg=2.61"], r"--prior logg=2.61: write LABEL=VALUE\+-ERROR, as in logg=2.61"),
        (["logg=high"], "write LABEL=VALUE"),
        (["logg=3:2"], "--prior logg=3:2: Uniform: a prior needs finite bounds with low < high"),
        (["logg=2.6+-0"], r"--prior logg=2.6\+-0: .*sigma"),
        (["logg"], "or name a TOML file"),
        (["logg=2:3", "logg=2.5+-0.1"], "logg already has a prior"),
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_what_is_no_prior_is_told(texts, reason):
    with pytest.raises(MauryError, match=reason):
        read_priors(texts)


def test_priors_of_a_file(tmp_path):
    file = tmp_path / "star.toml"
    file.write_text(
        "[priors]\nteff = [4000, 5000]\nlogg = {mean = 2.61, sigma = 0.05}\nm_h = {low = -1, high = 0}\n"
        'v_sini = {kind = "log-uniform", low = 1, high = 50}\n',
        encoding="utf-8",
    )
    assert read_priors([str(file), "v_rad=10+-1"]) == {
        "teff": Uniform(4000, 5000),
        "logg": Normal(2.61, 0.05),
        "m_h": Uniform(-1, 0),
        "v_sini": LogUniform(1, 50),
        "v_rad": Normal(10, 1),
    }
    for text, reason in (
        ("[prior]\nteff = [1, 2]\n", "prior: no such key.*did you mean 'priors'"),
        ("[priors]\nteff = [1, 2, 3]\n", "priors.teff"),
        ("[priors]\nteff = {mean = 1, sgma = 2}\n", "priors.teff"),
        ("", r"the file has no \[priors\]"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(MauryError, match=reason):
            read_priors([str(file)])


def test_masks_are_ranges():
    assert read_masks(["16100:16150", "15800.5:15801"]) == [(16100, 16150), (15800.5, 15801)]
    for text in ("16100", "16150:16100", "red", "1:2:3", "nan:5"):
        with pytest.raises(MauryError, match=rf"--mask {text}: write LOW:HIGH in Angstrom"):
            read_masks([text])


def test_a_prior_is_cut_to_the_model_once():
    model = load_model()
    assert priors_for(model, {"logg": Normal(2.6, 0.05)})["logg"].high == model.labels["logg"].prior.high
    with pytest.warns(MauryWarning, match="teff"):
        cut = priors_for(model, {"teff": Uniform(1000, 5000)})
    assert cut["teff"].low == model.labels["teff"].prior.low
    with pytest.raises(MauryError, match=r"no label 'tef'.*did you mean 'teff'"):
        priors_for(model, {"tef": Uniform(4000, 5000)})


@pytest.fixture
def asked(monkeypatch):
    """Options that inference is asked for, in place of inference."""
    import maury.inference.infer as module
    import maury.inference.visits as visits

    seen = []

    def stop(spectrum, model, options, *_):
        seen.append(options)
        raise MauryError("enough")

    monkeypatch.setattr(module, "infer_with", stop)
    monkeypatch.setattr(visits, "infer_visits_with", stop)
    return seen


@pytest.mark.parametrize("joint", [False, True])
def test_infer_takes_them(run, asked, star, joint):
    code, _, error = run(
        "infer", star, "--prior", "logg=2.61+-0.05", "--mask", "16100:16150", *["--joint"] * joint
    )
    assert code == 2
    assert "enough" in error
    assert (asked[0].priors["logg"].mean, asked[0].priors["logg"].sigma) == (2.61, 0.05)
    assert list(asked[0].masks) == [(16100, 16150)]


def test_a_label_that_there_is_not_is_told_before_any_file_is_read(run, star):
    code, out, error = run("infer", star, star, "--prior", "gravity=2.61+-0.05")
    assert (code, out) == (2, "")
    assert error.count("gravity") == 1
    assert "Traceback" not in error


def test_a_survey_takes_keeps_and_uses_them(run, star, tmp_path, monkeypatch):
    monkeypatch.setattr("maury.commands.survey._run", lambda *_: None)
    words = ["survey", star, "--output", tmp_path / "s"]
    code, _, _ = run(*words, "--prior", "logg=2.61+-0.05", "--mask", "16100:16150", "--mask", "16200:16250")
    assert code == 0
    settings = Store(tmp_path / "s").settings
    assert settings.priors["logg"].mean == 2.61
    assert settings.masks == ((16100, 16150), (16200, 16250))
    # Gone on with: without them as it was begun, with others not at all.
    assert run("survey", "--output", tmp_path / "s", "--resume")[0] == 0
    code, _, error = run("survey", "--output", tmp_path / "s", "--resume", "--mask", "16100:16150")
    assert code == 2
    assert "masks" in error
    code, _, error = run(*words[:-1], tmp_path / "f", "--flow-only", "--prior", "logg=2.61+-0.05")
    assert code == 2
    assert "--flow-only knows no priors" in error

    asked = {}

    def infer_batch(spectra, model, **options):
        asked.update(options)
        return [MauryError("enough")] * len(spectra)

    monkeypatch.setattr(worker, "infer_batch", infer_batch)
    spectrum = maury.read_spectrum(star)
    assert len(list(worker._verified([spectrum], load_model(), settings, [1]))) == 1
    assert asked["priors"] == settings.priors
    assert asked["masks"] == settings.masks

    def amortised(spectra, *_, **__):
        asked["spectrum"] = spectra[0]
        return [MauryError("enough")]

    monkeypatch.setattr(worker, "amortised", amortised)
    list(worker._by_flow([spectrum], load_model(), settings, [1]))
    left_out = asked["spectrum"].ivar == 0
    w = spectrum.grid.wavelength
    assert left_out[(w > 16100) & (w < 16150)].all()
    assert left_out.sum() < left_out.size / 2
