"""A Dask cluster of this machine's as separate processes, that benchmarks can watch and kill."""

import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# As `maury.survey.run.LOGS` has them, for processes.
_LOGS = {
    "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TASKS__TASK_STREAM_LENGTH": "1000",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(module: str, *arguments: str, log: Path, file_limit: int | None = None) -> subprocess.Popen[bytes]:
    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | _LOGS,
            preexec_fn=limit,
        )


@dataclass
class Cluster:
    """A scheduler and workers of one thread each, their logs in a folder; `mend` starts again what was killed."""

    folder: Path
    n_workers: int
    file_limit: int | None = None
    port: int = field(default_factory=free_port)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def mend(self) -> None:
        """Start whatever does not run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.scheduler = _start(
                "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard",
                log=self.folder / "scheduler.log",
            )  # fmt: skip
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < self.n_workers:
            worker = _start(
                "distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                "--local-directory", str(self.folder / "scratch"), "--death-timeout", "60",
                log=self.folder / "workers.log", file_limit=self.file_limit,
            )  # fmt: skip
            self.workers.append(worker)

    def stop(self) -> None:
        """End all of it."""
        for process in (*self.workers, self.scheduler):
            if process is not None:
                with suppress(ProcessLookupError):
                    process.kill()
                process.wait()

    def __enter__(self) -> "Cluster":
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def survey(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start ``maury survey``."""
    return _start("maury.cli", "survey", *arguments, log=log)


@dataclass
class Watch:
    """Memory (MB) and CPU time of processes, sampled each second."""

    rss: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, tuple[float, float]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)

    def sample(self, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self.times.append(time.monotonic())
        for name, process in processes.items():
            with suppress(psutil.Error):
                found = psutil.Process(process.pid)
                used = found.cpu_times()
                self.rss.setdefault(name, []).append(found.memory_info().rss / 1e6)
                self.cpu[name] = used.user, used.system

    def summary(self) -> dict[str, dict[str, float]]:
        """Peak and last memory, its median in each third, and CPU seconds, of each process."""
        out = {}
        for name, values in self.rss.items():
            n = len(values)
            thirds = [
                sorted(v)[len(v) // 2]
                for v in (values[: n // 3], values[n // 3 : -(n // 3)], values[-(n // 3) :])
                if v
            ]
            user, system = self.cpu[name]
            out[name] = {
                "rss_peak_mb": round(max(values)),
                "rss_final_mb": round(values[-1]),
                "rss_thirds_mb": [round(v) for v in thirds],
                "cpu_user_s": round(user, 1),
                "cpu_system_s": round(system, 1),
            }
        return out
