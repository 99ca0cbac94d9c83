"""Files that somebody made to stop a reader, or to have it lie: small where they can be, each with what a reader must say of it.

``crafted(folder)`` writes them and yields name, path and a part of the message; None where the file is to be read. ``large`` adds those
of tens of megabytes.
"""

# ruff: noqa: E501 - a line a file

from __future__ import annotations

import base64
import bz2
import gzip
import io
from itertools import chain
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

BLOCK = 2880
ADDRESS = "http://127.0.0.1:9/never.fits"
W = np.linspace(15_200, 15_700, 400)


def card(text):
    return text.encode().ljust(80)


def header(*cards):
    """A header as it is told, without any care."""
    text = b"".join(map(card, [*cards, "END"]))
    return text + b" " * (-len(text) % BLOCK)


PRIMARY = header(
    "SIMPLE  =                    T",
    "BITPIX  =                    8",
    "NAXIS   =                    0",
    "EXTEND  =                    T",
)


def image(*cards, data=b""):
    start = "XTENSION= 'IMAGE   '", "BITPIX  =                    8"
    return PRIMARY + header(*start, *cards) + data + b"\0" * (-len(data) % BLOCK)


def table_header(*cards):
    return PRIMARY + header("XTENSION= 'BINTABLE'", "BITPIX  =                    8", *cards)


def good_table():
    table = Table({"wavelength": W, "flux": np.linspace(9.0, 11.0, 400), "error": np.full(400, 0.1)})
    table["wavelength"].unit = "Angstrom"
    table.meta = {
        "medium": "vacuum",
        "frame": "observatory",
        "id": "HD 1",
        "v_correction": 12.3,
        "resolution": 22_500.0,
    }
    return table


def ecsv(table=None, **meta):
    table = good_table() if table is None else table
    table.meta |= meta
    out = io.StringIO()
    table.write(out, format="ascii.ecsv")
    return out.getvalue().encode()


def replaced(content, *pairs):
    for old, new in pairs:
        assert old in content, old
        content = content.replace(old, new)
    return content


def fits_table(**meta):
    table = good_table()
    table.meta = {}
    hdu = fits.table_to_hdu(table)
    known = {"MEDIUM": "vacuum", "FRAME": "observatory", "ID": "HD 1", "V_CORREC": 12.3, "RESOLUTI": 22_500.0}
    hdu.header.update({k: v for k, v in (known | meta).items() if v is not None})
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(out)
    return out.getvalue()


def heap(column, descriptor):
    """A table of one row whose cell lies in a heap, where ``descriptor`` says."""
    row = np.array([descriptor], ">i4").tobytes()
    cards = (
        "NAXIS   =                    2", f"NAXIS1  = {8 * 3:20d}", "NAXIS2  =                    1", "PCOUNT  =                   64",
        "GCOUNT  =                    1", "TFIELDS =                    3", "TTYPE1  = 'wavelength'", f"TFORM1  = '{column}'",
        "TTYPE2  = 'flux'", f"TFORM2  = '{column}'", "TTYPE3  = 'error'", f"TFORM3  = '{column}'", "TUNIT1  = 'Angstrom'",
    )  # fmt: skip
    data = row * 3 + b"\0" * 64
    return table_header(*cards) + data + b"\0" * (-len(data) % BLOCK)


def tiles(kind, shape=(3, 64)):
    hdu = fits.CompImageHDU(np.ones(shape, "i2"), compression_type=kind)
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(out)
    return out.getvalue()


def votable(data, fields=None, before=""):
    fields = fields or "".join(
        f'<FIELD name="{n}" datatype="double" {u}/>'
        for n, u in (("wavelength", 'unit="Angstrom"'), ("flux", ""), ("error", ""))
    )
    return (
        f'<?xml version="1.0"?>{before}<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>'
        f'<PARAM name="medium" datatype="char" arraysize="*" value="vacuum"/>'
        f"<TABLE>{fields}<DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>"
    ).encode()


def rows(number=400):
    return "".join(f"<TR><TD>{w}</TD><TD>1.0</TD><TD>0.1</TD></TR>" for w in W[:number])


def parquet(columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def contents():
    """Name, file name's ending, content, message."""
    two = "NAXIS   =                    2"
    n2 = "NAXIS2  =                    3"
    damaged = "damaged"
    yield (
        "duplicate NAXIS1",
        ".fits",
        image(two, "NAXIS1  =                    4", "NAXIS1  =                -2880", n2),
        damaged,
    )
    yield (
        "lower-case naxis1",
        ".fits",
        image(two, "naxis1  =                    4", n2, "NAXIS1  =                   64"),
        damaged,
    )
    yield (
        "NAXIS1 with HIERARCH",
        ".fits",
        image(two, "HIERARCH NAXIS1 = -2880", "NAXIS1  =                    4", n2),
        damaged,
    )
    yield "NAXIS1 as a float", ".fits", image(two, "NAXIS1  =                4.0E0", n2), damaged
    yield "NAXIS1 = -  2880", ".fits", image(two, "NAXIS1  = -  2880", n2), damaged
    yield "PCOUNT = -  5760", ".fits", image("NAXIS   =                    0", "PCOUNT  = -  5760"), damaged
    yield (
        "PCOUNT = -5760",
        ".fits",
        image("NAXIS   =                    0", "PCOUNT  =                -5760"),
        damaged,
    )
    yield "NAXIS of 2e9", ".fits", image("NAXIS   =           2000000000"), damaged
    yield (
        "TFIELDS of 2e9",
        ".fits",
        table_header(
            two,
            "NAXIS1  =                    0",
            "NAXIS2  =                    0",
            "PCOUNT  =                    0",
            "GCOUNT  =                    1",
            "TFIELDS =           2000000000",
        ),
        damaged,
    )
    yield "NAXIS1 is missing", ".fits", image(two, n2), damaged
    yield (
        "random groups",
        ".fits",
        PRIMARY.replace(card("EXTEND  =                    T"), card("GROUPS  =                    T")),
        damaged,
    )
    yield (
        "5,000 HDUs",
        ".fits",
        PRIMARY
        + header("XTENSION= 'IMAGE   '", "BITPIX  =                    8", "NAXIS   =                    0")
        * 5000,
        "more than 1000 HDUs",
    )
    yield (
        "5,000 HDUs in gzip",
        ".fits.gz",
        gzip.compress(
            PRIMARY
            + header(
                "XTENSION= 'IMAGE   '", "BITPIX  =                    8", "NAXIS   =                    0"
            )
            * 5000,
            1,
        ),
        "more than 1000 HDUs",
    )
    yield (
        "no END in gzip",
        ".fits.gz",
        gzip.compress(PRIMARY + card("XTENSION= 'IMAGE   '") + card("COMMENT") * 100_000, 1),
        "no end",
    )
    yield "bomb in bz2", ".fits.bz2", bz2.compress(PRIMARY + b"\0" * 135_000_000), "unpacks to more than"
    yield "tiles PLIO_1", ".fits", tiles("PLIO_1"), "funpack"
    yield (
        "tiles RICE_1 of 2e9 pixels",
        ".fits",
        replaced(tiles("RICE_1"), (b"ZNAXIS1 =                   64", b"ZNAXIS1 =           2000000000")),
        "funpack",
    )
    yield "heap of 2e9 numbers", ".fits", heap("1PD(9)", (2_000_000_000, 0)), "varying length"
    yield "heap before the file", ".fits", heap("1PD(9)", (4, -2880)), "varying length"
    yield (
        "Parquet of lists",
        ".parquet",
        parquet({"wavelength": [[1.0] * 50_000] * 50, "flux": [1.0] * 50, "error": [1.0] * 50}),
        "one a pixel",
    )
    yield (
        "Parquet of 2,000 columns",
        ".parquet",
        parquet({f"c{i}": np.zeros(2) for i in range(2000)}),
        "columns",
    )
    yield (
        "Parquet of 900 columns by 1e6 rows",
        ".parquet",
        parquet({"wavelength": np.arange(1e5)} | {f"c{i}": np.zeros(100_000, "i1") for i in range(300)}),
        "needs a column flux",
    )
    yield (
        "Parquet of long words",
        ".parquet",
        parquet({"wavelength": ["x" * 100_000] * 1000, "flux": np.ones(1000), "error": np.ones(1000)}),
        "one a pixel",
    )
    names = [f"c{i}" for i in range(100_000)]
    yield (
        "ECSV of 1e5 columns",
        ".ecsv",
        (
            "# %ECSV 1.0\n# ---\n# datatype:\n"
            + "".join(f"# - {{name: {n}, datatype: float64}}\n" for n in names)
            + " ".join(names)
            + "\n"
        ).encode(),
        "columns",
    )
    bad_unit = replaced(ecsv(), (b"unit: Angstrom", b"unit: 10**9999999999 Angstrom"))
    yield "ECSV, wavelengths in 10**9999999999 Angstrom", ".ecsv", bad_unit, "not known"
    yield (
        "ECSV, flux in 10**9999999999 Jy",
        ".ecsv",
        replaced(ecsv(), (b"name: flux, ", b"name: flux, unit: 10**9999999999 Jy, ")),
        None,
    )
    yield (
        "ECSV, a quantity in 10**9999999999 Angstrom",
        ".ecsv",
        replaced(
            ecsv(),
            (b"- {id: HD 1}", b"- {id: HD 1}\n# - {a: !astropy.units.Unit {unit: 10**9999999999 Angstrom}}"),
        ),
        None,
    )
    merged = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 20)}]}}\n" for i in range(1, 12)
    )
    listed = "".join(f"# - {line}\n" for line in merged.splitlines())
    yield (
        "ECSV, merged mappings",
        ".ecsv",
        replaced(ecsv(), (b"# meta: !!omap\n", b"# meta: !!omap\n" + listed.encode())),
        None,
    )
    yield (
        "ECSV, deep lists",
        ".ecsv",
        replaced(ecsv(), (b"- {id: HD 1}", b"- {id: " + b"[" * 1500 + b"}")),
        "damaged",
    )
    yield (
        "ECSV, an object of Python",
        ".ecsv",
        replaced(ecsv(), (b"- {id: HD 1}", b"- {id: !!python/object/apply:os.system ['true']}")),
        "damaged",
    )
    yield (
        "VOTable, data elsewhere",
        ".vot",
        votable(f'<BINARY><STREAM href="{ADDRESS}"/></BINARY>'),
        "lie elsewhere",
    )
    yield (
        "VOTable, data elsewhere in UTF-16",
        ".vot",
        votable(f'<FITS><STREAM href="{ADDRESS}"/></FITS>')
        .decode()
        .replace('"1.0"?', '"1.0" encoding="utf-16"?')
        .encode("utf-16"),
        "lie elsewhere",
    )
    yield (
        "VOTable, data in a file",
        ".vot",
        votable('<BINARY2><STREAM href="file:///etc/passwd" encoding="base64"/></BINARY2>'),
        "lie elsewhere",
    )
    packed = base64.b64encode(gzip.compress(b"\0" * 50_000_000)).decode()
    yield (
        "VOTable, packed",
        ".vot",
        votable(f'<BINARY><STREAM encoding="gzip">{packed}</STREAM></BINARY>'),
        "packed",
    )
    entities = (
        "<!DOCTYPE x ["
        + '<!ENTITY a0 "x">'
        + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
        + "]>"
    )
    yield (
        "VOTable, entities",
        ".vot",
        votable("<TABLEDATA><TR><TD>&a9;</TD></TR></TABLEDATA>", before=entities),
        "entities",
    )
    wide = '<FIELD name="wavelength" datatype="double" arraysize="1000000000"/><FIELD name="flux" datatype="double"/><FIELD name="error" datatype="double"/>'
    yield (
        "VOTable, a cell of 1e9 numbers",
        ".vot",
        votable("<TABLEDATA><TR><TD>1</TD><TD>1</TD><TD>1</TD></TR></TABLEDATA>", wide),
        "announces more",
    )
    yield (
        "VOTable, 1e9 rows announced",
        ".vot",
        votable(f"<TABLEDATA>{rows(5)}</TABLEDATA>").replace(b"<TABLE>", b'<TABLE nrows="1000000000">'),
        "announces more",
    )
    yield "VOTable, deep", ".vot", b"<VOTABLE>" + b"<GROUP>" * 100_000, "announces more"
    big = good_table()
    big["flux"], big["error"] = big["flux"] * 1e300, big["error"] * 1e300
    yield "flux times 1e300", ".ecsv", ecsv(big), "another unit"
    big = good_table()
    big["ivar"] = np.full(400, 1e300)
    del big["error"]
    yield "ivar 1e300", ".ecsv", ecsv(big), "another unit"
    yield (
        "flux unit unknown",
        ".ecsv",
        replaced(
            ecsv(),
            (b"name: flux, ", b"name: flux, unit: furlongs, "),
            (b"name: error, ", b"name: error, unit: furlongs, "),
        ),
        None,
    )
    yield (
        "flux unit unknown, error's known",
        ".ecsv",
        replaced(
            ecsv(),
            (b"name: flux, ", b"name: flux, unit: furlongs, "),
            (b"name: error, ", b"name: error, unit: Jy, "),
        ),
        "no unit that is known",
    )
    yield "resolution 1e-300", ".ecsv", ecsv(resolution=1e-300), "resolving power"
    yield "resolution in text", ".ecsv", ecsv(resolution="9" * 5000), "resolving power"
    yield "v_correction inf", ".ecsv", ecsv(v_correction=np.inf), "v_correction inf"
    yield "v_correction -4e5", ".ecsv", ecsv(v_correction=-4e5), "v_correction -400000"
    yield "v_correction in m/s", ".fits", fits_table(V_CORREC=12_340.0), "is it in m/s"
    yield "name with NUL and escape sequences", ".ecsv", ecsv(id="HD\0 1\x1b[2J\x1b]0;owned\x07"), None
    yield "name of a lone surrogate", ".ecsv", replaced(ecsv(), (b"id: HD 1", b'id: "HD \\uD800 1"')), None
    yield "name that turns the writing", ".ecsv", ecsv(id="HD \u202e1"), None
    yield "frame with escape sequences", ".ecsv", ecsv(frame="\x1b[2J"), "frame"


def large():
    """Tens of megabytes, slow to make."""
    one = " ".join(["1.00000000000"] * 4) + "\n"
    start = ecsv().split(b"wavelength flux error\n")[0]
    yield (
        "ECSV of 60 MB, few rows",
        ".ecsv",
        start + b"wavelength flux error\n" + b" ".join([b"1.5"] * 15_000_000) + b"\n",
        "rows",
    )
    numbers = "\n".join(
        f"{w:.9f} 1.00000000000000000000000000 0.1000000000000000000000000000"
        for w in np.linspace(15e3, 17e3, 850_000)
    )
    yield "ECSV of 60 MB", ".ecsv", start + b"wavelength flux error\n" + numbers.encode() + b"\n", None
    yield "ECSV of 70 MB", ".ecsv", start + b"wavelength flux error\n" + one.encode() * 1_300_000, "MiB"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 60_000_000, dtype=np.uint8).tobytes()
    body = header(
        "XTENSION= 'IMAGE   '",
        "BITPIX  =                    8",
        "NAXIS   =                    1",
        f"NAXIS1  = {len(noise):20d}",
    )
    yield (
        "bz2 of 60 MB",
        ".fits.bz2",
        bz2.compress(PRIMARY + body + noise + b"\0" * (-len(noise) % BLOCK), 1),
        "another kind",
    )
    yield (
        "a header of 60 MB",
        ".fits",
        PRIMARY[:-BLOCK]
        + b"".join(
            map(
                card,
                (
                    "SIMPLE  =                    T",
                    "BITPIX  =                    8",
                    "NAXIS   =                    0",
                ),
            )
        )
        + card("COMMENT x") * 750_000
        + card("END"),
        "no end",
    )
    columns = {f"c{i}": np.zeros(1_000_000) for i in range(60)} | {
        "wavelength": np.linspace(1e4, 2e4, 1_000_000),
        "flux": np.ones(1_000_000),
        "error": np.ones(1_000_000),
    }
    yield "Parquet of 63 columns by 1e6 rows", ".parquet", parquet(columns), "no unit"


def crafted(folder, also_large=False):
    """Write the files; yield name, path and a part of the message that is due, None where the file is read."""
    files = chain(contents(), large()) if also_large else contents()
    for number, (name, suffix, content, message) in enumerate(files):
        path = Path(folder) / f"hostile-{number}{suffix}"
        path.write_bytes(content)
        yield name, path, message
