"""What strangers do on real sockets, and that others are answered meanwhile (benchmarks/serve_abuse.py does more of it, and measures)."""

import http.client
import json
import socket
import threading
import time

import pytest

from maury.serve.reading import File

# A second is promised; a machine that tests has other work too.
SOON = 3.0


class Browser:
    """A client with a session, on a real connection."""

    def __init__(self, port):
        self.port, self.cookie = port, ""
        self.cookie = self.ask("GET", "/")[1]["set-cookie"].split(";")[0]

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {"Cookie": self.cookie} | headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, json.loads(text) if text.startswith(b"{") else None

    def send(self, content, name="star.fits"):
        return self.ask("POST", f"/api/files?name={name}", content)

    def soon(self, *request):
        began = time.monotonic()
        answer = self.ask(*request)
        assert time.monotonic() - began < SOON
        return answer

    def opened(self, head, timeout=20):
        one = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        one.sendall(head.replace("COOKIE", self.cookie).replace("\n", "\r\n").encode())
        return one


def test_files_that_take_long_to_read_hold_up_nobody(server, demo_bytes, monkeypatch):
    reading, go_on, listing = threading.Semaphore(0), threading.Event(), File.listing

    def slow(self):
        if self.name == "slow.fits":
            reading.release()
            go_on.wait(30)
        return listing(self)

    monkeypatch.setattr(File, "listing", slow)
    port = server(readers=2)
    stranger, witness = Browser(port), Browser(port)
    first = threading.Thread(target=stranger.send, args=(demo_bytes, "slow.fits"))
    second = threading.Thread(target=stranger.send, args=(demo_bytes, "slow.fits"))
    first.start()
    assert reading.acquire(timeout=20)
    second.start()
    status, _, kept = witness.send(demo_bytes)
    assert status == 201
    assert not go_on.is_set()
    assert witness.soon("GET", f"/api/files/{kept['id']}/spectra/0")[0] == 200
    # The stranger's second file waits for the first.
    assert not reading.acquire(blocking=False)
    go_on.set()
    first.join()
    second.join()


def test_a_unit_that_is_a_power_of_large_integers(server):
    port = server()
    stranger, witness = Browser(port), Browser(port)
    columns = (("wavelength", "unit: 10**9999999999 Angstrom, "), ("flux", ""), ("ivar", ""))
    names = "\n".join(f"# - {{name: {name}, {unit}datatype: float64}}" for name, unit in columns)
    content = f"# %ECSV 1.0\n# ---\n# datatype:\n{names}\nwavelength flux ivar\n15000 1 1\n15001 1 1\n"
    answers = []
    sending = threading.Thread(target=lambda: answers.append(stranger.send(content.encode(), "p.ecsv")))
    sending.start()
    while sending.is_alive():
        assert witness.soon("GET", "/api/files")[0] == 200
    assert answers[0][0] == 422
    assert answers[0][2]["error"].startswith("p.ecsv: ")


def test_half_open_connections_are_closed(server):
    port = server(head_patience=1.0, most_connections=20)
    witness = Browser(port)
    held = [witness.opened("GET / HTTP/1.1\nHost: 127.0.0.1\nX-More: ") for _ in range(40)]
    assert witness.soon("GET", "/api/files")[0] == 200
    # One more line does not buy more time; those beyond the limit are closed at once.
    began = time.monotonic()
    for one in held:
        try:
            one.sendall(b"more")
            assert one.recv(10) == b""
        except ConnectionError:
            pass
        one.close()
    assert time.monotonic() - began < SOON


def test_an_answer_that_is_not_taken_is_given_up(server):
    witness = Browser(server(patience=0.5))
    with witness.opened(
        "POST /api/runs HTTP/1.1\nHost: 127.0.0.1\nCookie: COOKIE\nContent-Length: 9\n\n{"
    ) as one:
        answer = one.recv(1000)
        assert answer == b"" or b"408" in answer


SLOW = (
    "POST /api/files?name=slow.fits HTTP/1.1\nHost: 127.0.0.1\nCookie: COOKIE\nContent-Length: 1000000\n\nS"
)


def test_uploads_that_trickle_give_way_and_end(server, demo_bytes):
    port = server(all_arriving=3, patience=2.0)
    strangers = [Browser(port).opened(SLOW) for _ in range(3)]
    time.sleep(0.6)
    witness = Browser(port)
    assert witness.send(demo_bytes)[0] == 201
    statuses = sorted(one.recv(1000).split()[1] for one in strangers)
    assert statuses == [b"408", b"408", b"503"]
    for one in strangers:
        one.close()


def test_a_session_sends_few_files_at_once(server, demo_bytes):
    port = server(most_arriving=2, patience=2.0)
    stranger = Browser(port)
    held = [stranger.opened(SLOW) for _ in range(2)]
    end = time.monotonic() + 10
    while (answer := stranger.send(demo_bytes))[0] != 429:
        assert time.monotonic() < end
    told = answer[2]
    assert "one after the other" in told["error"]
    assert Browser(port).send(demo_bytes)[0] == 201
    for one in held:
        one.close()


@pytest.mark.parametrize(
    "head", ["nonsense\n\n", "GET / HTTP/1.1\nHost: a\nHost: b\n\n", "GET / HTTP/1.1\nX: " + "y" * 70_000]
)
def test_what_is_no_http_is_told(server, head):
    with Browser(server()).opened(head) as one:
        answer = b"".join(iter(lambda: one.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'{"error": ' in answer
