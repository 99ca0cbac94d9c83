"""The page in a real browser, on a real server, with real inference of few draws."""

from __future__ import annotations

import io
import json
import re
import time

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from PIL import Image

from browser import drop, findings, overflow
from maury.training.demo import TRUTH

pytestmark = pytest.mark.filterwarnings("ignore:.*websockets.*:DeprecationWarning")
_WAIT = 60_000


@pytest.fixture
def visit_of(browser, served):
    """Open the page in a session of its own; what its console says must be expected."""
    opened = []

    def open_page(width=1440, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        page = context.new_page()
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(served.address)
        page.wait_for_selector("body[data-started]")
        opened.append((context, said))
        set_draws(page, 300)
        return page

    yield open_page
    for context, said in opened:
        context.close()
        assert said == []


def set_draws(page, number: int) -> None:
    """Before a file is there the field is not shown."""
    page.evaluate(f"document.querySelector('#draws').value = {number}")


def done(page, number: int):
    page.wait_for_selector(f".run[data-run='{number}'][data-state=done] dd", timeout=_WAIT)
    values = page.eval_on_selector_all(
        f".run[data-run='{number}'] dd", "nodes => nodes.map(n => [n.dataset.label, +n.dataset.p50, +n.dataset.std])"
    )  # fmt: skip
    return {name: (p50, std) for name, p50, std in values}


def test_drop_watch_change_mask_compare(visit_of, demo_bytes, tmp_path):
    page = visit_of()
    assert findings(page) == []
    drop(page, demo_bytes, "apVisit-demo.fits")
    page.wait_for_selector(".run[data-state=running] .steps li[aria-current]", timeout=_WAIT)
    first = done(page, 1)
    for name in ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini"):
        assert abs(first[name][0] - TRUTH[name]) < 5 * first[name][1], name
    assert first["v_bary"][0] == pytest.approx(first["v_rad"][0] + 12.34, abs=0.02)
    assert "maury-demo" in page.frame_locator("#frame").locator("h1").inner_text()

    # Windows that tell most, as the report has them, and the report itself, in a picture of the whole page.
    assert page.locator("#windows svg.window").count() >= 4
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    place = page.locator("#frame").bounding_box()
    assert place["height"] > 2000
    left, top = int(place["x"]) + 2, int(place["y"]) + 2
    seen = picture.crop((left, top, left + 600, top + 500)).getextrema()
    assert seen[1] - seen[0] > 100

    # A wrong prior is told at its field; a right one moves its label.
    page.select_option("#p-logg", "normal")
    page.fill("#p-logg-mean", "25")
    page.fill("#p-logg-sigma", "0.02")
    page.click("#run")
    page.wait_for_selector("#e-logg:not(:empty)")
    assert "0.5 to 5.1" in page.inner_text("#e-logg")
    assert page.get_attribute("#p-logg-mean", "aria-invalid") == "true"
    page.fill("#p-logg-mean", "2.62")
    page.select_option("#p-v_rad", "range")
    page.fill("#p-v_rad-low", "0")
    page.fill("#p-v_rad-high", "100")
    page.click("#run")
    second = done(page, 2)
    assert first["logg"][0] + first["logg"][1] < second["logg"][0] < 2.62
    assert second["logg"][1] < first["logg"][1]

    # A region by the mouse, one by the keyboard; one is taken back.
    page.click("#clear")
    set_draws(page, 300)
    box = page.locator("#plot").bounding_box()
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 90, steps=4)
    page.mouse.up()
    dragged = re.match(r"([\d.]+) to ([\d.]+) Å", page.inner_text("#regions li"))
    assert float(dragged[2]) - float(dragged[1]) == pytest.approx(0.1 * 1813, rel=0.2)
    page.focus("#from")
    page.keyboard.type("16300")
    page.keyboard.press("Tab")
    page.keyboard.type("16250")
    page.keyboard.press("Enter")
    assert "larger" in page.inner_text("#e-mask")
    page.fill("#to", "16350")
    page.keyboard.press("Enter")
    assert page.locator("#regions li").count() == 2
    page.locator("#regions button").nth(0).press("Enter")
    assert page.inner_text("#regions li").startswith("16300.00 to 16350.00")
    page.click("#run")
    third = done(page, 3)
    assert third["teff"][0] != first["teff"][0]
    assert abs(third["teff"][0] - first["teff"][0]) < 5 * first["teff"][1]

    # Beside each other: what moved, in sigma.
    moved = page.inner_text("#table td[data-label=logg][data-run='2'] small")
    expected = (second["logg"][0] - first["logg"][0]) / first["logg"][1]
    assert float(moved.split()[0]) == pytest.approx(expected, abs=0.06)
    assert page.locator("#table thead th").count() == 4

    with page.expect_download() as got:
        page.click("text=draws (netCDF)")
    path = tmp_path / got.value.suggested_filename
    assert path.name == "apVisit-demo-run3.nc"
    got.value.save_as(path)
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert np.isfinite(tree["posterior"]["teff"]).all()
    with page.expect_download() as got:
        page.click("text=numbers (JSON)")
    numbers = json.loads(got.value.path().read_text())
    assert numbers["labels"]["teff"]["p50"] == pytest.approx(third["teff"][0])
    assert numbers["wanted"]["regions"] == [[16300, 16350]]
    with page.expect_download() as got:
        page.click("text=report (HTML)")
    assert "<h1" in got.value.path().read_text()
    # Loaded anew, it is all there.
    page.reload()
    assert done(page, 3) == third
    assert findings(page) == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "dark"), (390, "light")])
def test_every_width_and_both_colours(visit_of, demo_bytes, width, scheme):
    page = visit_of(width, scheme)
    drop(page, demo_bytes, "a-rather-long-name-of-a-visit-apVisit-r13-9518-57729-104.fits")
    done(page, 1)
    assert findings(page) == []
    assert overflow(page) <= 0
    assert len(page.screenshot()) > 10_000


def test_headers_and_names_are_text(visit_of, served, demo_bytes, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    path = tmp_path / "evil.fits"
    path.write_bytes(demo_bytes)
    with fits.open(path, mode="update") as hdus:
        for key in ("OBJID", "OBJECT"):
            hdus[0].header[key] = evil
    page = visit_of()
    drop(page, path.read_bytes(), f"{evil}<script>alert(2).fits")
    done(page, 1)
    assert evil in page.inner_text("#about")
    assert evil in page.inner_text("#files")
    assert page.locator("main img, main script").count() == 0
    frame = page.frame_locator("#frame")
    assert evil in frame.locator("h1").inner_text()
    assert frame.locator("h1 img").count() == 0
    # In the page a report has no scripts; alone it has its own, but no origin, and they reach nothing.
    assert page.frames[1].locator("#theme").is_hidden()
    alone = page.context.new_page()
    alone.goto(served.address + page.get_attribute("#open", "href"))
    assert evil in alone.locator("h1").inner_text()
    assert alone.evaluate("origin") == "null"
    assert "TypeError" in alone.evaluate("fetch('/api/files').then(String, String)")


def test_what_is_refused_is_said(visit_of, served):
    page = visit_of()
    drop(page, b"Dear sir, this is a letter.\n" * 50, "letter.fits")
    page.locator("#files", has_text="refused").wait_for()
    assert "not a FITS file; it looks like text" in page.inner_text("#files tr.file:has-text('letter.fits')")
    before = sorted(served.root.iterdir())
    # 200 MB are refused by their size alone.
    page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(200 * 2 ** 20)], "big.fits"));
      dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));
    }""")
    # The page's policy forbids what would look again by a string of script.
    row = page.locator("#files tr.file", has_text="big.fits")
    row.locator("text=64 MB").wait_for()
    assert sorted(served.root.iterdir()) == before
    assert page.inner_text("#tally") == "0 of 2 done, 2 refused"
    row.get_by_role("button", name="Remove big.fits").click()
    assert page.locator("#files tr.file").count() == 1


def test_two_browsers_at_once(visit_of, demo_bytes):
    one, two = visit_of(), visit_of()
    drop(one, demo_bytes, "one.fits")
    drop(two, demo_bytes, "two.fits")
    done(one, 1)
    done(two, 1)
    assert one.locator(".file").count() == two.locator(".file").count() == 1
    assert "one.fits" in one.inner_text("#files")
    assert "two.fits" in two.inner_text("#files")


def test_closing_the_tab_midway(visit_of, served, demo_bytes):
    page = visit_of()
    set_draws(page, 20000)
    drop(page, demo_bytes, "left.fits")
    page.wait_for_selector(".run[data-state=running]", timeout=_WAIT)
    page.click("#run")
    page.wait_for_selector(".run[data-run='2']")
    page.close()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        runs = [run for run in list(served.jobs._runs.values()) if run.upload.name == "left.fits"]
        if runs and all(run.ended for run in runs):
            break
        time.sleep(0.1)
    assert runs[1].state == "cancelled"
    assert runs[0].state in ("cancelled", "done")
    # The server goes on.
    other = visit_of()
    drop(other, demo_bytes, "next.fits")
    done(other, 1)


@pytest.fixture
def quick_page(browser, quick):
    """The page on a server whose runs are done at once."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(quick[0])
    page.wait_for_selector("body[data-started]")
    yield page
    context.close()
    assert said == []


def drop_all(page, files: dict[str, bytes]) -> None:
    page.set_input_files("#file", [{"name": n, "mimeType": "", "buffer": b} for n, b in files.items()])


def test_ten_files_are_ten_rows(quick_page, demo_bytes):
    page = quick_page
    drop_all(page, {f"star-{i}.fits": demo_bytes for i in range(9)} | {"letter.txt": b"Dear sir"})
    rows = page.locator("#files tbody tr")
    # All of them are there at once, whatever becomes of them.
    assert rows.count() == 10
    page.locator("#tally", has_text="9 of 10 done, 1 refused").wait_for(timeout=_WAIT)
    assert page.locator("#files tbody tr", has_text="Verified, but flagged").count() == 9
    assert "< 4.5" in rows.nth(0).inner_text()
    # Each ran once, and the first is open, its verdict in the window.
    assert page.locator(".run").count() == 1
    assert page.get_attribute("#files button[aria-pressed=true]", "data-file")
    said = page.locator(".run .said").bounding_box()
    assert said["y"] + said["height"] < 900

    # Sorted by a number, either way and not at all; what has none stands last.
    def kelvins():
        return [
            float(t.split(" ±")[0])
            for t in page.locator("#files tbody td:nth-child(5)").all_inner_texts()
            if "±" in t
        ]

    page.click("#files .sort[data-key=teff]")
    page.click("#files .sort[data-key=teff]")
    assert kelvins() == sorted(kelvins(), reverse=True)
    assert page.get_attribute("#files th[aria-sort]", "aria-sort") == "descending"
    assert "letter.txt" in rows.nth(9).inner_text()
    with page.expect_download() as got:
        page.click("#zip")
    assert got.value.suggested_filename == "maury-results.zip"
    assert findings(page) == []


def test_cancel_all(quick_page, quick, demo_bytes):
    page, work = quick_page, quick[1]
    work.gate.clear()
    drop_all(page, {f"star-{i}.fits": demo_bytes for i in range(3)})
    page.locator("#files tbody", has_text="waits for 2 others").wait_for(timeout=_WAIT)
    page.click("#cancel-all")
    page.locator("#files tbody tr", has_text="cancelled").nth(2).wait_for(timeout=_WAIT)
    assert page.locator("#cancel-all").is_hidden()


def test_a_message_comes_once_and_after_the_field(quick_page, demo_bytes):
    page = quick_page
    drop_all(page, {"star.fits": demo_bytes})
    page.locator("#files", has_text="done").wait_for(timeout=_WAIT)
    page.select_option("#p-logg", "range")
    page.focus("#p-logg-low")
    page.keyboard.type("77")
    assert page.inner_text("#e-logg") == ""
    page.keyboard.press("Tab")
    assert page.inner_text("#e-logg") == "must lie in the model's range, 0.5 to 5.1"
    page.keyboard.type("88")
    page.keyboard.press("Tab")
    # Two fields with the same fault.
    assert page.inner_text("#e-logg") == "must lie in the model's range, 0.5 to 5.1"
    assert page.locator("[aria-invalid=true]").count() == 2
    page.fill("#p-logg-low", "2")
    page.fill("#p-logg-high", "3")
    assert page.inner_text("#e-logg") == ""
    assert page.locator("[aria-invalid=true]").count() == 0
    page.fill("#draws", "7.5")
    page.focus("#seed")
    assert "whole number, 100 to 20000" in page.inner_text("#e-draws")
    page.click("#run")
    assert page.locator(".run").count() == 1


def test_a_page_that_is_loaded_again_is_as_it_was(quick_page, demo_bytes):
    page = quick_page
    drop_all(page, {"one.fits": demo_bytes, "two.fits": demo_bytes, "letter.txt": b"Dear sir"})
    page.locator("#tally", has_text="2 of 3 done").wait_for(timeout=_WAIT)
    page.click("#files button:has-text('two.fits')")
    page.select_option("#p-logg", "normal")
    page.fill("#p-logg-mean", "2.5")
    page.fill("#p-logg-sigma", "0.1")
    page.fill("#draws", "500")
    page.fill("#from", "16100")
    page.fill("#to", "16150")
    page.press("#to", "Enter")
    page.click("#files .sort[data-key=name]")
    page.click("#run")
    page.wait_for_selector(".run[data-run='2'][data-state=done] dd")
    page.reload()
    page.wait_for_selector("body[data-started]")
    assert page.input_value("#p-logg-mean") == "2.5"
    assert page.input_value("#p-logg-sigma") == "0.1"
    assert page.input_value("#draws") == "500"
    assert page.inner_text("#regions li").startswith("16100.00 to 16150.00")
    assert page.inner_text("#files button[aria-pressed=true]") == "two.fits"
    page.wait_for_selector(".run[data-run='2'].chosen dd")
    assert "letter.txt" in page.inner_text("#files")
    assert page.get_attribute("#files th[aria-sort]", "aria-sort") == "ascending"
