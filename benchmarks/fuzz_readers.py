"""Throw damaged files at the readers: bytes flipped, ends cut off, header cards garbled or removed.

Run: ``.venv/bin/python benchmarks/fuzz_readers.py [NUMBER]``. Whatever is not a spectrum or a `MauryError` is printed and counted.
"""

import json
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "spectra" / "formats"))

from fixtures13 import at_rest, write_all

from maury.errors import MauryError
from maury.spectra import read_spectra, write_table

LIMIT_S = 5


def mutate(content, rng):
    """Damage a file in one of five ways."""
    data = bytearray(content)
    way = rng.integers(5)
    if way == 0:
        for i in rng.integers(len(data), size=rng.integers(1, 200)):
            data[i] = rng.integers(256)
    elif way == 1:
        del data[rng.integers(len(data)) :]
    elif way == 2:
        # Within headers, whose cards are 80 bytes long: the first block and others of text.
        card = 80 * rng.integers(min(len(data), 28800) // 80)
        data[card : card + 80] = (
            b" " * 80 if rng.integers(2) else bytes(rng.integers(32, 127, 80, dtype=np.uint8))
        )
    elif way == 3:
        for i in rng.integers(min(len(data), 28800), size=rng.integers(1, 30)):
            data[i] = rng.integers(32, 127)
    else:
        start = rng.integers(len(data))
        del data[start : start + 2880 * rng.integers(1, 20)]
    return bytes(data)


def hang(*_):
    raise TimeoutError


def fuzz(number, folder, seed=0):
    """Count what becomes of ``number`` damaged files."""
    rng = np.random.default_rng(seed)
    originals = {path.name: path.read_bytes() for path in write_all(folder).values()}
    for suffix in (".ecsv", ".parquet", ".fits"):
        write_table(folder / f"table{suffix}", at_rest(0.0))
        originals[f"table{suffix}"] = (folder / f"table{suffix}").read_bytes()
    names, counts, slowest = list(originals), Counter(), 0.0
    signal.signal(signal.SIGALRM, hang)
    for i in range(number):
        name = names[i % len(names)]
        path = folder / f"mutant-{name}"
        path.write_bytes(mutate(originals[name], rng))
        began = time.perf_counter()
        signal.alarm(LIMIT_S)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for spectrum in read_spectra(path):
                    assert spectrum.flux.shape == spectrum.ivar.shape
            counts["read"] += 1
        except MauryError:
            counts["MauryError"] += 1
        except Exception as error:
            counts[f"{type(error).__name__} in {name}: {error}"[:200]] += 1
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - began)
    return counts, slowest


def main():
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with TemporaryDirectory() as folder:
        counts, slowest = fuzz(number, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"files": number, **counts, "slowest_s": round(slowest, 2), "peak_MB": round(peak)}, indent=1
        )
    )


if __name__ == "__main__":
    main()
