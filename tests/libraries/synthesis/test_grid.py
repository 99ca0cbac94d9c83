"""A grid goes on where it stopped, holes are told, and a compressed one is as good as promised."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from engine_files import write_engine
from marcs_files import write_collection

from maury.errors import ConfigError
from maury.libraries.synthesis import compress, grid
from maury.libraries.synthesis.compress import CompressedGrid
from maury.libraries.synthesis.grid import Chunk, SynthesisConfig, synthesise
from maury.libraries.synthesis.lines import read_lines


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "_CHUNK", 4)
    write_collection(tmp_path / "marcs")
    (tmp_path / "lines").write_text("", encoding="ascii")
    return SynthesisConfig(
        name="toy",
        source=write_engine(tmp_path),
        lines=[tmp_path / "lines"],
        atmospheres=tmp_path / "marcs",
        number=10,
        teff=(3900.0, 4500.0),
        m_h=(-0.5, 0.0),
        low=15100.0,
        high=15130.0,
    )


def test_a_grid_is_computed_and_its_holes_are_told(config, tmp_path):
    seen = []
    holes = synthesise(config, tmp_path / "grid", 2, progress=lambda done, total: seen.append((done, total)))
    chunks = [Chunk.read(path) for path in sorted((tmp_path / "grid").iterdir())]
    assert [len(chunk.index) for chunk in chunks] == [4, 4, 2]
    assert seen[-1] == (10, 10)
    why = np.concatenate([chunk.holes for chunk in chunks])
    assert holes == (why != "").sum() > 0
    assert all("is outside the atmospheres'" in reason for reason in why if reason)


def test_it_goes_on_where_it_stopped(config, tmp_path):
    synthesise(config, tmp_path / "whole")
    synthesise(config, tmp_path / "grid", stop_after=0.0)
    assert not list((tmp_path / "grid").iterdir())
    synthesise(config, tmp_path / "grid")
    (tmp_path / "grid" / "spectra-000004.npz").unlink()
    before = (tmp_path / "grid" / "spectra-000000.npz").stat().st_mtime_ns
    synthesise(config, tmp_path / "grid")
    assert (tmp_path / "grid" / "spectra-000000.npz").stat().st_mtime_ns == before
    for path in (tmp_path / "whole").iterdir():
        np.testing.assert_array_equal(Chunk.read(path).flux, Chunk.read(tmp_path / "grid" / path.name).flux)


def test_what_is_kept_elsewhere_is_not_computed_again(config, tmp_path):
    synthesise(config, tmp_path / "grid", known=range(4, 8))
    assert sorted(path.name for path in (tmp_path / "grid").iterdir()) == [
        "spectra-000000.npz",
        "spectra-000008.npz",
    ]


def test_the_command_goes_on_from_the_compressed_parts(config, tmp_path, run):
    entries = config.model_dump(mode="json")
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in entries.items())
    (tmp_path / "grid.toml").write_text(text, encoding="utf-8")
    command = (
        "models",
        "synthesise",
        tmp_path / "grid.toml",
        "--output",
        tmp_path / "raw",
        "--compressed",
        tmp_path / "parts",
    )
    status, _, said = run(*command)
    assert status == 0
    assert "holes" in said
    made = CompressedGrid.read(tmp_path / "parts")
    assert made.known == set(range(10))
    shutil.rmtree(tmp_path / "raw")
    status, _, said = run(*command)
    assert status == 0
    assert not list((tmp_path / "raw").iterdir())
    assert "appended" not in said


def test_a_damaged_piece_is_told(config, tmp_path):
    (tmp_path / "spectra-000000.npz").write_bytes(b"PK\x03\x04 not a file")
    with pytest.raises(ConfigError, match="damaged piece of a grid"):
        Chunk.read(tmp_path / "spectra-000000.npz")


def chunk_of(start, flux):
    n = len(flux)
    rng = np.random.default_rng(start)
    whole = np.round(flux / 2e-5).astype(np.uint16)
    return Chunk(
        start + np.arange(n),
        rng.normal(size=(n, 25)),
        whole,
        np.zeros((n, 3), np.float32),
        np.array([""] * n),
    )


def spectra(n, seed, directions=12):
    rng = np.random.default_rng(seed)
    basis = (
        np.random.default_rng(99).normal(size=(directions, 600))
        * 0.02
        * 0.7 ** np.arange(directions)[:, None]
    )
    return 0.8 + rng.normal(size=(n, directions)) @ basis


def test_a_compressed_grid_grows_and_keeps_its_error(tmp_path):
    source, folder = tmp_path / "grid", tmp_path / "parts"
    source.mkdir()
    first, second = spectra(40, 1), spectra(30, 2, directions=14)
    chunk_of(0, first).write(source / "spectra-000000.npz")
    compress.compress(source, folder, (15100.0, 0.05))
    before = (folder / "part-000.npz").read_bytes()
    chunk_of(40, second).write(source / "spectra-000040.npz")
    part = compress.compress(source, folder, (15100.0, 0.05))
    assert compress.compress(source, folder, (15100.0, 0.05)) is None
    assert (folder / "part-000.npz").read_bytes() == before
    assert part.rms.max() < 3e-4
    grown = CompressedGrid.read(folder)
    np.testing.assert_allclose(
        np.sqrt(np.mean((grown.flux() - np.vstack([first, second])) ** 2, axis=1)), 0, atol=3e-4
    )
    assert grown.wavelength[[0, -1]].tolist() == pytest.approx([15100.0, 15100.0 + 0.05 * 599])
    assert grown.index.tolist() == list(range(70))
    assert grown.labels.shape == (70, 25)
    assert grown.log_continuum.shape == (70, 3)


def test_a_corrupted_or_missing_part_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no parts of a compressed grid"):
        CompressedGrid.read(tmp_path)
    (tmp_path / "part-000.npz").write_bytes(b"x")
    with pytest.raises(ConfigError, match="damaged part"):
        CompressedGrid.read(tmp_path)


def test_whole_molecules_are_shifted_before_the_engine_reads_them(config, tmp_path):
    text = "'0608.012016         '    1         1\n'x'\n 15100.983  2.490  -5.316  0.00   48.0  1.00e+00 'x' 'x'  0.0  1.0\n"
    (tmp_path / "lines").write_text(text, encoding="ascii")
    changed = config.model_copy(update={"shifts": {"0608": 0.1}, "number": 1})
    synthesise(changed, tmp_path / "grid")
    assert read_lines(tmp_path / "grid" / "shifted.lines").log_gf.tolist() == pytest.approx([-5.216])
