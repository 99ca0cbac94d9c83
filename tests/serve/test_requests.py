"""Who is answered, and what is said about fields that are wrong."""

import io
import math
import time
import zipfile

import pytest
from astropy.table import Table
from starlette.testclient import TestClient

from maury.errors import ConfigError
from maury.priors import LogUniform, TruncatedNormal, Uniform
from maury.serve.guard import host_allowed
from maury.serve.settings import Refused, ServerSettings
from maury.serve.wanted import choices, read_wanted

ADDRESS = "http://127.0.0.1:8765"


@pytest.fixture
def busy(desk, demo_bytes):
    """A server with a file."""
    desk = desk()
    return desk, desk.send(demo_bytes).json()["id"]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def state(desk, run, client=None):
    return (client or desk.client).get(f"/api/runs/{run['id']}").json()["state"]


# --- who ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "bound", "allowed"),
    [
        ("127.0.0.1:8765", "127.0.0.1", True),
        ("localhost:1", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("[::1]:8765", "127.0.0.1", True),
        ("evil.example", "127.0.0.1", False),
        ("127.0.0.1.evil.example:8765", "127.0.0.1", False),
        ("localhost@evil.example", "127.0.0.1", False),
        ("192.168.1.5:8765", "127.0.0.1", False),
        ("192.168.1.5:8765", "0.0.0.0", True),
        ("evil.example:8765", "0.0.0.0", False),
        ("", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
    ],
)
def test_names_of_this_server(header, bound, allowed):
    assert host_allowed(header, bound) is allowed


def test_a_rebound_name_is_refused(desk):
    desk = desk()
    assert desk.client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert desk.client.get("/api/files", headers={"Host": "evil.example:8765"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"Origin": "http://[bad"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_may_not_post(busy, headers):
    desk, file = busy
    for method, path in (("POST", "/api/files"), ("POST", "/api/runs"), ("DELETE", f"/api/files/{file}")):
        answer = desk.client.request(method, path, headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["error"]
    assert desk.client.get(f"/api/files/{file}").status_code == 200
    own = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert desk.client.delete(f"/api/files/{file}", headers=own).status_code == 204


def test_without_a_session_nothing_is_answered(busy):
    desk, _ = busy
    stranger = TestClient(desk.client.app, base_url=ADDRESS)
    assert stranger.get("/api/files").status_code == 403
    assert stranger.post("/api/files", content=b"x").status_code == 403


def test_two_browsers_see_their_own_alone(busy, demo_bytes):
    desk, file = busy
    desk.work.gate.set()
    run = desk.run(file).json()
    until(lambda: state(desk, run) == "done")
    other = desk.browser()
    assert other.get("/api/files").json()["files"] == []
    for path in (f"/api/files/{file}", f"/api/files/{file}/spectra/0", f"/api/runs/{run['id']}"):
        assert other.get(path).status_code == 404
    for name in ("report", "draws", "numbers", "fit"):
        assert other.get(f"/api/runs/{run['id']}/{name}").status_code == 404
        assert desk.client.get(f"/api/runs/{run['id']}/{name}").status_code == 200
    assert other.post(f"/api/runs/{run['id']}/cancel").status_code == 404
    assert other.delete(f"/api/files/{file}").status_code == 404
    assert desk.run(file, client=other).status_code == 404
    mine = desk.send(demo_bytes, client=other).json()["id"]
    assert [f["id"] for f in other.get("/api/files").json()["files"]] == [mine]


@pytest.mark.parametrize(
    "cookie", ["x" * 43, "x" * 32 + "." + "0" * 64, "\u00e9" * 40, ".", "", "a.b.c", '"' + "y" * 40 + '"']
)
def test_a_chosen_session_is_not_kept(desk, cookie):
    desk = desk()
    stranger = TestClient(desk.client.app, base_url=ADDRESS, raise_server_exceptions=False)
    header = {"Cookie": f"maury_8765={cookie}".encode("latin-1")}
    answer = stranger.get("/api/files", headers=header)
    assert answer.status_code == 403
    assert "load the page again" in answer.json()["error"]
    fresh = stranger.get("/", headers=header).headers["set-cookie"]
    assert f"={cookie};" not in fresh
    # One of the server's own is kept.
    assert "set-cookie" not in desk.client.get("/").headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/files/KEY/spectra/" + "9" * 5000, 404),
        ("GET", "/api/files/KEY/spectra/" + "9" * 20, 404),
        ("GET", "/api/files/KEY/spectra/-1", 404),
        ("GET", "/api/files/KEY/spectra/\u0663", 404),
        ("GET", "/api/files/KEY/spectra/7", 422),
        ("GET", "/api/files/\u00e9\ud7ff", 404),
        ("PUT", "/api/files", 405),
        ("DELETE", "/", 405),
        ("GET", "/nothing", 404),
        ("POST", "/api/runs/%ff/cancel", 404),
    ],
)
def test_every_answer_is_of_one_kind(busy, method, path, status):
    desk, file = busy
    answer = desk.client.request(method, path.replace("KEY", file))
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "fields"}


def test_a_fault_of_the_server_is_for_the_log(busy, monkeypatch):
    desk, file = busy
    monkeypatch.setattr("maury.serve.readers.to_plot", lambda _: 1 / 0)
    answer = desk.client.get(f"/api/files/{file}/spectra/0")
    assert answer.status_code == 500
    assert "log" in answer.json()["error"]


def test_headers_of_safety(busy):
    desk, file = busy
    page = desk.client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    fresh = TestClient(desk.client.app, base_url=ADDRESS).get("/")
    assert "HttpOnly" in fresh.headers["set-cookie"]
    assert "SameSite=Strict" in fresh.headers["set-cookie"]
    desk.work.gate.set()
    run = desk.run(file).json()
    until(lambda: state(desk, run) == "done")
    report = desk.client.get(f"/api/runs/{run['id']}/report")
    policy = report.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy
    # In the page it has the page's origin, and no script.
    still = desk.client.get(f"/api/runs/{run['id']}/report?still=true").headers["content-security-policy"]
    assert "allow-same-origin" in still
    assert "script" not in still
    draws = desk.client.get(f"/api/runs/{run['id']}/draws")
    assert draws.headers["content-disposition"] == 'attachment; filename="star-run1.nc"'


# --- runs -----------------------------------------------------------------------------------------------------------------


def test_one_runs_the_others_wait_and_can_be_cancelled(busy):
    desk, file = busy
    first, second, third = (desk.run(file).json() for _ in range(3))
    until(lambda: state(desk, first) == "running")
    assert desk.client.get(f"/api/runs/{third['id']}").json()["ahead"] == 2
    assert desk.client.post(f"/api/runs/{second['id']}/cancel").json()["state"] == "cancelled"
    # The one that runs ends at its next stage.
    desk.client.post(f"/api/runs/{first['id']}/cancel")
    until(lambda: state(desk, first) == "cancelled")
    until(lambda: state(desk, third) == "running")
    desk.work.gate.set()
    until(lambda: state(desk, third) == "done")
    assert desk.work.seen == [first["id"], third["id"]]
    assert desk.client.get(f"/api/runs/{first['id']}/report").status_code == 404


def test_all_of_a_session_are_cancelled_at_once(busy, demo_bytes):
    desk, file = busy
    other = desk.browser()
    theirs = desk.run(desk.send(demo_bytes, client=other).json()["id"], client=other).json()
    mine = [desk.run(file).json() for _ in range(3)]
    assert desk.client.post("/api/cancel").status_code == 204
    until(lambda: {state(desk, run) for run in mine} == {"cancelled"})
    desk.work.gate.set()
    until(lambda: other.get(f"/api/runs/{theirs['id']}").json()["state"] == "done")


def test_all_results_are_one_file(busy, demo_bytes):
    desk, file = busy
    assert desk.client.get("/api/results.zip").status_code == 404
    desk.work.gate.set()
    namesake = desk.send(demo_bytes).json()["id"]
    runs = [desk.run(file).json(), desk.run(file).json(), desk.run(namesake).json()]
    until(lambda: {state(desk, run) for run in runs} == {"done"})
    answer = desk.client.get("/api/results.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="maury-results.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        names = set(packed.namelist())
        table = Table.read(packed.read("summary.ecsv").decode(), format="ascii.ecsv")
    stems = ("star-run1", "star-run2", "star-run1_2")
    assert names == {"summary.ecsv"} | {f"{stem}.{end}" for stem in stems for end in ("nc", "html", "json")}
    assert list(table["file"]) == ["star.fits"] * 3
    # Another session has none of it, and nothing is left on the disk.
    assert desk.browser().get("/api/results.zip").status_code == 404
    assert not list(desk.root.rglob("*.zip"))


def test_sessions_take_turns(desk, demo_bytes):
    desk = desk()
    other = desk.browser()
    ours, theirs = desk.send(demo_bytes).json()["id"], desk.send(demo_bytes, client=other).json()["id"]
    runs = [desk.run(ours).json() for _ in range(4)]
    until(lambda: state(desk, runs[0]) == "running")
    between = [desk.run(theirs, client=other).json() for _ in range(2)]
    assert between[0]["ahead"] == 1
    assert between[1]["ahead"] == 3
    desk.work.gate.set()
    until(lambda: len(desk.work.seen) == 6)
    names = {run["id"]: name for run, name in zip([*runs, *between], "abcdxy", strict=True)}
    assert "".join(names[key] for key in desk.work.seen) == "axbycd"


def test_the_oldest_results_make_room(desk, demo_bytes):
    desk = desk(most_runs=3)
    desk.work.gate.set()
    file = desk.send(demo_bytes).json()["id"]
    runs = []
    for _ in range(5):
        runs.append(desk.run(file).json())
        until(lambda: state(desk, runs[-1]) == "done")
    kept = desk.client.get(f"/api/files/{file}").json()["runs"]
    assert [run["number"] for run in kept] == [3, 4, 5]
    assert len([path for path in (desk.root / file).iterdir() if path.is_dir()]) == 3
    assert desk.client.get(f"/api/runs/{runs[0]['id']}").status_code == 404


def test_the_queue_of_all_has_an_end(desk, demo_bytes):
    desk = desk(all_waiting=1)
    other = desk.browser()
    file, theirs = desk.send(demo_bytes).json()["id"], desk.send(demo_bytes, client=other).json()["id"]
    first = desk.run(file).json()
    until(lambda: state(desk, first) == "running")
    assert desk.run(file).status_code == 201
    assert desk.run(theirs, client=other).status_code == 429


def test_the_queue_has_an_end(desk, demo_bytes):
    desk = desk(most_waiting=2)
    file = desk.send(demo_bytes).json()["id"]
    first = desk.run(file).json()
    until(lambda: state(desk, first) == "running")
    assert [desk.run(file).status_code for _ in range(4)] == [201, 201, 429, 429]


def test_a_closed_page_has_its_runs_cancelled(desk, demo_bytes):
    desk = desk(grace=0.3)
    other = desk.browser()
    ours = desk.send(demo_bytes).json()["id"]
    theirs = desk.send(demo_bytes, client=other).json()["id"]
    running, waiting = desk.run(ours).json(), desk.run(ours).json()
    kept = desk.run(theirs, client=other).json()
    until(lambda: desk.work.seen)
    assert desk.client.post("/api/leave").status_code == 204
    # Asked of the queue itself: a request would say that the page is open.
    runs = desk.jobs._runs
    until(lambda: runs[running["id"]].state == "cancelled" and runs[waiting["id"]].state == "cancelled")
    assert "closed" in runs[running["id"]].error
    desk.work.gate.set()
    until(lambda: state(desk, kept, other) == "done")


def test_a_page_that_is_loaded_anew_keeps_its_run(desk, demo_bytes):
    desk = desk(grace=0.4)
    file = desk.send(demo_bytes).json()["id"]
    run = desk.run(file).json()
    until(lambda: state(desk, run) == "running")
    desk.client.post("/api/leave")
    assert desk.client.get("/api/files").json()["files"][0]["runs"][0]["id"] == run["id"]
    time.sleep(0.6)
    assert state(desk, run) == "running"
    desk.work.gate.set()
    until(lambda: state(desk, run) == "done")


def test_deleting_a_file_ends_its_run(busy):
    desk, file = busy
    run = desk.run(file).json()
    until(lambda: state(desk, run) == "running")
    assert desk.client.delete(f"/api/files/{file}").status_code == 204
    assert desk.client.get(f"/api/runs/{run['id']}").status_code == 404
    assert not any(desk.root.iterdir())


def test_an_internal_error_is_for_the_log(busy, caplog):
    desk, file = busy
    desk.work.error = ZeroDivisionError("secret detail")
    desk.work.gate.set()
    run = desk.run(file).json()
    until(lambda: state(desk, run) == "failed")
    answer = desk.client.get(f"/api/runs/{run['id']}")
    assert "secret" not in answer.text
    assert "log" in answer.json()["error"]
    assert "ZeroDivisionError" in caplog.text
    # The worker lives on.
    desk.work.error = None
    again = desk.run(file).json()
    until(lambda: state(desk, again) == "done")


# --- fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"draws": 10}, "draws", "greater than or equal to 100"),
        ({"draws": "many"}, "draws", "integer"),
        ({"draws": 10**9}, "draws", "less than"),
        ({"seed": -1}, "seed", "greater"),
        ({"index": 7}, "", "no spectrum 7"),
        ({"noise": "loud"}, "noise", "'auto'"),
        ({"companion": "perhaps"}, "companion", "'auto'"),
        ({"model": "../../etc"}, "model", "is none of"),
        ({"surprise": 1}, "surprise", "not permitted"),
        ({"labels": "everything"}, "labels", "'basic'"),
        ({"labels": "elements"}, "labels", "marcs-apogee has"),
        ({"priors": {"logg": {"kind": "normal", "mean": 2.5, "sigma": 0}}}, "priors.logg.sigma", "at least"),
        ({"priors": {"logg": {"kind": "normal", "mean": 9, "sigma": 1}}}, "priors.logg.mean", "0.5 to 5.1"),
        (
            {"priors": {"logg": {"kind": "normal", "mean": 2.5, "sigma": 1e308}}},
            "priors.logg.sigma",
            "at most",
        ),
        (
            {"priors": {"logg": {"kind": "range", "low": 1, "high": 1.0000000001}}},
            "priors.logg.high",
            "above",
        ),
        ({"priors": {"logg": {"kind": "normal", "mean": 2}}}, "priors.logg.sigma", "number is wanted"),
        ({"priors": {"v_rad": {"kind": "range", "low": 5, "high": -5}}}, "priors.v_rad.high", "larger"),
        ({"priors": {"v_rad": {"kind": "range", "low": -900, "high": 0}}}, "priors.v_rad.low", "-200 to 200"),
        ({"priors": {"age": {"kind": "range", "low": 0, "high": 1}}}, "priors.age", "cannot be set"),
        (
            {"model": "auto", "priors": {"teff": {"kind": "range", "low": 4000, "high": 5000}}},
            "priors.teff",
            "cannot be set for auto",
        ),
        ({"regions": [[15300, 15200]]}, "regions.0", "rising order"),
        ({"regions": [[15300, 15310], [5000, 5010]]}, "regions.1", "covers"),
        ({"regions": [[15000, 17000]]}, "regions", "no usable pixel"),
        ({"regions": [[1]]}, "regions.0.1", "required"),
    ],
)
def test_what_is_wrong_is_said_at_the_field(busy, change, field, message):
    desk, file = busy
    answer = desk.run(file, **change)
    assert answer.status_code == 422
    if field:
        assert message in answer.json()["fields"][field]
    assert message in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"draws": NaN}', b"\xff\xfe", b"{" * 60_000])
def test_what_is_no_request(busy, body):
    desk, _ = busy
    assert desk.client.post("/api/runs", content=body).status_code in (400, 422)


def test_a_request_has_a_length(busy):
    desk, _ = busy
    assert desk.client.post("/api/runs", content=b" " * 10**6).status_code == 413


def test_priors_are_what_was_asked_for():
    models = choices("kurucz-apogee")
    asked = {
        "logg": {"kind": "normal", "mean": 2.6, "sigma": 0.05},
        "v_rad": {"kind": "range", "low": -80, "high": 80},
        "jitter": {"kind": "range", "low": 0.001, "high": 0.01},
    }
    import json

    wanted = read_wanted(json.dumps({"upload": "x", "model": "kurucz-apogee", "priors": asked}).encode())
    assert wanted.prepare(models) == {
        "logg": TruncatedNormal(low=0.5, high=5.1, mean=2.6, sigma=0.05),
        "v_rad": Uniform(low=-80, high=80),
        "jitter": LogUniform(low=0.001, high=0.01),
    }


def test_auto_offers_what_all_models_share():
    models = choices("btsettl-apogee")
    assert list(models) == ["btsettl-apogee", "kurucz-apogee", "marcs-apogee", "auto"]
    shared = {label.name: (label.prior.low, label.prior.high) for label in models["auto"].labels}
    assert "teff" not in shared
    assert "alpha_m" not in shared
    assert shared["logg"] == (3.0, 5.1)


@pytest.mark.parametrize("bad", [{"port": 70000}, {"max_upload": 0}, {"keep": math.inf}, {"keep": -1.0}])
def test_settings_that_cannot_be(bad):
    with pytest.raises(ConfigError, match="--"):
        ServerSettings(**bad)


def test_not_a_number_is_no_number():
    body = b'{"upload": "x", "model": "m", "priors": {"logg": {"kind": "normal", "mean": 1e999, "sigma": 1}}}'
    with pytest.raises(Refused) as refused:
        read_wanted(body)
    assert "priors.logg.mean" in refused.value.fields
