"""Memory and speed of ``maury simulate``: ``.venv/bin/python benchmarks/simulate.py FOLDER [NUMBER ...]``.

A file of N spectra on the apStar grid takes 69 kB a spectrum; each is removed after it is measured.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import resource, sys
from maury.training.simulations import SimulateConfig, simulate
simulate(SimulateConfig(number=int(sys.argv[1])), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main():
    folder, numbers = Path(sys.argv[1]), [int(n) for n in sys.argv[2:]] or [5_000, 50_000]
    for number in numbers:
        path = folder / f"simulated-{number}.h5"
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(number), str(path)], capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - began
        size = path.stat().st_size
        path.unlink()
        figures = {
            "spectra": number,
            "peak_MB": round(float(done.stdout)),
            "file_GB": round(size / 1e9, 2),
            "spectra_per_s": round(number / seconds),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
