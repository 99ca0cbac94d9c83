"""Figures in the tables of docs/results/README.md and docs/explain/comparison.md are those of the files beside them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, COMPARISON = "results/README.md", "explain/comparison.md"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
# Peers of the table, and their names in the file. What has no entry there says so in its row.
PEERS = {
    "LAMPE": "lampe",
    "sbi:": "sbi",
    "nbi:": "nbi",
}
OLD = "of an earlier run"


@cache
def read(file):
    return json.loads((DOCS / "results" / file).read_text(encoding="utf-8"))


def value(file, path):
    """What a path such as ``labels/teff/bias*100`` or ``a/b@min`` leads to."""
    path, _, times = path.partition("*")
    path, _, over = path.partition("@")
    found = read(file)
    for key in path.split("/"):
        found = found[int(key)] if isinstance(found, list) else found[key]
    if over:
        found = list(found.values()) if isinstance(found, dict) else found
        found = {"min": np.min, "max": np.max, "median": np.median}[over](found)
    return float(found) * float(times or 1)


def rows(page, section, start):
    """Lines of a section's tables whose first cell begins so."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if re.match(rf"\|\s*{re.escape(start)}", line)]


def numbers(line):
    """Numbers of all cells but the first, as they are printed; addresses of links are none."""
    cells = re.sub(r"\]\([^)]*\)", "]", line).strip("|").split("|")[1:]
    return [text.replace(",", "") for cell in cells for text in NUMBER.findall(cell)]


def agrees(text, exact):
    """Whether a number is printed as the exact one rounds, half a unit of its last digit (and a hair) off at most."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - exact) <= 0.5001 * 10.0**-digits


EXPERIMENT = ["held_out/flow_log_density_mean", "held_out/information_limit_mean"]
CALIBRATION = {
    "smallest KS p": ["rank_ks_p@min"],
    "coverage error: joint": [
        "coverage/verified/joint/error",
        "coverage/verified/tarp/error",
        "coverage/verified/joint/band*100",
        "coverage/flow/joint/error",
        "coverage/flow/tarp/error",
    ],
    "efficiency, median": ["efficiency_median", "efficiency_p05"],
    "likelihood evaluations": ["evaluations_median"],
}
SKY = ["number", "bias", "scatter", "over_total", "within_two"]
STANDARD_LABELS = ("teff", "logg", "m_h", "alpha_m", "c_m", "n_m", "v_micro")
ELEMENTS = ("o", "na", "mg", "al", "si", "s", "k", "ca", "ti", "v", "cr", "mn", "co", "ni", "ce")
# Rows of the standards: spectra of the file with the default model and with kurucz-apogee.
STANDARDS = {"Sun": (0, 9), "Arcturus": (1, 10), "2M00242666": (4, 13)}
REAL = [f"labels/{label}/{key}" for label in ("teff", "logg", "m_h", "v_rad") for key in ("p50", "std")]


def standard(default, other, rotates):
    """What a row of the standards holds after the literature's three labels."""
    main = [f"spectra/{default}/labels/{label}/{i}" for label in ("teff", "logg", "m_h") for i in (0, 1)]
    rotation = [f"spectra/{default}/labels/v_sini/0"] if rotates else []
    beside = [f"spectra/{other}/labels/{label}/0" for label in ("teff", "logg", "m_h")]
    return [None] * 3 + main + rotation + beside + [f"spectra/{i}/chi2_a_pixel" for i in (default, other)]


# Section, beginning of the row, file, and what its numbers are, one by one; None: told in words elsewhere, such as a percentage of a band.
TABLES = [
    (
        "The paper's experiments",
        "[three labels]",
        "three/report.json",
        [
            *EXPERIMENT,
            "efficiency_straight_from_flow_median",
            "held_out/efficiency_median",
            "held_out/spectra",
            "held_out/khat_below_limit",
        ],
    ),
    (
        "The paper's experiments",
        "[five labels]",
        "five/report.json",
        [
            *EXPERIMENT,
            "efficiency_straight_from_flow_median",
            "held_out/efficiency_median",
            "held_out/spectra",
            "held_out/khat_below_limit",
            None,
            None,
            None,
        ],
    ),
    (
        "The paper's experiments",
        "[sine wave]",
        "sine/report.json",
        ["held_out_log_density", "exact_log_density", "efficiency_median", "khat_below_limit"],
    ),
    *(
        (
            "The library: standards and real stars",
            name,
            "standards/emulator.json",
            [f"rms_of_offset_over_error/{kind}/{label}" for label in STANDARD_LABELS],
        )
        for name, kind in (("nothing integrated out", "none"), ("by default", "default"))
    ),
    *(
        ("On the sky", row, "sky/sky.json", [f"labels/{path}/{key}" for key in SKY])
        for row, path in (
            ("teff, 3600", "teff/3600-4500 K"),
            ("teff, all", "teff/all"),
            ("logg, all", "logg/all"),
            ("m_h, all", "m_h/all"),
            ("v_rad, all", "v_rad/all"),
        )
    ),
    *(
        ("The library: standards and real stars", name, "real/standards.json", standard(*rows_, name in ("Sun", "Arcturus")))
        for name, rows_ in STANDARDS.items()
    ),
    *(
        (
            "Elements",
            name,
            "elements/real.json",
            [f"{file}/labels/{x}_m/{key}" for x in ELEMENTS for key in ("p50", "std*100")]
            + [f"{file}/efficiency", f"{file}/khat"],
        )
        for name, file in (
            ("Sun", "Sun_R22500_snr200.ecsv"),
            ("Arcturus", "Arcturus_R22500_snr200.ecsv"),
            ("2M00242666", "apVisit-r13-9518-57729-104.fits"),
            ("2M17334253", "aspcapStar-r6-l30e.2-2M17334253-1654573.fits"),
        )
    ),
    *(
        ("Surveys", row, "survey/throughput.json",
         [f"runs/{i}/workers", f"runs/{i}/spectra_per_s", f"runs/{i}/worker_cpu_s_per_spectrum*1000", *[None] * more])
        for row, i, more in (("flow alone, 2,000", 0, 0), ("flow alone, 20,000", 2, 2), ("verified, 240", 3, 2))
    ),
    ("Real spectra", "visit of 2M00242666", "real/real.json",
     [*(f"visit, independent/{path}" for path in REAL), None, None]),
    ("Exact references", "classifier", "exact/exact.json",
     ["nested/c2st_median", "nested/c2st_max", "emcee/c2st_median", "emcee/c2st_max"]),
    ("Exact references", "largest shift", "exact/exact.json", ["nested/shift_max", "emcee/shift_max"]),
    ("Exact references", "ratios of the widths", "exact/exact.json",
     ["nested/width_range/0", "nested/width_range/1", "emcee/width_range/0", "emcee/width_range/1"]),
    ("Exact references", "Jensen-Shannon", "exact/exact.json",
     ["nested/jensen_shannon_median@min", "nested/jensen_shannon_median@max", "nested/jensen_shannon_max@max",
      "emcee/jensen_shannon_median@min", "emcee/jensen_shannon_median@max", "emcee/jensen_shannon_max@max"]),
    ("Exact references", "seconds", "exact/exact.json",
     ["nested/seconds_ratio_median", "emcee/seconds_ratio_median"]),
    ("The flow by itself, and what verification costs", "coverage error, joint", "flow/marcs-apogee.json",
     [None, None, "all/joint/error", None, "all/joint/band"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "row", "file", "paths"), TABLES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_table_tells_what_its_file_says(section, row, file, paths):
    found = rows(RESULTS, section, row)
    assert len(found) == 1, found
    printed = numbers(found[0])
    assert len(printed) == len(paths), printed
    for text, path in zip(printed, paths, strict=True):
        if path is not None:
            assert agrees(text, value(file, path)), (path, text, value(file, path))


@pytest.mark.parametrize("row", CALIBRATION)
@pytest.mark.parametrize(("place", "model"), list(enumerate(["kurucz-apogee", "btsettl-apogee"])))
def test_both_calibrations(row, place, model):
    printed = numbers(rows(RESULTS, "Calibration", row)[place])
    # The band's percentage is a number, and no figure.
    printed = [text for text in printed if text != "99"]
    paths = [path.removesuffix("*100") for path in CALIBRATION[row]]
    for text, path in zip(printed, paths, strict=True):
        assert agrees(text, value(f"calibration/{model}/calibration.json", path)), (path, text)


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_peers_are_told_alike_and_as_in_their_file():
    """In both pages; a row whose figures no file holds says of which run they are."""
    peers = read("peers.json")
    first = {cells(line)[0]: cells(line) for line in rows(RESULTS, "Peers", "")[2:]}
    second = {cells(line)[0]: cells(line) for line in rows(COMPARISON, "In figures", "")[2:]}
    assert len(first) == len(second)
    told = 0
    for (name, one), (other, two) in zip(first.items(), second.items(), strict=True):
        # The results have how far below the limit each is, beside.
        assert [one[1], *one[3:]] == two[1:], (name, other)
        key = next((key for start, key in PEERS.items() if name.startswith(start)), None)
        if key is None:
            assert OLD in name, name
            assert OLD in other, other
            continue
        told += 1
        entry = peers[key]
        assert agrees(one[1], entry["log_density_mean"])
        assert agrees(one[3], entry["coverage_68"])
        share = one[4].removesuffix(" %")
        assert agrees(share, (100 if "%" in one[4] else 1) * entry["share_of_draws_outside_the_prior"])
        assert agrees(one[5], entry["efficiency_median"])
        assert agrees(one[6].replace(",", ""), round(entry["spectra_seen"], -2)) or agrees(
            one[6].replace(",", ""), round(entry["spectra_seen"], -3)
        )
    assert told == len(PEERS)


def test_prior_volume():
    covered = read("standards/prior_volume.json")["covered"]
    text = (DOCS / RESULTS).read_text(encoding="utf-8")
    joined, before = re.search(r"shipped models cover (\d+) % \((\d+) % before", text).groups()
    assert agrees(joined, 100 * covered["joined"])
    assert agrees(before, 100 * covered["before"])
    page = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    for name, row in (
        ("marcs-apogee", "`marcs-apogee`"),
        ("btsettl-apogee", "`btsettl-apogee`"),
        ("joined", "both"),
    ):
        line = next(
            line for line in page.splitlines() if line.startswith(f"| {row}") and line.endswith(" % |")
        )
        assert agrees(re.search(r"(\d+) % \|$", line)[1], 100 * covered[name])


def test_every_section_of_figures_names_its_file():
    sections = (DOCS / RESULTS).read_text(encoding="utf-8").split("\n## ")[1:]
    without = [
        text.splitlines()[0] for text in sections if not re.search(r"\((\S+\.json|\S+report\.md)\)", text)
    ]
    # Pictures, and a table that stands in another page.
    assert set(without) <= {"Reports"}, without
