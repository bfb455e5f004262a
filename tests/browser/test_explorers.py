"""Every explorer as a reader meets it: keyboard, mouse, search, themes and widths; what the page shows follows, and nothing goes wrong."""

import pytest

KINDS = ("latent", "lobes", "crystals", "match", "darkmatter")
pytestmark = pytest.mark.timeout(1800)  # a minute or two on a quiet machine


@pytest.fixture(scope="module")
def book(open_book):
    """The notebook with every explorer, run to its end; what went wrong in which cell, and elsewhere."""
    yield from open_book("explorer_cells")


def test_the_notebook_runs(book):
    assert {name: wrong for name, wrong in book.items() if wrong} == {}


def test_latent(panel, desk):
    shown = panel.part("texts", ".peak")
    desk.until("latent.state()['examples']", 5)
    before = panel.root.locator(".wb-latent-texts .peak").count()
    panel.slide("examples", "ArrowRight")
    desk.until("latent.state()['examples']", 6)
    assert before == 5
    panel.page.wait_for_function("() => document.querySelectorAll('.wb-latent-texts .peak').length === 6")

    panel.type("search", "value")
    desk.until("latent.latent % 16", 6)  # the latents of that word
    assert " value" in shown.inner_text() or "value" in shown.inner_text()
    found = desk.ask("latent.listed")
    assert len(found) > 10
    assert {number % 16 for number in found} == {6}

    panel.click("map", 1234)
    desk.until("latent.latent", 1234)
    assert panel.part("latent", "input").input_value() == "1234"
    panel.says("detail", "1234")
    assert shown.inner_text().strip() == "print"  # the word of latents 2, 18, 34 and so on

    side = 57  # the square root of 3,200, rounded up
    caught = sorted(side * y + x for y in (10, 11) for x in (10, 11, 12))
    panel.lasso("map", [(9.5, 9.5), (12.5, 9.5), (12.5, 11.5), (9.5, 11.5)])
    desk.until("sorted(latent.listed)", caught)
    assert panel.root.locator(".wb-latent-table tbody tr").count() == 6

    panel.part("next", "").click()
    desk.until("latent.latent in latent.listed", True)
    panel.choose("colour", "lobe")
    desk.until("latent.state()['colour']", "lobe")
    panel.page.wait_for_function("() => document.querySelectorAll('.wb-latent-map .legendtext').length >= 3")  # an entry for each lobe
    panel.type("search", "no such token")
    panel.root.locator(".wb-error[role=alert]").wait_for()
    assert "no such token" in panel.error()
    assert "To mend it" in panel.error()
    panel.type("search", "17")
    desk.until("latent.latent", 17)
    assert panel.error() == ""


def test_lobes(panel, desk):
    before = panel.words("agreement")
    panel.choose("n-lobes", "4")
    desk.until("lobes.state()['n_lobes']", 4)
    panel.page.wait_for_function("() => document.querySelectorAll('.wb-lobes-lobes tbody tr').length === 4")
    assert panel.words("agreement") != before
    panel.part("affinity", "select").select_option(index=1)
    desk.until("lobes.state()['affinity'] != 'phi'", True)
    desk.until("(lobes.wait() is lobes) and lobes.working", False)
    panel.type("alone", "2")
    desk.until("lobes.state()['alone']", 2)
    panel.says("latents", "Latents of lobe 2")
    panel.choose("heat", "categories of text")
    desk.until("lobes.state()['heat']", "categories of text")
    panel.says("map", "prose")


def test_crystals(panel, desk):
    before = panel.words("scores")
    panel.slide("components", "ArrowLeft")
    desk.until("crystals.state()['components']", 3)
    panel.changed("scores", before)
    assert "3 components" in panel.words("scores")
    panel.choose("relation", "capital")
    desk.until("crystals.state()['relation']", "capital")
    panel.says("pairs", "Pairs of capital")
    assert panel.root.locator(".wb-crystals-pairs tbody tr").count() == 14
    panel.choose("layer", "layer 2")
    desk.until("(crystals.wait() is crystals) and crystals.working", False)
    panel.says("planes", "layer 2")


def test_match(panel, desk):
    before = panel.words("summary")
    panel.part("threshold", ".noUi-handle").focus()
    for _ in range(3):
        panel.page.keyboard.press("PageUp")
    panel.changed("summary", before)
    assert desk.ask("match.state()['threshold']") > 0.7
    panel.click("maps", 11)
    desk.until("match.state()['latent']", 11)
    assert "–" in panel.words("pair") or "no partner" in panel.words("pair")
    panel.choose("listed", "orphans: seed 1")
    desk.until("match.state()['listed']", "orphans 1")
    panel.part("picker", "select").focus()
    panel.page.keyboard.press("ArrowDown")
    panel.page.keyboard.press("ArrowDown")
    desk.until("match.state()['side']", 1)
    panel.says("pair", "seed 1")


def test_darkmatter(panel, desk):
    assert "value" in panel.words("picker")  # the word whose error was planted
    before = panel.words("text")
    panel.part("picker", "select").focus()
    panel.page.keyboard.press("ArrowDown")
    panel.changed("text", before)
    panel.slide("window", "ArrowLeft")
    desk.until("darkmatter.state()['window']", 19)
    panel.choose("sae", "wide")
    desk.until("darkmatter.state()['sae']", "wide")
    panel.says("bars", "wide")
    panel.click("bars", None, x=3, y=0.1)
    desk.until("darkmatter.state()['token'] >= 0", True)


def test_every_explorer_is_legible_in_both_themes_and_at_both_widths(book, desk, views):
    views([kind for kind in KINDS if not book[kind]])
