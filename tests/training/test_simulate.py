"""Files of simulated spectra: what is in them, resuming after a kill, and clear refusals."""

import errno
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maury.cli import app
from maury.errors import ConfigError, LabelError, MauryError, ModelError
from maury.models import load_model
from maury.priors import Uniform
from maury.spectra import Spectrum, apstar_grid, read_spectrum
from maury.spectra.formats.star_writers import write_apstar
from maury.spectra.instrument import apogee, read_instrument
from maury.training import store
from maury.training.noise import PaperNoise, RealErrors, SnrList
from maury.training.simulations import Observing, SimulateConfig, Simulator, drawn_lsf, simulate
from maury.training.store import Simulations

PLAIN = Observing(
    masked=(0, 0), gap_probability=0, chip_loss_probability=0, continuum_spread=0, emulator_error=False
)
PAPER = PLAIN.model_copy(update={"noise": PaperNoise()})


def config(number=40, **options):
    return SimulateConfig(number=number, **({"batch": 16, "seed": 3} | options))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "set.h5"
    told = []
    simulate(config(), path, progress=lambda *done: told.append(done))
    assert told[0] == (0, 40)
    assert told[-1] == (40, 40)
    return path


def test_file(simulated):
    assert [path.name for path in simulated.parent.iterdir()] == ["set.h5"]
    simulations = Simulations.open(simulated)
    assert len(simulations) == 40
    assert simulations.theta.shape == (40, 7)
    assert (simulations.theta >= simulations.labels.low).all()
    assert (simulations.theta <= simulations.labels.high).all()
    np.testing.assert_allclose(simulations.wavelength, apstar_grid().wavelength)
    flux, ivar = simulations.read(np.arange(40))
    assert flux.shape == ivar.shape == (40, 8575)
    masked = (ivar == 0).float().mean(1)
    assert 0.1 < masked.min() < masked.max() < 1
    assert (flux[ivar == 0] == 0).all()
    with h5py.File(simulated) as file:
        # The S/N drawn is that of most pixels.
        snr = torch.from_numpy(file["snr"][:])
    typical = (ivar.sqrt() * flux).where(ivar > 0, torch.nan).nanmedian(1).values
    assert ((typical / snr).log().abs() < 0.7).all()


def test_prefix_of_a_longer_file(simulated, tmp_path):
    """Batch i depends on the seed and i alone."""
    simulate(config(number=21), tmp_path / "short.h5")
    short, full = Simulations.open(tmp_path / "short.h5"), Simulations.open(simulated)
    assert torch.equal(short.theta, full.theta[:21])
    assert torch.equal(short.read(np.arange(21))[0], full.read(np.arange(21))[0])


def test_batches(simulated):
    simulations = Simulations.open(simulated)
    theta = torch.cat([batch[0] for batch in simulations.batches(16)])
    assert torch.equal(theta, simulations.theta)
    mixed = list(simulations.batches(16, torch.Generator().manual_seed(0)))
    assert sum(len(batch[0]) for batch in mixed) == 40
    rows = torch.cat([batch[0] for batch in mixed])[:, 0].sort().values
    assert torch.equal(rows, simulations.theta[:, 0].sort().values)
    for labels, flux, ivar in mixed:
        first = int((simulations.theta[:, 0] == labels[0, 0]).nonzero())
        wanted = simulations.read([first])
        assert torch.equal(flux[0], wanted[0][0])
        assert torch.equal(ivar[0], wanted[1][0])


def test_paper_noise(tmp_path):
    """Three labels, sigma/flux from U(0, 0.05), white."""
    settings = config(
        400, batch=100, observing=PAPER, fixed={"logg": 4.0, "m_h": 0.0, "alpha_m": 0, "jitter": 0}
    )
    simulate(settings, tmp_path / "noisy.h5")
    simulate(settings.model_copy(update={"store": "clean"}), tmp_path / "clean.h5")
    noisy, clean = Simulations.open(tmp_path / "noisy.h5"), Simulations.open(tmp_path / "clean.h5")
    assert torch.equal(noisy.theta, clean.theta)
    assert (noisy.theta[:, 1] == 4).all()
    assert clean.fixed == settings.fixed
    (flux, ivar), (model, none) = noisy.read(np.arange(400)), clean.read(np.arange(400))
    assert none is None
    seen = ivar > 0
    ratio = (ivar.rsqrt() / model).where(seen, torch.nan)
    level = ratio.nanmedian(1).values
    assert ((ratio / level[:, None] - 1).abs()[seen] < 1e-4).all()
    assert level.max() <= 0.05
    assert abs(level.mean() - 0.025) < 4 * 0.05 / np.sqrt(12 * 400)
    z = ((flux - model) * ivar.sqrt())[seen]
    assert abs(z.square().mean() - 1) < 0.01
    neighbours = ((flux - model) * ivar.sqrt())[:, 2000:2500]
    assert abs((neighbours[:, 1:] * neighbours[:, :-1]).mean()) < 0.01


def test_snr_list(tmp_path):
    (tmp_path / "snr.txt").write_text("# survey\n20\n80\n")
    noise = SnrList(file=tmp_path / "snr.txt")
    simulate(config(observing=PLAIN.model_copy(update={"noise": noise})), tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5") as file:
        assert set(file["snr"][:].round(3)) == {20, 80}
    (tmp_path / "bad.txt").write_text("20\n-3\n")
    with pytest.raises(ConfigError, match="needs one S/N a line"):
        SnrList(file=tmp_path / "bad.txt").source(apstar_grid())


def test_real_errors(tmp_path):
    """Errors and masks of files, over their median flux."""
    rng = np.random.default_rng(0)
    for k in range(2):
        ivar = np.where(rng.random(8575) < 0.3, 0.0, 1e-2 * (k + 1) ** 2)
        spectrum = Spectrum(apstar_grid(), np.full(8575, 100.0), ivar, v_correction=0.0)
        write_apstar(tmp_path / f"apStar-{k}.fits", [spectrum])
    noise = RealErrors(files=str(tmp_path / "apStar-*.fits"))
    simulate(config(observing=PLAIN.model_copy(update={"noise": noise})), tmp_path / "set.h5")
    _, ivar = Simulations.open(tmp_path / "set.h5").read(np.arange(40))
    sources = [read_spectrum(tmp_path / f"apStar-{k}.fits") for k in range(2)]
    usable = torch.from_numpy(load_model().forward.usable(apstar_grid().wavelength, load_model().labels))
    seen = set()
    for row in ivar:
        k = int(row[row > 0].median() > 200)
        seen.add(k)
        np.testing.assert_array_equal(
            (row > 0).numpy(), (torch.from_numpy(sources[k].ivar > 0) & usable).numpy()
        )
        np.testing.assert_allclose(row[row > 0], 100 * (k + 1) ** 2, rtol=1e-4)
    assert seen == {0, 1}
    with pytest.raises(ConfigError, match="no file matches"):
        RealErrors(files=str(tmp_path / "nothing*")).source(apstar_grid())


def test_priors(tmp_path):
    simulate(config(priors={"teff": Uniform(low=4000, high=4100)}), tmp_path / "set.h5")
    simulations = Simulations.open(tmp_path / "set.h5")
    assert simulations.theta[:, 0].min() >= 4000
    assert simulations.theta[:, 0].max() <= 4100
    assert simulations.labels["teff"].prior.high == 4100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priors": {"teff": Uniform(low=2000, high=4100)}}, "reaches beyond the emulator's"),
        ({"priors": {"mass": Uniform(low=0, high=1)}}, "mass"),
        ({"fixed": {"mass": 1.0}}, "fixed.mass"),
        ({"fixed": {"v_sini": -1.0}}, "outside"),
        ({"fixed": {"teff": 100.0}}, "fixed.teff: 100 is outside"),
        ({"model": "kurucz-apoge"}, "did you mean"),
    ],
)
def test_refused(tmp_path, options, message):
    with pytest.raises((LabelError, ModelError), match=message):
        simulate(config(**options), tmp_path / "set.h5")
    assert not list(tmp_path.iterdir())


def test_other_configuration(simulated):
    with pytest.raises(ConfigError, match="seed is 3 there and 4 here"):
        simulate(config(seed=4), simulated)
    before = simulated.stat().st_mtime_ns
    simulate(config(), simulated)
    assert simulated.stat().st_mtime_ns == before


def test_killed_and_resumed(simulated, tmp_path):
    """SIGKILL at whatever instant: the file that the next run ends is the same to the bit."""
    output = tmp_path / "set.h5"
    script = (
        "import sys, time\n"
        "from maury.training.simulations import SimulateConfig, simulate\n"
        "def progress(done, total):\n"
        "    if done: print(done, flush=True); time.sleep(30)\n"
        'simulate(SimulateConfig(model="kurucz-apogee", number=40, batch=16, seed=3), sys.argv[1], progress=progress)\n'
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(output)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"16\n"
    with pytest.raises(MauryError, match="another process"):
        simulate(config(), output)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not output.exists()
    with pytest.raises(ModelError, match="only 16 of 40"):
        Simulations.open(tmp_path / "set.h5.partial")
    told = []
    simulate(config(), output, progress=lambda *done: told.append(done))
    assert told[0] == (16, 40)
    with h5py.File(output) as resumed, h5py.File(simulated) as undisturbed:
        assert set(resumed) == set(undisturbed)
        for name in resumed:
            np.testing.assert_array_equal(resumed[name][:], undisturbed[name][:])


def test_disk_full(simulated, tmp_path, monkeypatch):
    """What is done stays, and the next run goes on from there."""
    writes, real = [], os.pwrite

    def pwrite(descriptor, data, place):
        if len(writes) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        writes.append(place)
        return real(descriptor, data, place)

    monkeypatch.setattr(store.os, "pwrite", pwrite)
    output = tmp_path / "set.h5"
    with pytest.raises(MauryError, match="disk is full; what is done stays"):
        simulate(config(), output)
    monkeypatch.undo()
    assert not output.exists()
    told = []
    simulate(config(), output, progress=lambda *done: told.append(done))
    assert told[0][0] == 16
    assert torch.equal(Simulations.open(output).theta, Simulations.open(simulated).theta)


def test_no_room_from_the_start(tmp_path, monkeypatch):
    def fallocate(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "posix_fallocate", fallocate)
    with pytest.raises(MauryError, match="disk is full"):
        simulate(config(), tmp_path / "set.h5")
    assert not list(tmp_path.glob("*.partial"))


def test_memory_does_not_grow(tmp_path):
    """The writer holds a batch; ten times the spectra take no more."""
    import tracemalloc

    peaks = []
    for number in (32, 320):
        tracemalloc.start()
        simulate(config(number), tmp_path / f"{number}.h5")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 1e6


def test_file_cut_short(simulated, tmp_path):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(simulated.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="damaged or cut short"):
        Simulations.open(cut)
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ModelError, match="damaged or cut short"):
        Simulations.open(tmp_path / "text.h5")
    with pytest.raises(ModelError, match="no such file"):
        Simulations.open(tmp_path / "nothing.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["flux"] = 1
    with pytest.raises(ModelError, match="not a file of simulated spectra"):
        Simulations.open(tmp_path / "other.h5")


def test_command_line(tmp_path):
    (tmp_path / "prior.toml").write_text(
        '[priors.teff]\nkind = "uniform"\nlow = 4000\nhigh = 5000\n[fixed]\nlogg = 2.5\n'
    )
    (tmp_path / "set.toml").write_text(
        'batch = 8\nflux_type = "float16"\n[observing]\nmasked = [0, 0]\n[observing.noise]\nkind = "paper"\n'
    )
    arguments = ["simulate", "--number", "8", "--output", str(tmp_path / "set.h5"), "--seed", "5"]
    arguments += ["--prior", str(tmp_path / "prior.toml"), "--config", str(tmp_path / "set.toml")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    simulations = Simulations.open(tmp_path / "set.h5")
    assert simulations.config["seed"] == 5
    assert (simulations.theta[:, 1] == 2.5).all()
    assert simulations.read([0])[0].dtype == torch.float32
    (tmp_path / "prior.toml").write_text("[prior.teff]\nlow = 3\n")
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "prior.toml: prior" in str(result.exception)
    result = CliRunner().invoke(app, ["simulate", "--output", str(tmp_path / "other.h5")])
    assert "--number" in str(result.exception)


def test_nuisances_are_drawn_as_they_are_integrated_out():
    model = load_model()
    instrument, generator = apogee(), torch.Generator().manual_seed(3)
    grid = instrument.pixels
    simulators = [
        Simulator(model.problem, grid, Observing(nuisances=names), instrument.lsf)
        for names in ("none", "dilution,chip_velocity")
    ]
    labels = torch.tensor([[4800.0, 2.6, -0.1, 0.05, 37.0, 8.0, 0.003]], dtype=torch.float64)
    plain, moved = (s.clean(labels, generator) for s in simulators)
    assert float((plain - moved).abs().max()) > 0.002
    # Light without lines fills them: all of a chip's by the same share; a velocity moves them.
    spectrum = Spectrum(grid, moved[0].double().numpy(), np.full(grid.n_pixels, 1e8), lsf=instrument.lsf)
    likelihood = model.problem.likelihood(spectrum, nuisances="dilution,chip_velocity").pixels
    found = likelihood.linearised(labels[0]).amplitudes(labels[0])
    assert {a.nuisance.name for a in found} == {"dilution", "chip_velocity"}
    for one in found:
        assert one.std < 0.3 * one.nuisance.width
        assert abs(one.mean) < 3 * one.nuisance.width
    assert max(abs(one.mean) / one.std for one in found) > 5


def test_fibres_are_drawn_again_and_again():
    generator = torch.Generator().manual_seed(1)
    drawn = [drawn_lsf(apogee(), "native", generator) for _ in range(6)]
    assert len({lsf.coefficients.tobytes() for lsf in drawn}) == 6
    again = drawn_lsf(apogee(), "native", torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(again.coefficients, drawn[0].coefficients)
    alike = read_instrument("igrins-like")
    assert drawn_lsf(alike, "native", generator) == alike.lsf
