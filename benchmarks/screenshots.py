"""Pictures of both reports, wide and narrow, light and dark, as docs/results/report shows them.

Usage: python benchmarks/screenshots.py [VISIT.fits] [--output docs/results/report]

The star is the given visit, or the demonstration's; ``--elements`` gives a spectrum whose elements are inferred (minutes), and a folder
of both. The survey is of simulated visits (flow alone), and of made-up rows beyond.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import maury
from maury.checks.calibration import simulated_spectra
from maury.models import folder, load_model
from maury.report.folder import report
from maury.report.star import star_page
from maury.spectra.formats.writers import write_apvisit
from maury.survey.run import cluster, prepare, run
from maury.survey.store import SurveySettings, model_version
from maury.training.demo import write_demo

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "report")]

from made_surveys import make_survey  # noqa: E402

from browser import ARGUMENTS  # noqa: E402

SIZES = {1440: 1000, 390: 844}
# Screens of a page that one picture shows, side by side on narrow ones.
COLUMNS = {1440: 1, 390: 4}
MOST_BYTES = 200_000


def simulated_survey(root: Path, number: int) -> Path:
    """Simulate visits over the sky and put them through the flow."""
    visits = root / "visits"
    visits.mkdir()
    rng = np.random.default_rng(4)
    for i, (spectrum, _, _) in enumerate(simulated_spectra(load_model(), number, "apvisit", 3)):
        place = {
            "ra": float(rng.uniform(0, 360)),
            "dec": float(np.degrees(np.arcsin(rng.uniform(-0.9, 0.9)))),
        }
        write_apvisit(
            visits / f"apVisit-{i}.fits", replace(spectrum, id=f"S{i:03d}", meta=place, v_correction=5.0)
        )
    (visits / "apVisit-broken.fits").write_text("not FITS")
    settings = SurveySettings(
        model="kurucz-apogee", model_version=model_version(folder("kurucz-apogee")), maury_version=maury.__version__, stage="flow",
    )  # fmt: skip
    output = root / "survey"
    tasks = prepare(output, settings, lambda: iter(sorted(visits.iterdir())), False)
    with cluster(None, 1) as client:
        run(output, client, tasks=tasks)
    return report(output)[0]


def picture(browser: Browser, page: Path, width: int, scheme: str, output: Path) -> None:
    """Take a picture of a page; narrow ones are cut into columns."""
    context = browser.new_context(viewport={"width": width, "height": SIZES[width]}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_timeout(300)
    if output.name.startswith("elements"):
        # What comes before is as in every other report.
        tab.evaluate(
            "document.querySelectorAll('main > *:not([aria-labelledby=elements-title])').forEach((n) => n.remove())"
        )
    tab.screenshot(path=output, full_page=True)
    context.close()
    image = Image.open(output).convert("RGB")
    n = COLUMNS[width]
    if n == 1:
        image = image.crop((0, 0, width, min(image.height, 2600)))
    else:
        height = min(-(-image.height // n), 1900)
        joined = Image.new("RGB", (n * (width + 12) - 12, height), (128, 128, 128))
        for k in range(n):
            joined.paste(
                image.crop((0, k * height, width, min((k + 1) * height, image.height))), (k * (width + 12), 0)
            )
        image = joined
    for colours in (256, 128, 64):
        # Octrees keep the few strong colours that a median cut gives away.
        image.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            output, optimize=True
        )
        if output.stat().st_size < MOST_BYTES:
            return
    small = image.resize((image.width * 2 // 3, image.height * 2 // 3))
    small.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(output, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("visit", nargs="?", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/results/report"))
    parser.add_argument("--elements", type=Path)
    parser.add_argument("--number", type=int, default=48)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        root = Path(name)
        visit = chosen.visit
        if visit is None:
            visit = root / "apVisit-demo.fits"
            write_demo(visit, load_model())
        star = root / "star.html"
        found = maury.infer(visit)
        star.write_text(star_page(found))
        pages = {"star": star, "survey": simulated_survey(root, chosen.number)}
        if chosen.elements is not None:
            folder_of = root / "folder"
            folder_of.mkdir()
            found.save(folder_of / "star.nc")
            maury.infer(chosen.elements, labels="elements").save(folder_of / "elements.nc")
            pages |= {"folder": report(folder_of)[0], "elements": folder_of / "elements.html"}
        crowd = report(make_survey(root / "crowd", 100_000))[0]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        for title, page in pages.items():
            for width, scheme in ((1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")):
                # Few pictures are kept: the survey in dark and wide is the large one.
                shown = crowd if (title, width, scheme) == ("survey", 1440, "dark") else page
                picture(browser, shown, width, scheme, chosen.output / f"{title}-{width}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
