"""The page's frame: the prompt, the address, the keys, the words; and that everybody can use it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

VIEWS = ["next", "writing", "surprise", "layers", "attention", "characters", "growing", "guess"]
PROMPT = "ROMEO:\nWhat is it"
Open = Callable[..., Any]


@pytest.fixture
def visit(watched: Any, play: Any) -> Open:
    """Open a view of the shipped model, with the state that the address is to hold."""

    def visit(view: str = "next", prompt: str = PROMPT, state: dict[str, Any] | None = None, **options: Any) -> Any:
        page = watched(f"{play.address}&{urlencode({'view': view, 'prompt': prompt, **(state or {})})}", **options)
        page.locator(f"#{view}-title").wait_for()
        at(page, "of at most")
        return page

    return visit


def at(page: Any, text: str) -> None:
    """Wait until the line under the prompt has a text."""
    page.locator("#prompt-at").filter(has_text=text).wait_for()


def test_the_prompt_shows_characters_with_their_ids(visit: Open) -> None:
    """Every character has a cell with its visible form and its id, and the last one is chosen."""
    page = visit()
    cells = page.locator(".cell")
    assert cells.count() == len(PROMPT)
    assert cells.nth(0).inner_text().split() == ["R", "30"]
    assert cells.nth(6).inner_text().split() == ["⏎", "0"]
    assert cells.nth(11).locator("span").inner_text() == "·"
    assert "chosen" in cells.last.get_attribute("class")


def test_typing_changes_everything_below(visit: Open) -> None:
    """What is typed is read at once, at the caret: the caret's character is the chosen position."""
    page = visit(prompt="ROMEO")
    page.locator("#prompt-text").press("End")
    page.keyboard.type(":")
    at(page, "“:”, position 5, id 10, surprise")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    at(page, "“E”, position 3")
    page.keyboard.type("X")
    at(page, "“X”, position 4")
    assert page.locator("#prompt-text").input_value() == "ROMEXO:"
    page.keyboard.press("Backspace")
    at(page, "“E”, position 3")
    assert page.locator("#prompt-text").input_value() == "ROMEO:"


def test_a_click_on_a_character_chooses_it(visit: Open) -> None:
    """A click selects a position, and the arrow keys go on from there."""
    page = visit()
    page.locator(".cell").nth(2).click()
    at(page, "“M”, position 2")
    page.keyboard.press("ArrowRight")
    at(page, "“E”, position 3")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    at(page, "“O”, position 4")


def test_what_the_model_does_not_know_is_said_and_nothing_is_lost(visit: Open) -> None:
    """A character outside the vocabulary is marked, one line names it, and the prompt stays to be mended."""
    from playwright.sync_api import expect

    page = visit(prompt="ROMEO")
    page.locator("#prompt-text").press("End")
    page.keyboard.insert_text("é")
    page.locator("#trouble").filter(has_text="é").wait_for()
    page.locator(".cell.unknown").first.wait_for()
    assert page.locator(".cell.unknown").count() == 1
    assert page.locator("#prompt-text").input_value() == "ROMEOé"
    page.keyboard.press("Backspace")
    expect(page.locator("#trouble")).to_be_empty()


def test_text_reaches_the_page_as_text(visit: Open) -> None:
    """Markup in the prompt, the address or an answer is shown, never obeyed."""
    page = visit(prompt="ROMEO")
    page.locator("#prompt-text").fill("<img src=x onerror=alert(1)>")
    page.locator("#trouble").filter(has_text="does not know").wait_for()
    assert page.locator("#prompt img, #trouble img").count() == 0
    assert page.locator(".cell").first.locator("span").inner_text() == "<"


def test_the_address_holds_what_is_seen(visit: Open, watched: Any) -> None:
    """A link reproduces view, prompt, position, head, settings and seed."""
    from playwright.sync_api import expect

    page = visit()
    page.locator(".cell").nth(4).click()
    page.get_by_label("top-k").fill("7")
    page.locator("#seed").fill("12")
    page.locator("nav a").nth(4).click()
    page.locator("#head").select_option("1.2")
    expect(page).to_have_url(re.compile("head=1.2"))
    again = watched(page.url)
    at(again, "position 4")
    assert again.locator("#attention-title").is_visible()
    assert again.locator("#head").input_value() == "1.2"
    again.locator("nav a").first.click()
    assert again.get_by_label("top-k").input_value() == "7"
    assert again.locator("#seed").input_value() == "12"


def test_back_and_forward_go_through_views_and_forks(visit: Open) -> None:
    """What was appended comes off with "back", and a view is left the way it was entered."""
    from playwright.sync_api import expect

    page = visit(prompt="ROME")
    page.locator(".bars tbody button").first.click()
    at(page, "position 4")
    longer = page.locator("#prompt-text").input_value()
    page.locator("nav a").nth(2).click()
    page.locator("#surprise-title").wait_for()
    page.go_back()
    page.locator("#next-title").wait_for()
    assert page.locator("#prompt-text").input_value() == longer
    page.go_back()
    expect(page.locator("#prompt-text")).to_have_value("ROME")
    page.go_forward()
    expect(page.locator("#prompt-text")).to_have_value(longer)


def test_a_tour_by_keyboard_alone(visit: Open) -> None:
    """From the first visit on: the tour, all eight views, the help and back, with keys only, the focus always seen."""
    page = visit()
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUS_IS_SEEN), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("document.activeElement.textContent") == "start the tour":
            break
    page.keyboard.press("Enter")
    for number, view in enumerate(VIEWS, 1):
        page.locator(f"#{view}-title").wait_for()
        assert page.locator("#tour").inner_text().startswith(f"{number} of 8.")
        assert page.evaluate(FOCUS_IS_SEEN)
        page.keyboard.press("Enter")
    assert page.locator("#tour").is_hidden()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    assert "embedding" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    page.reload()
    page.locator("#guess-title").wait_for()
    assert page.locator("#tour").is_hidden()


# The thing with the focus, or what stands for it, has an outline or a frame of the reader's colour.
FOCUS_IS_SEEN = """() => {
  const at = document.activeElement.closest(".grid") ?? document.activeElement;
  const style = getComputedStyle(at);
  const box = at.getBoundingClientRect();
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0; }"""


@pytest.mark.parametrize("view", VIEWS)
def test_every_stop_of_the_tab_key_is_seen(visit: Open, view: str) -> None:
    """In every view each thing that can have the focus shows it, and no trap holds it."""
    page = visit(view)
    page.wait_for_timeout(300)
    stops = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        assert page.evaluate(FOCUS_IS_SEEN), page.evaluate("document.activeElement.outerHTML")
        stops.add(page.evaluate("document.activeElement.outerHTML"))
    assert len(stops) > 15
    assert page.evaluate("document.activeElement === document.body")


def test_single_keys_can_be_switched_off(visit: Open) -> None:
    """Whoever speaks to their computer can do without single keys (WCAG 2.1.4), and it is remembered."""
    page = visit()
    page.keyboard.press("2")
    page.locator("#writing-title").wait_for()
    page.locator("#help").click()
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.wait_for_timeout(100)
    assert page.locator("#writing-title").is_visible()
    page.reload()
    page.locator("#writing-title").wait_for()
    page.keyboard.press("1")
    page.wait_for_timeout(100)
    assert page.locator("#writing-title").is_visible()


def test_each_word_has_its_meaning_with_an_example_of_the_reader(visit: Open) -> None:
    """The explanations name the chosen character, its id and its share, and follow when another is chosen."""
    page = visit(prompt="ROMEO:")
    words = page.locator("article:not([hidden]) .words")
    assert "“:” is 10" in words.inner_text()
    page.locator(".cell").nth(0).click()
    words.filter(has_text="“R” is 30").wait_for()


def test_every_view_says_what_it_shows_and_what_not_and_where_its_code_is(visit: Open) -> None:
    """A sentence above, one below, and three lines of the project's own code, in all eight views."""
    page = visit()
    for number, view in enumerate(VIEWS, 1):
        page.keyboard.press(str(number))
        article = page.locator("article:not([hidden])")
        page.locator(f"#{view}-title").wait_for()
        assert len(article.locator(".above").inner_text()) > 40
        assert len(article.locator(".below").inner_text()) > 40
        article.locator(".code summary").click()
        assert "mlx_tinylm/" in article.locator(".code p").inner_text()
        assert len(article.locator(".code pre").inner_text().splitlines()) == 3
        page.evaluate("document.activeElement.blur()")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (640, "dark"), (1280, "light")])
def test_the_frame_and_its_views_are_accessible(visit: Open, axe: str, width: int, scheme: str) -> None:
    """axe finds nothing in these views nor in the help; 360 px are enough, and 1280 at 200%, nothing to the side."""
    page = visit("next", viewport={"width": width, "height": 800}, color_scheme=scheme)
    for view in ("next", "writing", "surprise", "guess"):
        page.locator(f"nav a[data-view={view}]").click()
        page.locator(f"#{view}-title").wait_for()
        if view == "writing":
            page.locator(".view-writing [data-key]").click()
            page.locator(".view-writing .reading").filter(has_text="Written:").wait_for(timeout=60000)
        page.locator("article:not([hidden]) details.twin summary").first.click()
        assert checked(page, axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#help").click()
    assert checked(page, axe) == []


def checked(page: Any, axe: str) -> list[Any]:
    """What axe has to say."""
    page.wait_for_timeout(200)
    page.evaluate(axe)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = page.evaluate("(tags) => axe.run({runOnly: tags})", tags)["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


def test_the_page_weighs_little(visit: Open) -> None:
    """All that travels for the page itself, answers about the model aside, is at most 150 KB."""
    page = visit()
    weight = page.evaluate(
        """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
          .filter((entry) => !entry.name.includes("/api/")).reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
    )
    assert 10_000 < weight <= 150_000


def test_a_slow_answer_shows_a_thin_bar_and_only_the_last_prompt_is_read(visit: Open) -> None:
    """While one answer is under way nothing else is asked; then the newest prompt is read, not each on the way."""
    from playwright.sync_api import expect

    page = visit(prompt="ROMEO")
    asked: list[str] = []

    def slowly(route: Any) -> None:
        asked.append(route.request.post_data_json["text"])
        page.wait_for_timeout(600)
        route.continue_()

    page.route("**/api/trace", slowly)
    page.locator("#prompt-text").press("End")
    page.keyboard.type(": What is")
    page.locator("#progress").wait_for()
    expect(page.locator("#prompt-at")).to_contain_text("“s”, position 13, id 57, surprise")
    expect(page.locator("#progress")).to_be_hidden()
    assert asked[0] == "ROMEO:"
    assert asked[-1] == "ROMEO: What is"
    assert len(asked) <= 3


def test_nothing_moves_for_those_who_asked_for_it(visit: Open) -> None:
    """With prefers-reduced-motion no animation runs, the bar of a slow answer included."""
    page = visit(reduced_motion="reduce")
    page.evaluate("document.querySelector('#progress').hidden = false")
    assert page.evaluate("getComputedStyle(document.querySelector('#progress')).animationName") == "none"
    assert page.evaluate("document.getAnimations().length") == 0


def test_a_saved_page_keeps_its_one_prompt(watched: Any, saved: Any) -> None:
    """A page from disk shows what it was saved with, does not take another prompt, and says what would."""
    page = watched(saved.as_uri())
    page.locator("#next-title").wait_for()
    before = page.locator("#prompt-text").input_value()
    page.locator(".bars tbody button").first.click()
    page.locator("#trouble").filter(has_text="mlx-tinylm play").wait_for()
    assert page.locator("#prompt-text").input_value() == before
    page.locator(".cell").first.click()
    at(page, "position 0")


def test_a_program_that_ended_is_told_in_one_line(browser: Any, play: Any) -> None:
    """When the program is gone, the page stays, says so and says how to start it; when it is back, all goes on."""
    from playwright.sync_api import expect

    page = browser.new_page()
    page.goto(f"{play.address}&prompt=ROMEO")
    page.locator(".bars").wait_for()
    page.route("**/api/trace", lambda route: route.abort())
    page.locator("#prompt-text").fill("JULIET")
    page.locator("#trouble").filter(has_text="mlx-tinylm play").wait_for()
    assert page.locator(".bars").is_visible()
    page.unroute("**/api/trace")
    page.locator("#prompt-text").fill("JULIE")
    expect(page.locator("#trouble")).to_be_empty()
    page.close()
