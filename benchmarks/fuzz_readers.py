"""Throw damaged and forged files at the readers, each in a process of its own.

Run: ``.venv/bin/python benchmarks/fuzz_readers.py --number 20000 --output fuzz`` (again to go on where it stopped). Half of the files are
damaged without knowledge of what they are: bytes changed, ends cut off, pieces lost. The other half is changed where it hurts: sizes and
formats in headers, units and types, rows and cells, compression. File i of a seed is always the same.

Whatever is not a spectrum or a `MauryError` is a failure: another exception, a process that ends, more than 5 s of the processor or 1 GB of
memory. The kernel ends the process that takes too long, so that no reader can catch it. Failures are kept in ``OUTPUT/failures``, and make the
run end with 1. What was found in all is in ``OUTPUT/summary.json``. ``--plant hang`` (or ``memory``, ``crash``, ``exception``) puts a fault
into the reader, to see that it is found.
"""

# ruff: noqa: E501 - lists of what may be wrong

import argparse
import bz2
import gzip
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "spectra" / "formats"))

from bounded import SECONDS, attempt
from fixtures13 import at_rest, write_all

from maury.spectra import read_spectra, write_table

BLOCK, CARD = 2880, 80
NUMBERS = ("0", "-1", "1", "2", "3", "-2880", "999", "1000", "65536", "2000000000", "-2147483648", "9223372036854775807",
           "1e9", "1.5", "-  5760", "T", "'4'", "nan", "", "99999999999999999999")  # fmt: skip
SIZES = ("BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS", "THEAP")
FORMATS = ("'D'", "'0D'", "'8575E'", "'999999999D'", "'2000000000X'", "'1PD(9)'", "'1QD(2000000000)'", "'A'", "'L'", "'M'", "'J'", "'-1D'",
           "'D(3'", "''")  # fmt: skip
TEXTS = (
    "'\x1b[2J'",
    "'\x00'",
    "'1E-17 erg/cm^2/s/Ang'",
    "'10**9999999999 m'",
    "'furlong'",
    "'Angstrom'",
    "'" + "x" * 66 + "'",
    "''",
    "NaN",
)
KEYS = ("TNULL1", "TSCAL1", "TZERO1", "TDIM1", "TUNIT1", "TUNIT2", "TTYPE1", "CRVAL1", "CDELT1", "CRPIX1", "CRVAL", "CDELT", "BZERO", "BSCALE",
        "NVISITS", "OBJID", "BC", "VHELIO", "RA", "JD-MID", "SURVEY", "EXTNAME", "XTENSION", "DC-FLAG", "CTYPE1", "MEDIUM", "FRAME",
        "V_CORREC", "RESOLUTI", "ZIMAGE", "GROUPS", "CONTINUE", "END")  # fmt: skip
CELLS = (
    "",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-0",
    "x",
    '"',
    "1e300",
    "0",
    "1e-300",
    "True",
    "1 2",
    "\u00e9",
    "1_0",
    "0x10",
)
WORDS = (("float64", "int8"), ("float64", "string"), ("float64", "object"), ("float64", "float128"), ("float64", "bool"), ("Angstrom", "micron"),
         ("Angstrom", "10**9999999999 m"), ("Angstrom", "kg"), ("vacuum", "air"), ("vacuum", ".nan"), ("vacuum", "[" * 50), ("omap", "map"),
         ("meta", "mota"), ("datatype", "delimiter"), ("name", "nome"), ("- {", "- !x {"), ("{", "{<<: *a, "), ("rest", "\\e[2J"), ("ECSV", "ecsv"))  # fmt: skip


def damage(content, rng):
    """Damage a file in one of five ways, whatever it is."""
    data = bytearray(content)
    way = rng.integers(5)
    if way == 0:
        for i in rng.integers(len(data), size=rng.integers(1, 200)):
            data[i] = rng.integers(256)
    elif way == 1:
        del data[rng.integers(len(data)) :]
    elif way == 2:
        # Within headers, whose cards are 80 bytes long: the first block and others of text.
        card = CARD * rng.integers(max(min(len(data), 28800) // CARD, 1))
        data[card : card + CARD] = (
            b" " * CARD if rng.integers(2) else bytes(rng.integers(32, 127, CARD, dtype=np.uint8))
        )
    elif way == 3:
        for i in rng.integers(min(len(data), 28800), size=rng.integers(1, 30)):
            data[i] = rng.integers(32, 127)
    else:
        start = rng.integers(len(data))
        del data[start : start + BLOCK * rng.integers(1, 20)]
    return bytes(data)


def forge(name, content, rng):
    """Change a file where its format is told."""
    if name.endswith(".ecsv"):
        out = forge_ecsv(content, rng)
    elif name.endswith(".parquet"):
        out = forge_parquet(content, rng)
    elif name.endswith(".vot"):
        out = forge_votable(content, rng)
    else:
        out = forge_fits(content, rng)
    if rng.random() < 0.1:
        packed = (gzip.compress if rng.integers(2) else bz2.compress)(out, 1)
        return damage(packed, rng) if rng.integers(2) else packed
    return out


def pick(rng, known):
    return known[rng.integers(len(known))]


def forge_fits(content, rng):
    """Change cards that say how the file is read, or whole HDUs, or numbers."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        starts = [at for at in range(0, len(data), BLOCK) if data[at : at + 8] in (b"SIMPLE  ", b"XTENSION")]
        if not starts:
            break
        start = pick(rng, starts)
        end = next((at for at in range(start, len(data), CARD) if data[at : at + 8] == b"END     "), start)
        cards = range(start, end, CARD)
        way = rng.integers(8)
        if way <= 2:
            # A number that tells a size: another value, another spelling, twice, or gone.
            sized = [
                at for at in cards if re.match(rb"BITPIX|NAXIS|PCOUNT|GCOUNT|TFIELDS", data[at : at + 8])
            ]
            if sized:
                at = pick(rng, sized)
                key = bytes(data[at : at + 8]).decode("latin-1")
                key = pick(rng, (key, key, key.lower(), " " + key[:7], "HIERARCH " + key))
                card = f"{key:8s}= {pick(rng, NUMBERS):>20s}".encode("latin-1")[:CARD].ljust(CARD)
                where = at if rng.integers(2) else pick(rng, cards)
                data[where : where + CARD] = card if rng.integers(8) else b" " * CARD
        elif way == 3 and len(cards):
            formats = [at for at in cards if data[at : at + 5] in (b"TFORM", b"TDIM1", b"TTYPE", b"TUNIT")]
            at = pick(rng, formats or cards)
            data[at + 10 : at + CARD] = pick(rng, FORMATS + TEXTS).encode("latin-1")[:70].ljust(70)
        elif way == 4 and len(cards):
            at = pick(rng, cards)
            value = pick(rng, NUMBERS + TEXTS)
            data[at : at + CARD] = f"{pick(rng, KEYS):8s}= {value:>20s}".encode("latin-1")[:CARD].ljust(CARD)
        elif way == 5:
            # An HDU twice, elsewhere, or lost.
            other = pick(rng, starts)
            after = next((s for s in starts if s > start), len(data))
            piece = bytes(data[start:after])
            if rng.integers(2):
                del data[start:after]
            if rng.integers(2):
                data[other:other] = piece
        elif way == 6:
            value = np.array(
                pick(rng, (np.nan, np.inf, 0.0, -1.0, 1e300, 1e-300, 1e38)), pick(rng, (">f4", ">f8"))
            )
            at = int(rng.integers(len(data) // 8)) * 8
            number = int(rng.integers(1, 5000))
            with np.errstate(over="ignore"):
                data[at : at + value.itemsize * number] = (value.tobytes() * number)[: len(data) - at]
        else:
            data += bytes(rng.integers(0, 256, int(rng.integers(1, 3 * BLOCK)), dtype=np.uint8))
    return bytes(data)


def forge_ecsv(content, rng):
    """Change words of the header, lines and cells."""
    text = content.decode("utf-8", "replace")
    for _ in range(rng.integers(1, 4)):
        lines = text.split("\n")
        way = rng.integers(5)
        if way == 0:
            old, new = pick(rng, WORDS)
            text = text.replace(old, new, int(rng.integers(1, 4)))
        elif way == 1:
            at = rng.integers(len(lines))
            text = "\n".join(lines[:at] + [lines[at]] * int(rng.integers(0, 50)) + lines[at + 1 :])
        elif way == 2:
            for at in rng.integers(len(lines), size=rng.integers(1, 30)):
                cells = lines[at].split(" ")
                cells[rng.integers(len(cells))] = pick(rng, CELLS)
                lines[at] = " ".join(cells)
            text = "\n".join(lines)
        elif way == 3:
            text = text.replace(" ", pick(rng, (",", "\t", "  ", ";", "|")))
        else:
            text = (
                pick(rng, ("\ufeff", "", "\n", "# ")) + text + pick(rng, ("\n\n", "\x00", '"', "1 2 3\n", ""))
            )
    return text.encode("utf-8", "replace")


def forge_parquet(content, rng):
    """Write a table of odd columns, or change the footer, in which all is told."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    if rng.integers(2):
        data = bytearray(content)
        footer = int.from_bytes(data[-8:-4], "little")
        for i in rng.integers(max(len(data) - 8 - footer, 0), len(data), size=rng.integers(1, 20)):
            data[i] = rng.integers(256)
        return bytes(data)
    table = pq.read_table(io.BytesIO(content), use_threads=False)
    n = len(table)
    odd = (
        lambda: pa.array([[1.0, 2.0]] * n), lambda: pa.array(["x"] * n), lambda: pa.array([None] * n), lambda: pa.array([2**63 - 1] * n),
        lambda: pa.array([{"a": 1}] * n), lambda: pa.array([b"1"] * n), lambda: pa.array(np.full(n, np.nan)), lambda: pa.array([True] * n),
        lambda: pa.array(np.ones(n, "f2")), lambda: pa.array(np.arange(n).astype("datetime64[s]")), lambda: pa.array(["1.5"] * n).dictionary_encode(),
    )  # fmt: skip
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(table.num_columns))
        table = table.set_column(place, table.column_names[place], pick(rng, odd)())
    meta = {k: damage(v, rng) if rng.integers(2) else v for k, v in (table.schema.metadata or {}).items()}
    table = table.replace_schema_metadata(meta).slice(0, int(rng.integers(0, n + 1)))
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def forge_votable(content, rng):
    """Change attributes, add references, entities and depth."""
    text = content.decode("utf-8", "replace")
    words = (('datatype="double"', 'datatype="char"'), ('datatype="double"', 'datatype="unicodeChar" arraysize="*"'), ("<DATA>", '<DATA><BINARY><STREAM href="http://127.0.0.1:9/"/></BINARY>'),
             ("<TABLE", '<TABLE nrows="2000000000"'), ("<FIELD", '<FIELD arraysize="2000000000"'), ("<TR>", ""), ("</TD>", ""), ("<TD>", "<TD>x"), ("double", "boolean"),
             ("?>", '?><!DOCTYPE x [<!ENTITY a "b">]>'), ("utf-8", "utf-16"), ("<RESOURCE", "<RESOURCE>" * 60 + "<RESOURCE"), ("</VOTABLE>", ""), ('unit="', 'unit="10**9999999999'))  # fmt: skip
    for _ in range(rng.integers(1, 4)):
        old, new = pick(rng, words)
        text = text.replace(old, new, int(rng.integers(1, 5)))
    return text.encode()


PLANTS = ("hang", "memory", "crash", "exception")


def planted(fault):
    """Return a reader with a fault that a careless harness would overlook."""

    def read(path):
        if fault == "hang":
            while True:
                try:
                    while True:
                        pass
                except BaseException:  # as some catch-all of a library does
                    continue
        if fault == "memory":
            yield np.ones(2**28)
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        raise ValueError("planted")

    return read


def one(folder, name, content, seed, number, read):
    """Return what becomes of file ``number``."""
    path = folder / f"{number}-{name}"

    def make():
        rng = np.random.default_rng([seed, number])
        path.write_bytes(damage(content, rng) if number % 2 else forge(name, content, rng))

    result = attempt(path, read, make, SECONDS)
    # A line a file is kept of tens of thousands.
    result.pop("said", None)
    return path, result


def originals(folder):
    """Good files of every format, by name; written by another process, so that no library has threads here."""
    process = os.fork()
    if process == 0:
        try:
            write_all(folder)
            for suffix in (".ecsv", ".parquet", ".fits"):
                write_table(folder / f"table{suffix}", at_rest(0.0))
            from astropy.table import Table

            table = Table.read(folder / "table.ecsv", format="ascii.ecsv")[::8]
            table.meta = {}
            table.write(folder / "table.vot", format="votable", overwrite=True)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit("the files to be damaged could not be written")
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return dict(sorted(found.items()))


def fuzz(numbers, folder, seed=0, read=read_spectra, keep=None):
    """Yield what becomes of some files: ``{"number", "name", "found", "seconds", "peak_MB"}``."""
    sources, work = folder / "originals", folder / "work"
    for place in (sources, work):
        place.mkdir(parents=True, exist_ok=True)
    known = originals(sources)
    names = list(known)
    for number in numbers:
        name = names[(number // 2) % len(names)]
        path, result = one(work, name, known[name], seed, number, read)
        if keep is not None and is_failure(result):
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, keep)
        path.unlink(missing_ok=True)
        yield {"number": number, "name": name} | result


def is_failure(result):
    return result["found"] not in ("read", "MauryError")


def summary(results):
    """Return counts, the slowest and the largest."""
    counts = Counter("failure" if is_failure(r) else r["found"] for r in results)
    hangs = sum(r["found"].startswith("hang") for r in results)
    slowest, largest = (max(results, key=lambda r, k=k: r[k], default=None) for k in ("seconds", "peak_MB"))
    out = {"files": len(results), **counts, "hangs": hangs}
    if results:
        out |= {
            "slowest_s": round(slowest["seconds"], 2),
            "slowest": f"{slowest['number']}-{slowest['name']}",
        }
        out |= {"peak_MB": round(largest["peak_MB"]), "largest": f"{largest['number']}-{largest['name']}"}
    return out


def done_before(record):
    """Results that an earlier run left; its last line may be half a line."""
    results = []
    if record.exists():
        for line in record.read_text(encoding="utf-8").splitlines():
            try:
                results.append(json.loads(line))
            except ValueError:
                continue
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long; run again to go on"
    )
    parser.add_argument("--output", type=Path, default=Path("fuzz"))
    parser.add_argument("--plant", choices=PLANTS)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    record = options.output / f"seed-{options.seed}.jsonl"
    results = [] if options.plant else done_before(record)
    seen = {r["number"] for r in results}
    left = [i for i in range(options.number) if i not in seen]
    read = planted(options.plant) if options.plant else read_spectra
    end = time.monotonic() + options.seconds
    with (
        TemporaryDirectory() as folder,
        record.open("a", encoding="utf-8")
        if not options.plant
        else open(os.devnull, "w", encoding="utf-8") as log,
    ):
        for result in fuzz(left, Path(folder), options.seed, read, options.output / "failures"):
            results.append(result)
            print(json.dumps(result), file=log, flush=True)
            if is_failure(result):
                print(json.dumps(result))
            if time.monotonic() > end:
                break
    text = json.dumps({"seed": options.seed} | summary(results), indent=1)
    if not options.plant:
        (options.output / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    raise SystemExit(any(is_failure(r) for r in results))


if __name__ == "__main__":
    main()
