"""Files made to stop a reader or to have it lie: each is refused in one true line, or read for what it is."""

import socket

import numpy as np
import pytest
from hostile import contents, large

from maury.errors import SpectrumError
from maury.spectra import read_spectra
from maury.spectra.formats import isolated

pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")


@pytest.fixture
def deaf(monkeypatch):
    """Whoever asks the network fails the test."""
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *args: asked.append(args))
    yield
    assert asked == []


@pytest.mark.parametrize(
    ("suffix", "content", "message"), [pytest.param(*rest, id=name) for name, *rest in contents()]
)
def test_crafted_files(tmp_path, deaf, suffix, content, message):
    path = tmp_path / f"crafted{suffix}"
    path.write_bytes(content)
    if message is None:
        (spectrum,) = read_spectra(path)
        assert spectrum.id.isprintable()
        assert spectrum.v_correction == pytest.approx(12.3)
        assert np.isfinite(spectrum.flux).all()
        return
    with pytest.raises(SpectrumError) as caught:
        list(read_spectra(path))
    told = str(caught.value)
    assert message in told
    assert path.name in told
    assert told.isprintable()
    assert len(told) < 600


@pytest.mark.slow
def test_large_files(tmp_path):
    """Within 5 s of the processor and 1 GiB: the process that reads keeps them."""
    for number, (_, suffix, content, message) in enumerate(large()):
        path = tmp_path / f"large-{number}{suffix}"
        path.write_bytes(content)
        if message is None:
            assert len(list(isolated.read_spectra(path))) == 1
        else:
            with pytest.raises(SpectrumError, match=message):
                list(isolated.read_spectra(path))
