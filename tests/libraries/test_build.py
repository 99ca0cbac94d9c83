"""Building an emulator, in small."""

import pytest
import torch

from maury.errors import ConfigError
from maury.libraries.build import EmulatorConfig, build, shift_pixels
from maury.libraries.emulator import Emulator
from maury.models import shipped
from maury.toml import read_config


def test_shift_moves_a_line():
    x = torch.arange(512, dtype=torch.float64)
    line = torch.exp(-0.5 * ((x - 200) / 3) ** 2)[None]
    moved = torch.exp(-0.5 * ((x - 201.37) / 3) ** 2)[None]
    torch.testing.assert_close(shift_pixels(line, 1.37), moved, atol=1e-9, rtol=0)


def test_small_emulator_from_the_library(shared, tmp_path):
    recipe = read_config(shipped()["kurucz-apogee"] / "emulator.toml", EmulatorConfig)
    source = shared / "data/grids/kurucz_apogee_nn/NN_unnormalized_spectra.npz"
    small = {
        "source": source,
        "components": 20,
        "width": 32,
        "depth": 2,
        "spectra": 512,
        "held_out": 64,
        "steps": 60,
        "batch": 64,
    }
    emulator = build(recipe.model_copy(update=small))
    assert emulator.card["held_out"]["rms"] < 0.05
    emulator.save(tmp_path / "emulator.safetensors")
    assert Emulator.load(tmp_path / "emulator.safetensors").labels.names == ("teff", "logg", "m_h", "alpha_m")


@pytest.mark.parametrize(
    ("text", "word"),
    [("name = 3 = 4", "TOML"), ('name = "x"', "library"), ('name = "x"\nnonsense = 1', "nonsense")],
)
def test_bad_config_names_the_key(tmp_path, text, word):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"c.toml.*{word}|{word}"):
        read_config(path, EmulatorConfig)
