"""Whether a broken installation is noticed."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest

from maury import cli
from maury.checks import doctor
from maury.names import shipped


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["maury", "doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0, capsys.readouterr().out


def found(part, name, **options):
    return next(f for f in doctor.examine(**options) if (f.part, f.name) == (part, name))


def test_this_installation_is_fine(monkeypatch, capsys):
    code, out = run(monkeypatch, capsys, "--json")
    entry = json.loads(out)
    assert code == 0, entry["broken"]
    assert entry["broken"] == []
    names = {finding["name"] for finding in entry["findings"]}
    assert {
        "maury",
        "python",
        "torch",
        "cpu",
        "cuda",
        "kurucz-apogee",
        "btsettl-apogee",
        "temporary folder",
        "survey",
    } <= names
    model = next(f for f in entry["findings"] if f["name"] == "kurucz-apogee")
    assert len(model["values"]["sha256"]["estimator.safetensors"]) == 64


@pytest.fixture
def requires(monkeypatch):
    def set_to(*lines):
        monkeypatch.setattr(doctor.metadata, "requires", lambda _: list(lines))

    return set_to


def test_missing_and_old_packages(requires, monkeypatch, capsys):
    requires("numpy>=1.26", "torch>=99", "no-such-package>=1", "dask>=1; extra == 'survey'")
    assert found("software", "numpy", models=False).state == "ok"
    old, missing = (found("software", name, models=False) for name in ("torch", "no-such-package"))
    assert (old.state, missing.state) == ("broken", "broken")
    assert "pip install 'torch>=99'" in old.text
    assert missing.text.startswith("missing")
    monkeypatch.setattr(doctor, "shipped", lambda estimators: {})
    code, out = run(monkeypatch, capsys)
    assert code == 2
    assert "broken: torch, no-such-package" in out


def test_a_missing_extra_is_a_note(requires):
    requires("no-such-package>=1; extra == 'survey'", "numpy>=1; extra == 'mcmc'")
    extra = found("extras", "survey", models=False)
    assert extra.state == "note"
    assert extra.text == "without no-such-package; pip install 'maury[survey]'"
    assert found("extras", "mcmc", models=False).state == "ok"


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    assert found("software", "python", models=False).state == "broken"


def test_not_installed(monkeypatch):
    def nothing(_):
        raise metadata.PackageNotFoundError("maury")

    monkeypatch.setattr(doctor.metadata, "requires", nothing)
    assert found("software", "installation", models=False).state == "broken"


def test_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert found("devices", "torch", models=False).state == "broken"
    assert found("devices", "cpu", models=False).state == "ok"


def test_no_room_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    assert found("folders", "temporary folder", models=False).state == "broken"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e8))
    assert found("folders", "working folder", models=False).state == "note"


def test_weights_that_are_not_as_shipped(monkeypatch):
    folder = shipped()["kurucz-apogee"]
    path = (folder / "estimator.safetensors").resolve()
    good = doctor._model("kurucz-apogee", folder, {path: doctor.sha256(path)})
    assert good.state == "ok"
    assert "as shipped" in good.text
    bad = doctor._model("kurucz-apogee", folder, {path: "0" * 64})
    assert bad.state == "broken"
    assert bad.text.startswith("estimator.safetensors: not as it was shipped")


def test_weights_that_cannot_be_read(tmp_path):
    for name in ("emulator", "estimator"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"nothing")
    assert doctor._model(str(tmp_path), tmp_path, {}).state == "broken"


def test_the_record_of_a_wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(
        doctor.metadata,
        "files",
        lambda _: [
            SimpleNamespace(
                hash=SimpleNamespace(mode="sha256", value="47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"),
                locate=lambda: tmp_path / "empty",
            )
        ],
    )
    assert doctor._record() == {
        (tmp_path / "empty").resolve(): "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }
