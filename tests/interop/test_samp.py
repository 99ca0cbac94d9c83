"""SAMP, with a hub of our own and a program that pretends to be TOPCAT."""

import sys
import threading
from urllib.request import url2pathname

import pytest
from astropy.io.votable import parse_single_table

from maury.interop.samp import SampError, samp_package

samp = samp_package()


@pytest.fixture(autouse=True)
def _lockfile(monkeypatch, tmp_path):
    # The desktop's own hub, if one runs, is left alone.
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'samp.lock').as_uri()}")
    monkeypatch.setattr(samp.conf, "use_internet", False)


@pytest.fixture
def hub(tmp_path):
    server = samp.SAMPHubServer(web_profile=False, lockfile=str(tmp_path / "samp.lock"), addr="127.0.0.1")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def topcat(hub):
    """Return the tables that were loaded; those with a row count of 13 are refused."""
    client = samp.SAMPIntegratedClient(metadata={"samp.name": "TOPCAT"}, addr="127.0.0.1")
    client.connect(hub)
    loaded, lock = [], threading.Lock()

    def load(private_key, sender, message_id, mtype, params, extra):
        table = parse_single_table(url2pathname(params["url"].removeprefix("file://")))
        refused = len(table.array) == 13
        answer = (
            {"samp.status": "samp.error", "samp.error": {"samp.errortxt": "thirteen"}}
            if refused
            else {"samp.status": "samp.ok", "samp.result": {}}
        )
        with lock:
            loaded.append((params["name"], table))
        client.reply(message_id, answer)

    client.bind_receive_call("table.load.votable", load)
    yield loaded
    client.disconnect()


def test_topcat_gets_the_draws(posterior, hub, topcat):
    assert posterior.send("topcat", hub=hub, number=200) == ["TOPCAT"]
    name, table = topcat[0]
    assert name == "2M0024 draws (maury)"
    assert len(table.array) == 200
    assert posterior.send(None, content="summary", hub=hub) == ["TOPCAT"]
    assert len(topcat[1][1].array) == 1


def test_the_hub_is_found_by_its_lock_file(posterior, hub, topcat):
    assert posterior.send(number=50) == ["TOPCAT"]


def test_refused(posterior, hub, topcat):
    with pytest.raises(SampError, match=r"TOPCAT: did not load the table \(thirteen\)"):
        posterior.send(hub=hub, number=13)


def test_no_such_program(posterior, hub, topcat):
    with pytest.raises(SampError, match="did you mean 'TOPCAT'"):
        posterior.send("topcta", hub=hub)


def test_nobody_listens(posterior, hub):
    with pytest.raises(SampError, match="start one"):
        posterior.send("aladin", hub=hub)


def test_no_hub(posterior):
    with pytest.raises(SampError, match=r"no SAMP hub runs.*start TOPCAT"):
        posterior.send()


def test_without_a_package_for_it(posterior, monkeypatch):
    for name in ("pyvo.samp", "astropy.samp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SampError, match="pip install"):
        posterior.send()
