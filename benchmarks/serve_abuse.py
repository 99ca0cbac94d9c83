"""What a stranger can do to ``maury serve``, and how long others wait meanwhile.

A witness, with a session of its own, asks for the page, its files and a spectrum all the time, and now and then sends a file. Meanwhile
others send what stops a reader, open connections and say nothing, send a byte now and then, ask for hundreds of runs, send hundreds of
files, and the process that infers is killed. At the end the server is interrupted in the midst of work.

Usage: python benchmarks/serve_abuse.py [--output docs/results/serve/abuse.json] [--seconds 10]
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from astropy.io import fits

ROOT = Path(__file__).parents[1]
MB = 2**20
# Of each of these there is one, whatever the phase.
HALF_OPEN, TRICKLING, RUNS, FILES = 140, 41, 500, 200


class Browser:
    """A client with a session."""

    def __init__(self, port: int) -> None:
        self.port = port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        self.cookie = answer.headers["Set-Cookie"].split(";")[0]
        connection.close()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Ask; return status and what the JSON says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Cookie": self.cookie})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else None
        finally:
            connection.close()

    def send(self, content: bytes, name: str = "star.fits") -> tuple[int, Any]:
        """Upload a file."""
        return self.ask("POST", f"/api/files?name={name}", content)

    def run(self, file: str, **more: Any) -> tuple[int, Any]:
        """Ask for a run."""
        wanted = {"upload": file, "model": "kurucz-apogee", "draws": 100} | more
        return self.ask("POST", "/api/runs", json.dumps(wanted).encode())

    def until_ended(self, run: str, seconds: float = 120.0) -> Any:
        """Wait for a run to end."""
        end = time.monotonic() + seconds
        while True:
            _, now = self.ask("GET", f"/api/runs/{run}")
            if now["state"] in ("done", "failed", "cancelled") or time.monotonic() > end:
                return now
            time.sleep(0.2)


class Witness:
    """Asks all the time, and notes how long that takes."""

    def __init__(self, port: int, visit: bytes) -> None:
        self.browser, self.visit = Browser(port), visit
        self.file = self.browser.send(visit)[1]["id"]
        self.seconds: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask), threading.Thread(target=self._send)]
        for thread in self._threads:
            thread.start()

    def _note(self, what: str, ask: Callable[[], tuple[int, Any]], good: int) -> Any:
        began = time.perf_counter()
        try:
            status, answer = ask()
            if status != good:
                self.wrong.append(f"{what}: {status} {answer}")
        except OSError as error:
            self.wrong.append(f"{what}: {error}")
            answer = None
        self.seconds.setdefault(what, []).append(time.perf_counter() - began)
        return answer

    def _ask(self) -> None:
        while not self._ending.wait(0.1):
            self._note("page", lambda: self.browser.ask("GET", "/"), 200)
            self._note("files", lambda: self.browser.ask("GET", "/api/files"), 200)
            self._note("spectrum", lambda: self.browser.ask("GET", f"/api/files/{self.file}/spectra/0"), 200)

    def _send(self) -> None:
        while not self._ending.wait(1.0):
            kept = self._note("upload", lambda: self.browser.send(self.visit), 201)
            if kept and "id" in kept:
                self.browser.ask("DELETE", f"/api/files/{kept['id']}")

    def since(self) -> dict[str, Any]:
        """Return, and forget, what has been noted: the longest of each kind, and the median."""
        now, self.seconds = self.seconds, {}
        wrong, self.wrong = self.wrong, []
        longest = {what: round(max(times), 3) for what, times in now.items()}
        median = {what: round(statistics.median(times), 3) for what, times in now.items()}
        return {
            "longest_s": longest,
            "median_s": median,
            "asked": sum(map(len, now.values())),
            "wrong": wrong[:5],
        }

    def stop(self) -> None:
        """End."""
        self._ending.set()
        for thread in self._threads:
            thread.join()


class Memory(threading.Thread):
    """Most memory of the server and of all its processes, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._server, self.server, self.all = psutil.Process(pid), 0.0, 0.0

    def run(self) -> None:
        """Look ten times a second."""
        while True:
            try:
                own = self._server.memory_info().rss / MB
                children = 0.0
                for child in self._server.children(recursive=True):
                    try:
                        children += child.memory_info().rss / MB
                    except psutil.Error:
                        continue
            except psutil.Error:
                return
            self.server, self.all = max(self.server, own), max(self.all, own + children)
            time.sleep(0.1)

    def since(self) -> dict[str, int]:
        """Return, and forget, the most that was seen."""
        most = {"server_mb": round(self.server), "with_children_mb": round(self.all)}
        self.server = self.all = 0.0
        return most


def a_power() -> bytes:
    """Return a table whose unit is a power of large integers: computing it holds the interpreter's lock."""
    return (
        b"# %ECSV 1.0\n# ---\n# datatype:\n"
        b"# - {name: wavelength, unit: 10**9999999999 Angstrom, datatype: float64}\n"
        b"# - {name: flux, datatype: float64}\n# - {name: ivar, datatype: float64}\n"
        b"# schema: astropy-2.0\nwavelength flux ivar\n15000.0 1.0 1.0\n15001.0 1.0 1.0\n"
    )


def many_headers() -> bytes:
    """Return a small compressed file of 60,000 HDUs: reading it takes long."""
    header = fits.ImageHDU().header.tostring().encode()
    return gzip.compress(fits.PrimaryHDU().header.tostring().encode() + header * 60_000, 1)


def many_columns() -> bytes:
    """Return a table of 20,000 columns."""
    names = [f"c{i}" for i in range(20_000)]
    lines = ["# %ECSV 1.0", "# ---", "# datatype:"]
    lines += [f"# - {{name: {name}, datatype: float64}}" for name in names]
    return "\n".join([*lines, " ".join(names), " ".join("1" for _ in names), ""]).encode()


STOPPERS = {"power.ecsv": a_power, "headers.fits.gz": many_headers, "columns.ecsv": many_columns}


@contextmanager
def half_open(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Hold connections that have sent a part of a request's head."""
    opened = []
    try:
        for _ in range(number):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-More: ")
            opened.append(one)
        yield opened
    finally:
        for one in opened:
            one.close()


def trickle(browser: Browser, ending: threading.Event) -> int:
    """Send a byte now and then; return the status that it is ended with, 0 without one."""
    head = (
        f"POST /api/files?name=slow.fits HTTP/1.1\r\nHost: 127.0.0.1:{browser.port}\r\n"
        f"Cookie: {browser.cookie}\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", browser.port), timeout=0.5) as one:
        one.sendall(head.encode())
        while not ending.is_set():
            try:
                one.sendall(b"S")
                answer = one.recv(1000)
                return int(answer.split()[1]) if answer else 0
            except TimeoutError:
                continue
            except OSError:
                return 0
    return -1


def phases(port: int, pid: int, visit: bytes, seconds: float) -> dict[str, Any]:
    """Do all of it."""
    witness, memory = Witness(port, visit), Memory(pid)
    memory.start()
    found: dict[str, Any] = {}

    def note(name: str, **more: Any) -> None:
        found[name] = more | {"others": witness.since(), "memory": memory.since()}
        sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")

    time.sleep(seconds)
    note("nothing else")

    for name, make in STOPPERS.items():
        content = make()
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda b, c=content, n=name: b.send(c, n), [Browser(port), Browser(port)])
            )
        note(
            f"two of {name}",
            bytes=len(content),
            seconds=round(time.perf_counter() - began, 2),
            status=[status for status, _ in answers],
            said=answers[0][1].get("error", ""),
        )

    with half_open(port, HALF_OPEN) as opened:
        began = time.perf_counter()
        for one in opened:
            try:
                one.recv(1)
            except OSError:
                continue
        closed = time.perf_counter() - began
    note(f"{HALF_OPEN} half-open connections", all_closed_after_s=round(closed, 2))

    ending = threading.Event()
    browsers = [Browser(port) for _ in range(TRICKLING)]
    with ThreadPoolExecutor(TRICKLING) as pool:
        slow = [pool.submit(trickle, browser, ending) for browser in browsers]
        time.sleep(max(seconds, 35))
        ending.set()
    note(f"{TRICKLING} uploads of two bytes a second", ended_with=Counter(f.result() for f in slow))

    stranger = Browser(port)
    file = stranger.send(visit)[1]["id"]
    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(lambda seed: stranger.run(file, seed=seed)[0], range(RUNS)))
    asked = time.perf_counter() - began
    began = time.perf_counter()
    mine = witness.browser.until_ended(witness.browser.run(witness.file)[1]["id"])
    note(
        f"{RUNS} runs",
        seconds=round(asked, 2),
        status=statuses,
        a_run_of_another=mine["state"],
        after_s=round(time.perf_counter() - began, 2),
    )
    stranger.ask("DELETE", f"/api/files/{file}")

    one = Browser(port)
    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(lambda i: one.send(visit, f"{i}.fits")[0], range(FILES)))
    note(f"{FILES} uploads", status=statuses)
    kept = one.ask("GET", "/api/files")[1]["files"]
    with ThreadPoolExecutor(32) as pool:
        path = f"/api/files/{kept[0]['id']}/spectra/0"
        statuses = Counter(pool.map(lambda _: one.ask("GET", path)[0], range(200)))
    note("200 spectra at once", status=statuses)

    file = one.ask("GET", "/api/files")[1]["files"][0]["id"]
    run = one.run(file, draws=20_000)[1]["id"]
    while one.ask("GET", f"/api/runs/{run}")[1]["stage"] in ("", "reading"):
        time.sleep(0.05)
    (worker,) = [c for c in psutil.Process(pid).children() if "maury.serve.work" in c.cmdline()]
    worker.kill()
    ended = one.until_ended(run)
    began = time.perf_counter()
    again = one.until_ended(one.run(file)[1]["id"])
    note(
        "the process that infers, killed",
        state=ended["state"],
        said=ended["error"],
        next_run=again["state"],
        after_s=round(time.perf_counter() - began, 2),
    )
    witness.stop()
    # What is at work when the server is interrupted.
    one.run(file, draws=20_000)
    threading.Thread(
        target=lambda: _ignored(lambda: Browser(port).send(a_power(), "power.ecsv")), daemon=True
    ).start()
    time.sleep(1.0)
    return found


def _ignored(call: Callable[[], Any]) -> None:
    try:
        call()
    except (OSError, http.client.HTTPException):
        return


def demo_visit() -> bytes:
    """Return the demonstration's apVisit file."""
    from maury.models import load_model
    from maury.training.demo import write_demo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "apVisit-demo.fits"
        write_demo(path, load_model())
        return path.read_bytes()


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "serve" / "abuse.json")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the quiet phase")
    chosen = parser.parse_args()
    visit = demo_visit()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "maury.cli", "serve", "--port", "0", "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": folder, "COLUMNS": "200"},
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split()[2].rsplit(":", 1)[1])
            browser = Browser(port)
            while not browser.ask("GET", "/api/files")[1]["ready"]:
                time.sleep(0.2)
            # The other processes that read are started then.
            time.sleep(chosen.seconds)
            found = phases(port, server.pid, visit, chosen.seconds)
            children = {
                child: " ".join(child.cmdline()[-3:])
                for child in psutil.Process(server.pid).children(recursive=True)
            }
            began = time.perf_counter()
            server.send_signal(signal.SIGINT)
            status = server.wait(60)
            took = time.perf_counter() - began
            # A signal that is on its way needs a moment of a core.
            _, alive = psutil.wait_procs(list(children), timeout=1.0)
            left = [path.name for path in Path(folder).iterdir() if path.name.startswith("maury-serve-")]
            found["interrupted at work"] = {
                "seconds": round(took, 2),
                "status": status,
                "folders_left": left,
                "processes": len(children),
                "processes_left": [
                    children[child]
                    for child in alive
                    if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
                ],
            }
        finally:
            server.kill()
            server.wait()
    figures = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "phases": found}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
