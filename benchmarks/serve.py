"""From dropping a file on ``maury serve`` to its finished report: seconds, and pictures of the page.

Usage: python benchmarks/serve.py FILE [MORE ...] [--output docs/results/serve] [--repeat 3] [--no-pictures]

With more files there are pictures of the page with all of them, ten say, as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import ARGUMENTS, drop, findings, overflow  # noqa: E402


def seconds_to_report(page: Page, file: Path, run: int) -> float:
    """Drop the file; return the seconds until the report is shown."""
    content = file.read_bytes()
    began = time.perf_counter()
    drop(page, content, file.name)
    page.wait_for_selector(f".run[data-run='{run}'][data-state=done] dd", timeout=60_000)
    page.frame_locator("#frame").locator("h1").wait_for(timeout=60_000)
    return time.perf_counter() - began


SCREENS = ((1440, "light"), (1440, "dark"), (390, "light"), (390, "dark"))


def picture(page: Page, path: Path, most: int) -> int:
    """Take a picture of a page, ``most`` pixels high; return axe's serious findings and pixels of overflow."""
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=True)
    image = Image.open(path).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, most)))
    image.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    return len(findings(page)) + overflow(page)


def pictures_of_many(browser: Browser, address: str, files: list[Path], output: Path) -> dict[str, int]:
    """Drop many files at once, and take pictures when all of them are done."""
    found: dict[str, int] = {}
    state = None
    for width, scheme in SCREENS:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, storage_state=state
        )
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-started]")
        if state is None:
            page.set_input_files("#file", [str(file) for file in files])
            page.locator("#tally", has_text=f"{len(files)} of {len(files)} done").wait_for(timeout=600_000)
            state = context.storage_state()
        name = f"files-{width}-{scheme}"
        found[name] = picture(page, output / f"{name}.png", 900 if width > 1000 else 1700)
        context.close()
    return found


def pictures(browser: Browser, address: str, file: Path, output: Path) -> dict[str, int]:
    """Take pictures of a page with two runs; return axe's serious findings and pixels of overflow."""
    found = {}
    for width, scheme in SCREENS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-started]")
        seconds_to_report(page, file, 1)
        page.select_option("#p-logg", "normal")
        page.fill("#p-logg-mean", "2.61")
        page.fill("#p-logg-sigma", "0.03")
        page.fill("#from", "16100")
        page.fill("#to", "16150")
        page.press("#to", "Enter")
        page.click("#run")
        page.wait_for_selector(".run[data-run='2'][data-state=done] dd", timeout=60_000)
        page.frame_locator("#frame").locator("h1").wait_for(timeout=60_000)
        name = f"page-{width}-{scheme}"
        found[name] = picture(page, output / f"{name}.png", 2600)
        context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("more", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "serve")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-pictures", action="store_true")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "maury.cli", "serve", "--port", "0", "--no-browser"]
    began = time.perf_counter()
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2]
        started = time.perf_counter() - began
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(ARGUMENTS))
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("body[data-started]")
            # The models are loaded while the page is opened.
            while not page.evaluate("fetch('/api/files').then(r => r.json()).then(r => r.ready)"):
                time.sleep(0.2)
            ready = time.perf_counter() - began
            seconds = []
            for _ in range(chosen.repeat):
                # Each in a session of its own.
                fresh = browser.new_context().new_page()
                fresh.goto(address)
                fresh.wait_for_selector("body[data-started]")
                seconds.append(seconds_to_report(fresh, chosen.file, 1))
                fresh.context.close()
            found = {} if chosen.no_pictures else pictures(browser, address, chosen.file, chosen.output)
            if chosen.more and not chosen.no_pictures:
                found |= pictures_of_many(browser, address, [chosen.file, *chosen.more], chosen.output)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    figures = {
        "file": chosen.file.name,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "listening_after_s": round(started, 2),
        "ready_after_s": round(ready, 2),
        "drop_to_report_s": [round(s, 2) for s in seconds],
        "serious_findings_and_overflow": found,
    }
    (chosen.output / "seconds.json").write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
