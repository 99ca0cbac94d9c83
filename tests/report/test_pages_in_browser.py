"""Pages in a real browser: they open without a network, react, and can be read by everyone."""

from contextlib import contextmanager

import pytest
from made_surveys import HOSTILE, make_survey

from browser import findings, overflow
from maury.report.folder import report
from maury.report.star import star_page

SIZES = ((1440, 900), (390, 844))


@pytest.fixture(scope="module")
def star(posterior, tmp_path_factory):
    path = tmp_path_factory.mktemp("star") / "star.html"
    path.write_text(star_page(posterior))
    return path


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return report(make_survey(tmp_path_factory.mktemp("survey") / "s", 70))[0]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    return report(make_survey(tmp_path_factory.mktemp("crowd") / "s", 5000))[0]


@contextmanager
def opened(browser, path, size=SIZES[0], scheme="light"):
    """Open a page; whatever it writes to the console or asks the network for fails the test."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert not said
    assert all(url.startswith("file:") for url in asked)
    assert len(asked) == 1


def view(page):
    box = page.locator("#spectrum")
    return float(box.get_attribute("data-from")), float(box.get_attribute("data-to"))


def painted(page, selector):
    """Return how many colours a canvas shows."""
    return page.evaluate(
        """(selector) => { const c = document.querySelector(selector);
        return new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size; }""",
        selector,
    )


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["star", "survey"])
def test_everyone_can_read_it(browser, request, kind, scheme, size):
    with opened(browser, request.getfixturevalue(kind), size, scheme) as page:
        if kind == "survey":
            page.locator("#table tbody button").nth(1).click()
        assert findings(page) == []
        assert overflow(page) <= 0
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")


def test_header_text_is_shown_and_not_run(browser, star, posterior):
    with opened(browser, star) as page:
        assert page.locator("h1").inner_text() == posterior.spectrum.id
        assert page.title() == f"{posterior.spectrum.id}: maury"


def test_numbers_can_be_read(browser, star, posterior):
    with opened(browser, star) as page:
        text = page.locator('tr[data-label="teff"] .median').inner_text()
        assert float(text) == pytest.approx(posterior.summary()["teff"]["p50"], abs=0.6)


def test_spectrum_is_drawn_and_zooms_with_the_mouse(browser, star, posterior):
    wavelength = posterior.spectrum.grid.wavelength
    with opened(browser, star) as page:
        assert painted(page, "#spectrum-canvas") > 20
        whole = view(page)
        assert whole == pytest.approx((wavelength[0], wavelength[-1]), abs=0.01)
        box = page.locator("#spectrum")
        box.scroll_into_view_if_needed()
        place = box.bounding_box()
        y = place["y"] + 100
        page.mouse.move(place["x"] + 300, y)
        page.mouse.down()
        page.mouse.move(place["x"] + 400, y, steps=4)
        page.mouse.up()
        zoomed = view(page)
        assert zoomed[1] - zoomed[0] == pytest.approx(100 / place["width"] * (whole[1] - whole[0]), rel=0.1)
        assert "Å (at rest" in page.locator("#readout").inner_text()
        page.mouse.dblclick(place["x"] + 300, y)
        assert view(page) == whole
        page.get_by_role("button", name="green chip").click()
        a, b = posterior.spectrum.grid.chips[1]
        assert view(page) == pytest.approx((wavelength[a], wavelength[b - 1]), abs=0.01)
        assert page.get_by_role("button", name="green chip").get_attribute("aria-pressed") == "true"


def test_spectrum_is_read_with_the_keyboard(browser, star):
    with opened(browser, star) as page:
        page.locator("#spectrum").focus()
        page.keyboard.press("1")
        page.keyboard.press("+")
        first = view(page)
        assert first[1] - first[0] < 400
        page.keyboard.press("0")
        page.keyboard.press("n")
        readout = page.locator("#readout")
        near = readout.inner_text()
        assert "residual" in near or "masked" in near
        page.keyboard.press("ArrowRight")
        assert readout.inner_text() != near


def test_a_line_is_found_where_the_star_has_it(browser, star):
    with opened(browser, star) as page:
        option = page.locator("#goto optgroup[label='Mg I'] option").first
        page.select_option("#goto", option.get_attribute("value"))
        a, b = view(page)
        assert (a + b) / 2 == pytest.approx(15744.9 * (1 + 41.67 / 299792.458), abs=0.2)
        assert "Mg I 15744.9" in page.locator("#readout").inner_text()


def test_colours_can_be_chosen(browser, star):
    with opened(browser, star) as page:
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        button = page.locator("#theme")
        button.click(), button.click()
        assert "dark" in button.inner_text()
        assert page.evaluate(colour) != light


def test_paper_has_every_chip(browser, star):
    with opened(browser, star, scheme="dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#paper canvas").count() == 3
        assert painted(page, "#paper canvas") > 20
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert len(page.pdf()) > 50_000


def test_a_surveys_stars_are_searched_sorted_and_opened(browser, survey):
    with opened(browser, survey) as page:
        names = page.locator("#table tbody th")
        assert names.count() == 50
        assert names.first.inner_text() == HOSTILE
        page.fill("#search", "2M0000012")
        assert names.all_inner_texts() == ["2M0000012"]
        page.locator("#table tbody button").first.click()
        card = page.locator("#card")
        assert "2M0000012" in card.inner_text()
        assert "apVisit-12.fits" in card.inner_text()
        page.fill("#search", "")
        page.get_by_role("button", name="Teff").click()
        values = [
            float(t.split(" ±")[0]) for t in page.locator("#table tbody td:nth-child(4)").all_inner_texts()
        ]
        assert values == sorted(values)
        page.get_by_role("button", name="next").click()
        assert "page 2" in page.locator("#pages").inner_text()


def test_a_point_leads_to_its_star(browser, survey):
    with opened(browser, survey) as page:
        plot = page.locator('[data-plot="kiel"]')
        plot.scroll_into_view_if_needed()
        place = plot.bounding_box()
        card = page.locator("#card")
        assert card.is_hidden()
        # Along the giant branch some click meets a star.
        for share in range(10, 90, 4):
            page.mouse.click(place["x"] + place["width"] * 0.6, place["y"] + place["height"] * share / 100)
            if card.is_visible():
                break
        assert card.is_visible()


def test_a_crowd_is_counted(browser, crowd):
    with opened(browser, crowd) as page:
        assert painted(page, '[data-plot="kiel"] canvas') > 20
        plot = page.locator('[data-plot="sky"]')
        plot.scroll_into_view_if_needed()
        plot.hover()
        assert "stars here" in page.locator('[data-read="sky"]').inner_text()
        assert "of 3000" in page.locator("#found").inner_text()
