"""Layer by layer, Attention, Characters and Growing up, around a made-up model that counts what it is asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser.page_modules import served

VIEWS = ("layers", "attention", "characters", "growing")
Show = Callable[..., Any]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as found:
        yield found


@pytest.fixture
def show(browser: Any, address: str) -> Iterator[Show]:
    """`show(view, before)`: the view, rendered after the JavaScript `before` has changed `app`."""
    pages: list[Any] = []
    problems: list[str] = []

    def shown(view: str, before: str = "", given: dict[str, Any] | None = None, **settings: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1000, "height": 800}, **settings})
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        pages.append(page)
        page.goto(address)
        program = "async ([view, given]) => { const app = await (await import('/picture_app.js')).show(view, given);"
        page.evaluate(f"{program} {before}; app.render(); }}", [view, given or {}])
        return page

    yield shown
    for page in pages:
        page.close()
    assert problems == []


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [320, 360, 800, 1280])
def test_no_view_is_wider_than_the_window(show: Show, view: str, width: int) -> None:
    """From 320 pixels on, which is 1280 at a zoom of 400%, only a table in its box is scrolled to the side."""
    page = show(view, viewport={"width": width, "height": 700})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("view", VIEWS)
def test_every_canvas_that_is_a_picture_has_a_table_twin(show: Show, view: str) -> None:
    """What a canvas shows can be unfolded as a table with rows, and says in a sentence what it is."""
    page = show(view, "app.lines = [{step: 1, loss: 4}, {step: 2, loss: 3}]")
    page.wait_for_timeout(200)
    pictures = page.locator("figure.picture")
    assert pictures.count() == 1
    assert len(page.get_by_role("img").get_attribute("aria-label")) > 30
    pictures.get_by_text("as a table").click()
    pictures.get_by_role("row").nth(1).wait_for()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_is_brought_up_to_date_keeps_the_focus(show: Show, view: str) -> None:
    """Choosing another position changes what is shown and leaves focus and what is unfolded where they were."""
    page = show(view)
    page.wait_for_timeout(200)
    page.locator("figure.picture summary").focus()
    page.keyboard.press("Enter")
    page.evaluate("app.set({position: 7})")
    assert page.evaluate("document.activeElement.textContent") == "as a table"
    assert page.locator("figure.picture details[open]").count() == 1


@pytest.mark.parametrize("view", VIEWS)
def test_a_prompt_of_one_character_is_enough(show: Show, view: str) -> None:
    """The shortest prompt shows the view without an error, and so does none."""
    page = show(view, "app.state.position = 0", {"text": "a"})
    page.wait_for_timeout(100)
    page.evaluate("app.data = null; app.set({position: 0})")


def test_the_lens_follows_the_next_character_through_every_stage(show: Show) -> None:
    """Each stage is a row with its five likeliest, and the next character rises from rank to rank."""
    page = show("layers")
    rows = page.locator(".lens tbody tr")
    names = [row.get_by_role("rowheader").inner_text() for row in rows.all()]
    assert names == ["embedding", "1 + attention", "1 + MLP", "2 + attention", "2 + MLP"]
    assert page.locator(".rank-number").all_inner_texts() == ["5", "4", "3", "2", "1"]
    assert rows.last.locator(".lens-cell").first.inner_text().split() == ["a", "50.00%"]
    assert "After “c” (position 4) really comes “a”" in text(page, ".reading")


def test_any_character_can_be_followed(show: Show) -> None:
    """Another character's rank is shown at every stage, and it is marked where it is among the five."""
    page = show("layers")
    page.get_by_label("Follow").select_option(label="“b”")
    assert page.locator(".rank-number").last.inner_text() == "2"
    assert page.locator(".lens tbody tr").last.locator(".followed .glyph").inner_text() == "b"
    assert "you follow “b”" in text(page, ".reading")


def test_the_last_character_has_no_next_one_to_follow(show: Show) -> None:
    """At the end of the prompt the model's own first choice is followed, and the page says so."""
    page = show("layers", "app.state.position = app.data.ids.length - 1")
    assert "nothing follows yet" in text(page, ".reading")
    assert page.locator(".rank-number").last.inner_text() == "1"


def test_the_past_lights_up_and_the_future_does_not(show: Show) -> None:
    """The prompt's colours are the weights of the chosen head up to the chosen character; what follows has none."""
    page = show("attention", "app.state.head = [0, 1]")
    values = page.evaluate("async () => (await import('/views/attention.js')).paint(app).values")
    assert values[:5] == [0, 0, 0, 1, 0]
    assert set(values[5:]) == {None}
    assert "“c” at position 4 takes most from space at 3 (100.00%)" in text(page, ".reading >> nth=0")


def test_the_prompt_has_the_colours_of_the_whole_models_ranks(show: Show) -> None:
    """Layer by layer colours each character by the rank that it had before it came; the first had none."""
    page = show("layers")
    values = page.evaluate("async () => (await import('/views/layers.js')).paint(app).values")
    assert values == [None] + [1] * (len(values) - 1)


def test_heads_are_labelled_only_where_a_measure_says_so(show: Show) -> None:
    """A head with a score has its name and score beside its numbers; the others have their numbers alone."""
    page = show("attention")
    assert page.locator(".thumb").all_inner_texts() == ["1.1", "1.2 previous character\n0.91", "2.1", "2.2"]


def test_a_click_on_a_thumbnail_shows_that_head_and_a_second_one_all(show: Show) -> None:
    """The chosen head is the one of the text and of the matrix."""
    page = show("attention")
    page.locator(".thumb").nth(1).click()
    assert page.evaluate("app.state.head") == [0, 1]
    assert page.get_by_label("Head", exact=True).input_value() == "0.1"
    page.locator(".thumb").nth(1).click()
    assert page.evaluate("app.state.head") is None


def test_a_head_that_is_off_changes_loss_and_bars(show: Show) -> None:
    """Switched off, what that does to the loss is said and the bars show both; on again, nothing is left of it."""
    page = show("attention", "app.state.head = [1, 0]")
    page.get_by_role("button", name="switch this head off").click()
    page.get_by_text("Without 2.1 the loss of this text goes from").wait_for()
    row = page.locator(".effect .paired-bars tbody tr").first
    assert row.inner_text().split()[-2:] == ["66.91%", "93.73%"]
    assert page.evaluate("app.asked") == ["trace [[1,0]]"]
    page.get_by_role("button", name="switch this head on").click()
    page.get_by_text("Choose a head and switch it off").wait_for()
    assert page.locator(".effect-result").is_hidden()


def test_each_head_in_turn_says_on_which_most_depends(show: Show) -> None:
    """One request a head; then every thumbnail has its change of the loss, and the sentence names the largest."""
    page = show("attention")
    page.get_by_role("button", name="switch off each head in turn").click()
    page.get_by_text("Most depends on head 2.1").wait_for()
    assert len(page.evaluate("app.asked")) == 4
    assert all("bits" in change for change in page.locator(".thumb-change").all_inner_texts())


def test_a_head_stays_off_while_the_prompt_changes(show: Show) -> None:
    """With a new prompt's data the effect is computed anew for the same heads, and the old one is not shown."""
    page = show("attention", "app.state.head = [0, 0]")
    page.get_by_role("button", name="switch this head off").click()
    page.get_by_text("Without 1.1 the loss").wait_for()
    page.evaluate("app.asked.length = 0; app.data = {...app.data}; app.render()")
    page.get_by_text("Without 1.1 the loss").wait_for()
    assert page.evaluate("app.asked") == ["trace [[0,0]]"]


def test_what_a_saved_page_cannot_compute_is_said_in_its_own_words(show: Show) -> None:
    """A refused request shows its message where the result would be; the rest of the view stays."""
    page = show("attention", "app.state.head = [0, 0]; app.refuse = 'A saved page cannot compute this.'")
    page.get_by_role("button", name="switch this head off").click()
    page.get_by_text("A saved page cannot compute this.").wait_for()
    assert page.locator(".thumb").count() == 4


def test_neighbours_are_listed_and_follow_the_selection(show: Show) -> None:
    """The chosen character's neighbours stand with their cosine; a click on another shows those of that one."""
    page = show("characters")
    page.get_by_text("Closest to “c”").wait_for()
    assert [row.split() for row in page.locator(".near tbody tr").all_inner_texts()] == [
        ["d", "0.90"],
        ["e", "0.50"],
        ["f", "0.25"],
    ]
    page.locator(".one").nth(27).click()
    assert "Closest to “z” is newline" in text(page, ".reading")
    assert "30.00% and 20.00%" in text(page, ".readout")
    assert page.evaluate("app.asked") == ["embedding"]


def test_the_slider_needs_no_request_and_one_frame(show: Show) -> None:
    """With the snapshots there, moving the slider asks for nothing, and the bars are drawn before the next frame."""
    page = show("growing")
    page.locator(".sample", has_text="after 100").wait_for()
    page.wait_for_function("app.asked.length === 9")
    found = page.evaluate(
        """async () => {
             const slider = document.querySelector("#snapshot"), seen = [];
             for (const value of [0, 1, 2, 3, 1]) {
               slider.value = value; slider.dispatchEvent(new Event("input"));
               const before = document.querySelector(".paired-bars .number:not(th)").textContent;
               await new Promise(requestAnimationFrame);
               const [step, sample] = [".step-name", ".sample"].map((each) => document.querySelector(each).textContent);
               seen.push([before, step, sample]);
             }
             return [seen, app.asked.length];
           }"""
    )
    assert found[1] == 9
    assert [step for _, step, _ in found[0]] == ["0", "1", "10", "100", "1"]
    assert [bar for bar, _, _ in found[0]] == ["3.57%", "9.15%", "54.08%", "96.65%", "9.15%"]
    assert found[0][2][2] == "written after 10 <b>steps</b>"


def test_a_run_is_watched_while_it_trains(show: Show) -> None:
    """New lines of the metrics are in the curve a second later, and a new snapshot is at the end of the slider."""
    lines = [{"step": step, "loss": 4 - step / 100} for step in range(1, 101)]
    page = show("growing", f"app.live = true; app.lines = {json.dumps(lines)}")
    page.get_by_text("run-1: 100 steps").wait_for()
    page.get_by_text("trains now").wait_for()
    more = [{"step": step, "loss": 2.0, "val_loss": 1.9} for step in range(101, 1002)]
    page.evaluate(
        f"app.lines.push(...{json.dumps(more)}); app.runs = [{{name: 'run-1', steps: [0, 1, 10, 100, 1000]}}]"
    )
    page.get_by_text("lowest validation loss 1.9000 nats").wait_for(timeout=5000)
    page.locator(".step-name", has_text="1\u202f000").wait_for(timeout=5000)


def test_the_last_snapshot_is_there_when_training_ends(show: Show) -> None:
    """A run that ends a few steps after the page last looked still has its last snapshot on the slider."""
    lines = [{"step": step, "loss": 3.0} for step in range(1, 201)]
    page = show("growing", f"app.live = true; app.lines = {json.dumps(lines)}; app.runs[0].steps = [0, 1, 100, 200]")
    page.locator(".step-name", has_text="200").wait_for()
    end = json.dumps([{"step": 201, "loss": 3.0}])
    page.evaluate(
        f"app.live = false; app.lines.push(...{end}); app.runs = [{{name: 'run-1', steps: [0, 1, 100, 200, 201]}}]"
    )
    page.locator(".step-name", has_text="201").wait_for(timeout=5000)


def test_a_finished_run_is_not_asked_for_ever(show: Show) -> None:
    """Where nothing trains, a view that is left asks no more."""
    page = show(
        "growing",
        "window.count = 0; const ask = app.api.metrics; app.api.metrics = (x) => { window.count += 1; return ask(x); }",
    )
    page.wait_for_function("window.count === 1")
    page.evaluate("document.querySelector('main').remove()")
    time.sleep(1.5)
    assert page.evaluate("window.count") == 1


def test_several_runs_share_a_chart_and_can_be_left_out(show: Show) -> None:
    """Each run has a box, and one that is left out is neither in the sentence nor in the table."""
    lines = json.dumps([{"step": 1, "loss": 4.0, "val_loss": 4.1}, {"step": 2, "loss": 3.0, "val_loss": 3.1}])
    page = show("growing", f"app.lines = {lines}; app.runs.push({{name: 'run-2', steps: []}})")
    page.get_by_text("run-2: 2 steps").wait_for()
    page.locator("figure.picture summary").click()
    page.locator("figure.picture tbody tr").nth(3).wait_for()
    page.get_by_role("checkbox", name="run-2").uncheck()
    assert page.locator("figure.picture tbody tr").count() == 2


def test_a_model_without_its_run_says_how_to_get_one(show: Show) -> None:
    """The view of a finished model's folder shows no empty chart, and names the command."""
    page = show("growing", "app.runs = []")
    page.get_by_text("mlx-tinylm train").wait_for()
    assert page.locator("figure.picture").is_hidden()
    assert page.locator(".snapshots").is_hidden()


def test_nothing_moves_for_those_who_ask_for_less_motion(show: Show) -> None:
    """No view has a transition or an animation where the reader prefers none."""
    for view in VIEWS:
        page = show(view, reduced_motion="reduce")
        page.wait_for_timeout(100)
        assert page.evaluate("document.getAnimations().length") == 0


def test_the_words_are_those_of_the_models_unit(show: Show) -> None:
    """Where the unit is a token no label of a view speaks of characters."""
    for view in ("layers", "attention", "characters", "growing"):
        page = show(view, given={"unit": "token"})
        page.locator("main > div").filter(has_text="token").first.wait_for()
        page.wait_for_timeout(200)
        said = page.evaluate("document.querySelector('main > div').textContent")
        assert "token" in said, view
        assert "haracter" not in said, view
