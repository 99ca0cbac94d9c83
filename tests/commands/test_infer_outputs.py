"""What ``maury infer --output`` leaves: every star's draws, whatever the stars are called and whatever a picture meets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import pytest
from astropy.table import Table

import maury
from maury.models import load_model
from maury.posterior.store import load
from maury.report.plots import draw_picture
from maury.spectra import read_spectrum, write_table
from maury.training.demo import write_demo


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "apVisit-demo.fits"
    write_demo(path, load_model())
    return path


@pytest.fixture(scope="module")
def posterior(demo_file):
    return maury.infer(demo_file, draws=100)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures cost seconds a star."""
    monkeypatch.setattr("maury.report.plots.draw_picture", lambda path, make: None)


@pytest.fixture
def quick(monkeypatch, posterior):
    """Inference that returns one posterior for every spectrum, with the spectrum's own name and path."""
    import maury.inference.infer as module

    def infer_with(spectrum, *rest):
        return replace(posterior, spectrum=spectrum)

    monkeypatch.setattr(module, "infer_with", infer_with)


def test_no_output_overwrites_another(run, quick, no_pictures, demo_file, tmp_path):
    files = [tmp_path / place for place in ("x/star.fits", "y/star.fits", "z/star_2.fits", "z/STAR.fits")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        shutil.copy(demo_file, file)
    files.append(files[0])
    code, _, _ = run("infer", *files, "--output", tmp_path / "out")
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.nc"))
    assert names == ["STAR_4.nc", "star.nc", "star_2.nc", "star_3.nc", "star_5.nc"]
    assert load(tmp_path / "out" / "star_2.nc").spectrum.path == str(files[2])
    assert load(tmp_path / "out" / "star_3.nc").spectrum.path == str(files[1])


@pytest.mark.parametrize("joint", [False, True])
def test_files_of_strangers_are_read_by_another_process(run, quick, demo_file, tmp_path, monkeypatch, joint):
    from maury.spectra.formats import registry

    def never(*_, **__):
        raise AssertionError("read in this process")

    monkeypatch.setattr(registry, "read_spectra", never)
    told = []
    monkeypatch.setattr(
        "maury.inference.visits.infer_visits_with", lambda spectra, *_, **__: told.append(spectra)
    )
    (tmp_path / "bad.fits").write_text("garbage", encoding="utf-8")
    code, out, error = run("infer", demo_file, tmp_path / "bad.fits", "--isolated", *["--joint"] * joint)
    assert "bad.fits: not a FITS file" in error
    if joint:
        assert [spectrum.id for spectrum in told[0]] == ["maury-demo"]
    else:
        assert code == 0
        assert "teff" in out


def test_the_summary_is_not_written_over_an_input(run, demo_file, tmp_path):
    shutil.copy(demo_file, tmp_path / "summary.ecsv")
    code, _, error = run("infer", tmp_path / "summary.ecsv", "--output", tmp_path)
    assert code == 2
    assert "would be overwritten" in error
    assert (tmp_path / "summary.ecsv").read_bytes() == demo_file.read_bytes()


@pytest.mark.parametrize("name", ["[/HD] 1", "[red]x[/red]", r"$\frac{1}$", ":smiley: %s {x}", "\x1b[31mred"])
def test_a_name_is_a_name(run, quick, no_pictures, demo_file, tmp_path, name):
    file = tmp_path / "[bold] $_$ [" / "oops].ecsv"
    file.parent.mkdir()
    write_table(file, replace(read_spectrum(demo_file), lsf=None))
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("id: maury-demo", f"id: {json.dumps(name)}"), encoding="utf-8")
    code, out, error = run("infer", file, file.parent / "missing [/red].fits", "--output", tmp_path / "out")
    assert code == 0, error
    assert "warning" not in error
    assert "missing [/red].fits: no such file" in error
    shown = name.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert shown in out
    assert "\x1b" not in out + error
    assert load(tmp_path / "out" / "oops].ecsv.nc").spectrum.id == shown


@pytest.mark.parametrize("name", ["[/HD] 1", r"$\frac", "$"])
def test_a_name_is_a_name_in_pictures(posterior, name, tmp_path):
    odd = replace(posterior, spectrum=replace(posterior.spectrum, id=name), model=name)
    assert draw_picture(tmp_path / "fit.png", odd.plot_fit)


def test_a_picture_that_fails_is_a_line(run, quick, demo_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with mpl.rc_context({"text.usetex": True}):
        code, out, error = run("infer", demo_file, demo_file, "--output", tmp_path / "out")
    assert code == 0
    assert "teff" in out
    lines = [line for line in error.splitlines() if "could not be drawn" in line]
    assert len(lines) == 4
    assert all(line.startswith("warning: ") for line in lines)
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".nc", ".ecsv"}
    assert len(Table.read(tmp_path / "out" / "summary.ecsv")) == 2


def test_in_a_locale_that_knows_ascii_alone(demo_file, tmp_path):
    """A file's name reaches Python there as bytes that are no text (PEP 383)."""
    path = tmp_path / "βta [HD] $x$.fits"
    shutil.copy(demo_file, path)
    language = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    script = (
        "import sys; from maury.cli import app; from maury.commands.console import speaking; out = sys.argv.pop()\n"
        # What is inferred is of no matter: the cheapest.
        "quick = ['--model', 'kurucz-apogee', '--draws', '100', '--noise', 'independent', '--nuisances', 'none']\n"
        "for words in (['infer', sys.argv[1], '--json', '--output', out, *quick], ['report', out]):\n"
        "    with speaking():\n        app(words, standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "out")],
        env=os.environ | language,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["labels"]
    assert (tmp_path / "out" / "βta [HD] $x$.nc").exists()
    page = (tmp_path / "out" / "βta [HD] $x$.html").read_text(encoding="utf-8")
    assert "β" in page
    table = (tmp_path / "out" / "summary.ecsv").read_text(encoding="utf-8")
    assert "βta [HD] $x$.fits" in table
