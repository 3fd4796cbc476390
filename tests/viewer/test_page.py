"""The page in a real Chromium, with pointer, finger and keys."""

from __future__ import annotations

import numpy as np
import pytest

from sohes import masks
from sohes.bench.viewer import Nested, chromium, serving
from sohes.errors import SohesError
from sohes.viewer.gallery import Picture

SIZE = 100
WHOLE, PART, SUBPART, OTHER = range(4)


def layer(scores=(0.9, 0.6, 0.3, 0.5)):
    """A whole on the left with a part and a subpart nested in it, another whole on the right."""
    drawn = np.zeros((4, SIZE, SIZE), bool)
    drawn[WHOLE, 10:90, 5:45] = True
    drawn[PART, 20:60, 10:40] = True
    drawn[SUBPART, 30:40, 20:30] = True
    drawn[OTHER, 10:90, 55:95] = True
    return masks.mask_set(drawn, scores=np.array(scores), parents=np.array([-1, WHOLE, PART, -1]))


class Four:
    """One picture with ground truth and all phases."""

    names = ("four",)

    def read(self, place):
        found = dict.fromkeys(("ground truth", "explore", "instruct", "correct"), layer())
        return Picture(np.full((SIZE, SIZE, 3), 128, np.uint8), found)


class Phases:
    """Two pictures: one with ground truth and two phases, one with a single layer."""

    names = ("three", "one")

    def read(self, place):
        found = {"ground truth": layer((1, 1, 1, 1)), "instruct": layer(), "correct": layer()}
        return Picture(np.full((SIZE, SIZE, 3), 128, np.uint8), found if place == 0 else {"masks": layer()})


class Lone:
    """One picture with one layer."""

    names = ("lone",)

    def __init__(self, found):
        self.found = found

    def read(self, place):
        return Picture(np.full((SIZE, SIZE, 3), 128, np.uint8), {"masks": self.found})


@pytest.fixture(scope="module")
def browser():
    try:
        with chromium() as opened:
            yield opened
    except SohesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def address():
    with serving(Phases(), title="test") as served:
        yield served


@pytest.fixture
def open_page(browser, address):
    """Opens the page. At the end, the console must be empty and no other machine contacted."""
    pages, said, asked = [], [], []

    def open_it(url: str = "", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url or address)
        page.wait_for_selector("body[data-ready=yes]")
        pages.append(context)
        return page

    yield open_it
    for context in pages:
        context.close()
    assert [words for words in said if "willReadFrequently" not in words] == []  # caused by `lit` below
    assert asked
    assert {url.split("/")[2].rpartition(":")[0] for url in asked} == {"127.0.0.1"}


def at(page, x: int, y: int, panel: str = "correct") -> tuple[float, float]:
    """The position in the window of a panel's pixel (x, y)."""
    box = page.locator(".panel", has_text=panel).locator(".light").bounding_box()
    return box["x"] + (x + 0.5) * box["width"] / SIZE, box["y"] + (y + 0.5) * box["height"] / SIZE


def settle(page) -> None:
    """Wait until the next frame has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def lit(page, panel: str = "correct") -> np.ndarray:
    """(H, W) bool: the pixels that are highlighted in a panel."""
    script = (
        "(c) => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 == 3))"
    )
    alpha = page.locator(".panel", has_text=panel).locator(".light").evaluate(script)
    return np.array(alpha).reshape(SIZE, SIZE) > 0


def drawn(mask: int) -> np.ndarray:
    return masks.decode(layer())[mask]


def selected(page) -> list[str]:
    return page.locator(".row[aria-selected=true] span:first-child").all_text_contents()


def test_hovering_highlights_the_smallest_mask_under_the_pointer_in_every_panel(open_page):
    page = open_page()
    for (x, y), mask in {(25, 35): SUBPART, (15, 50): PART, (8, 80): WHOLE, (70, 50): OTHER}.items():
        page.mouse.move(*at(page, x, y))
        settle(page)
        for panel in ("instruct", "correct", "ground truth"):
            assert np.array_equal(lit(page, panel), drawn(mask)), (mask, panel)
    page.mouse.move(*at(page, 50, 50))
    settle(page)
    assert not lit(page).any()


def test_clicking_walks_up_to_the_parent_and_back_to_the_smallest(open_page):
    page = open_page()
    place = at(page, 25, 35)
    for expected in ("subpart 3", "part 2", "whole 1", "subpart 3"):
        page.mouse.click(*place)
        assert selected(page) == [expected]
    assert page.locator("#said").inner_text().startswith("1 \u203a 2 \u203a 3 ")
    page.mouse.click(*at(page, 50, 50))
    assert selected(page) == []


def by_click(page):
    for _ in range(2):
        page.mouse.click(*at(page, 25, 35))


def by_row(page):
    page.locator(".row", has_text="part 2").first.click()


def by_key(page):
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)


@pytest.mark.parametrize("select", [by_click, by_row, by_key])
def test_a_selection_wins_over_the_pointer_until_it_is_left(open_page, select):
    page = open_page()
    select(page)
    told = page.locator("#said").inner_text()
    assert told.startswith("1 \u203a 2 \u00b7 ")
    assert told.endswith("selected")
    for x, y in ((26, 35), (25, 36), (8, 80), (50, 50)):  # on its part, its parent, and none
        page.mouse.move(*at(page, x, y))
        settle(page)
        assert np.array_equal(lit(page) & drawn(PART), drawn(PART)), (x, y)
        assert (page.locator("#said").inner_text(), selected(page)) == (told, ["part 2"])
    page.mouse.move(*at(page, 70, 50, panel="instruct"))
    settle(page)
    outline = lit(page) & ~drawn(PART)  # of what a click would select
    assert 0 < outline.sum() < drawn(OTHER).sum() / 4
    assert not (outline & ~drawn(OTHER)).any()
    assert np.array_equal(lit(page, "instruct"), drawn(OTHER))  # to compare
    assert (page.locator("#said").inner_text(), selected(page)) == (told, ["part 2"])

    page.keyboard.press("Escape")
    page.mouse.move(*at(page, 71, 50, panel="instruct"))
    settle(page)
    assert page.locator("#said").inner_text().startswith("4 \u00b7 ")
    assert np.array_equal(lit(page), drawn(OTHER))
    assert page.locator(".panel.active figcaption").inner_text() == "instruct: 4 masks"


def test_a_click_elsewhere_leaves_a_selection_and_so_does_hiding_it(open_page):
    page = open_page()
    page.mouse.click(*at(page, 8, 80))
    page.mouse.click(*at(page, 70, 50, panel="instruct"))
    assert selected(page) == ["whole 4"]
    page.mouse.move(*at(page, 50, 50, panel="instruct"))
    settle(page)
    assert not lit(page).any()
    assert np.array_equal(lit(page, "instruct"), drawn(OTHER))
    page.locator("#score").fill("0.55")
    assert selected(page) == []
    assert not lit(page, "instruct").any()


def test_counts_and_paths_are_those_of_the_masks_that_are_shown(open_page):
    with serving(Lone(layer((0.9, 0.2, 0.6, 0.5))), title="hidden") as address:
        page = open_page(address)
        page.locator("#score").fill("0.3")  # the part in between is hidden
        rows = page.locator(".row")
        assert [row.get_attribute("aria-level") for row in rows.all()] == ["1", "2", "1"]
        rows.first.click()
        assert page.locator("#said").inner_text().split(" \u00b7 ")[-2] == "1 part (1 hidden)"
        page.keyboard.press("ArrowDown")
        assert selected(page) == ["subpart 3"]
        assert page.locator("#said").inner_text().startswith("1 \u203a 3 \u00b7 ")
        page.locator("#score").fill("0")
        rows.first.click()
        assert page.locator("#said").inner_text().split(" \u00b7 ")[-2] == "1 part"
        assert page.locator("figcaption").inner_text() == "4 masks"


@pytest.mark.parametrize(("scores", "told"), [((1, 1, 1, 1), False), ((0.2,) * 4, False), ((0.9, 0.9, 0.9, 1), True)])
def test_scores_are_shown_only_if_they_tell_masks_apart(open_page, scores, told):
    with serving(Lone(layer(scores)), title="scores") as address:
        page = open_page(address)
        assert page.locator("figcaption").inner_text() == "4 masks"  # none is hidden for a score that all have
        assert page.locator("#score").is_visible() == told
        assert page.locator("#score-head").is_visible() == told
        cells = ["whole 1", "32.0 %", "0.90"] if told else ["whole 1", "32.0 %"]
        assert page.locator(".row").first.locator("span").all_inner_texts() == cells
        page.locator(".row").first.click()
        assert ("score" in page.locator("#said").inner_text()) == told


def test_a_slider_that_changes_nothing_is_not_shown(open_page):
    flat = masks.mask_set(masks.decode(layer())[[WHOLE, OTHER]], scores=np.array([0.9, 0.5]))
    with serving(Lone(flat), title="flat") as address:
        page = open_page(address)
        assert not page.locator("#level").is_visible()
        assert page.locator("#score").is_visible()
    page = open_page()
    assert page.locator("#level").is_visible()
    assert page.locator("#score").is_visible()  # the ground truth has no scores, but the phases do
    for phase in ("instruct", "correct"):
        page.get_by_role("checkbox", name=phase).uncheck()
    assert not page.locator("#score").is_visible()


def test_the_tree_shows_parents_before_their_parts_and_selects(open_page):
    page = open_page()
    rows = page.locator(".row")
    assert rows.locator("span:first-child").all_inner_texts() == ["whole 1", "part 2", "subpart 3", "whole 4"]
    assert [row.get_attribute("aria-level") for row in rows.all()] == ["1", "2", "3", "1"]
    rows.nth(1).click()
    assert np.array_equal(lit(page), drawn(PART))


def test_a_part_of_any_depth_and_number_has_one_line_and_its_figures_stand_in_columns(open_page):
    few, depth = 110, 12
    drawn = np.zeros((few + depth, SIZE, SIZE), bool)
    drawn[np.arange(few), SIZE - 1, np.arange(few) % SIZE] = True
    for k in range(depth):
        drawn[few + k, k : 90 - k, k : 90 - k] = True
    parents = np.r_[np.full(few, -1), -1, few + np.arange(depth - 1)]
    with serving(
        Lone(masks.mask_set(drawn, scores=np.linspace(0.5, 0.9, len(drawn)), parents=parents)), title="t"
    ) as url:
        page = open_page(url)
        sizes = page.evaluate(
            """[...document.querySelectorAll(".row")].slice(0, 12).map((row) => {
              const [name, area, score] = row.children;
              const edges = [area, score].map((cell) => cell.getBoundingClientRect().right);
              return [name.textContent, name.scrollWidth - name.clientWidth, row.clientHeight, ...edges];
            })"""
        )
    names, cut, *boxes = zip(*sizes, strict=True)
    assert names[-1] == f"subpart {few + depth}"
    assert max(cut) <= 0
    assert all(len(set(same)) == 1 for same in boxes)


def test_the_keyboard_walks_the_forest_and_turns_the_pages(open_page):
    page = open_page()
    walk = {
        "ArrowDown": "whole 1", "ArrowRight": "part 2", "ArrowUp": "whole 1", "ArrowLeft": "whole 4",
    }  # fmt: skip
    for key, expected in walk.items():
        page.keyboard.press(key)
        assert selected(page) == [expected], key
    page.keyboard.press("Escape")
    assert selected(page) == []
    page.keyboard.press("n")
    page.wait_for_selector(".panel:only-child")
    assert page.locator("#picture").input_value() == "1"
    page.keyboard.press("p")
    page.wait_for_selector(".panel:nth-child(3)")


def test_parent_of_a_whole_entity_is_itself(open_page):
    page = open_page()
    page.locator(".row").last.click()
    for _ in range(2):
        page.keyboard.press("ArrowUp")
        assert selected(page) == ["whole 4"]


def test_a_slider_keeps_its_own_keys_and_leaves_the_others_to_the_page(open_page):
    page = open_page()
    page.locator(".row").last.click()
    page.locator("#score").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#score-value").inner_text() == "0.01"
    assert selected(page) == ["whole 4"]
    page.keyboard.press("Escape")
    assert selected(page) == []
    page.keyboard.press("t")
    assert not page.locator(".panel", has_text="ground truth").is_visible()
    page.keyboard.press("n")
    page.wait_for_selector(".panel:only-child")


def test_the_help_names_the_key_for_the_ground_truth_only_if_there_is_one(open_page):
    page = open_page()
    assert page.locator(".help").inner_text().endswith("pictures, t the ground truth.")
    page.keyboard.press("n")
    page.wait_for_selector(".panel:only-child")
    assert page.locator(".help").inner_text().endswith("pictures.")
    page.keyboard.press("t")
    assert page.locator(".panel").is_visible()


def test_the_sliders_hide_masks_but_the_score_slider_no_ground_truth(open_page):
    page = open_page()
    page.locator("#score").fill("0.55")
    assert page.locator("figcaption").all_inner_texts() == [
        "ground truth: 4 masks", "instruct: 2 of 4 masks", "correct: 2 of 4 masks",
    ]  # fmt: skip
    page.mouse.move(*at(page, 25, 35))
    settle(page)
    assert np.array_equal(lit(page), drawn(PART))  # the subpart has too low a score
    page.locator("#score").fill("0")
    page.locator("#level").fill("0")
    assert page.locator("#level-value").inner_text() == "whole entities"
    assert page.locator("figcaption").all_inner_texts()[0] == "ground truth: 2 of 4 masks"
    page.mouse.move(*at(page, 26, 35))
    settle(page)
    assert np.array_equal(lit(page), drawn(WHOLE))


def test_layers_are_side_by_side_and_can_be_switched_off(open_page):
    page = open_page()
    boxes = [panel.bounding_box() for panel in page.locator(".panel").all()]
    assert len({box["y"] for box in boxes}) == 1
    assert len({box["x"] for box in boxes}) == 3
    page.keyboard.press("t")
    assert not page.locator(".panel", has_text="ground truth").is_visible()
    page.get_by_label("instruct").uncheck()
    assert page.locator(".panel:visible").count() == 1
    assert page.locator(".panel:visible").bounding_box()["width"] > 1.5 * boxes[0]["width"]  # limited by the height
    page.keyboard.press("t")
    assert page.locator(".panel", has_text="ground truth").is_visible()


def test_panels_use_two_rows_if_that_makes_them_larger(open_page):
    with serving(Four(), title="four") as address:
        page = open_page(address, viewport={"width": 1280, "height": 900})
        boxes = [panel.bounding_box() for panel in page.locator(".panel").all()]
        assert (len({box["x"] for box in boxes}), len({box["y"] for box in boxes})) == (2, 2)
        assert min(box["width"] for box in boxes) > 300  # 234 in a row
        assert page.locator(".pictures").evaluate("(e) => e.scrollHeight <= e.clientHeight")
        page.set_viewport_size({"width": 1600, "height": 700})
        settle(page)
        assert len({panel.bounding_box()["y"] for panel in page.locator(".panel").all()}) == 1


def test_a_finger_selects_on_a_phone_and_nothing_is_wider_than_the_screen(open_page):
    page = open_page(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    for panel in ("ground truth", "correct"):
        page.locator(".panel", has_text=panel).scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        for expected in ("subpart 3", "part 2"):
            page.touchscreen.tap(*at(page, 25, 35, panel))
            assert selected(page) == [expected]
            settle(page)
        assert page.evaluate("scrollY") == before  # still at the picture, with the sentence in sight
        said = page.locator("#said").bounding_box()
        assert 0 <= said["y"] <= 800 - said["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(("scheme", "brightness"), [("light", range(200, 256)), ("dark", range(0, 60))])
def test_it_follows_the_systems_colour_scheme(open_page, scheme, brightness):
    page = open_page(color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) in brightness for part in colour.removeprefix("rgb(").rstrip(")").split(","))


def test_a_thousand_masks_are_found_under_the_pointer(open_page):
    gallery = Nested(1000, 128)
    with serving(gallery, title="many") as many:
        page = open_page(many)
        page.locator("#score").fill("0")
        box = page.locator(".light").bounding_box()
        found = gallery.picture.layers["masks"]
        dense = masks.decode(found)
        area = dense.sum((1, 2))
        for x, y in ((20, 30), (64, 64), (100, 90)):
            page.mouse.move(box["x"] + (x + 0.5) * box["width"] / 128, box["y"] + (y + 0.5) * box["height"] / 128)
            settle(page)
            under = np.flatnonzero(dense[:, y, x])
            hovered = page.evaluate("sohes.active.hovered")
            assert area[hovered] == area[under].min()


def test_weak_masks_are_hidden_at_first_if_enough_are_strong(open_page):
    with serving(Nested(30, 64), title="ellipses") as address:
        page = open_page(url=address)
        strong = int((Nested(30, 64).picture.layers["masks"].scores >= 0.4).sum())
        assert 10 <= strong < 30
        assert page.locator("#score-value").inner_text() == "0.40"
        assert page.locator("figcaption").all_inner_texts() == [f"{strong} of 30 masks"]
    assert open_page().locator("#score-value").inner_text() == "0.00"  # only four masks: none is hidden


@pytest.mark.parametrize(("keys", "panels"), [("n", 3), ("nn", 1)], ids=["another", "the same once more"])
def test_a_late_failure_leaves_the_picture_that_was_opened_meanwhile(open_page, keys, panels):
    page = open_page()
    held = []
    page.route("**/picture/1.json", lambda route: held.append(route), times=1)
    with page.expect_request("**/picture/1.json"):
        page.keyboard.press("n")
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_selector("body[data-ready=yes]")
    with page.expect_event("requestfinished"):
        held[0].fulfill(body="no JSON")
    settle(page)
    assert page.locator(".panel").count() == panels
    assert not page.locator("#problem").is_visible()
