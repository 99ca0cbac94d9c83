"""Tables of inputs ask for nothing outside themselves."""

import socket

import pytest
from astropy.table import Table

from maury.errors import ConfigError
from maury.files import open_table
from maury.untrusted import is_harmless_unit, is_votable

STREAM = """<?xml version="1.0"?><VOTABLE version="1.4"><RESOURCE><TABLE><FIELD name="path" datatype="char" arraysize="*"/>
<DATA><{kind}><STREAM href="{address}"/></{kind}></DATA></TABLE></RESOURCE></VOTABLE>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", ["BINARY", "BINARY2", "FITS"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9/never", "file:///etc/passwd"])
def test_tables_whose_data_lie_elsewhere(tmp_path, monkeypatch, encoding, kind, address):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *args: asked.append(args))
    path = tmp_path / "inputs.vot"
    text = STREAM.format(kind=kind, address=address).replace("?>", f' encoding="{encoding}"?>', 1)
    path.write_bytes(text.encode(encoding))
    with pytest.raises(ConfigError, match="lie elsewhere"):
        open_table(path, ConfigError)
    assert asked == []


@pytest.mark.parametrize("name", ["inputs.h5", "inputs.hdf5", "inputs.asdf"])
def test_formats_that_refer_to_other_files(tmp_path, name):
    with pytest.raises(ConfigError, match="may refer to other files"):
        open_table(tmp_path / name, ConfigError)


@pytest.mark.parametrize("name", ["inputs.ecsv", "inputs.csv", "inputs.vot", "inputs.fits"])
def test_tables_that_are_complete(tmp_path, name):
    made = Table({"path": ["a.fits", "b.fits"]})
    made.write(tmp_path / name, **({"format": "votable"} if name.endswith("vot") else {}))
    assert [str(path).strip() for path in open_table(tmp_path / name, ConfigError)["path"]] == [
        "a.fits",
        "b.fits",
    ]


def test_what_may_be_asked_for():
    assert is_harmless_unit("1e-17 erg / (Angstrom s cm2)")
    assert not is_harmless_unit("10**9999999999 Angstrom")
    assert not is_harmless_unit("m " * 50)
    assert is_votable(b"\xef\xbb\xbf<?xml?><VOTABLE>")
    assert not is_votable(b"<html>")
