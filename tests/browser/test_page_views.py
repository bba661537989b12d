"""The views Next character, Writing, Surprise and Guess, on the model that ships: their numbers are the program's."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from mlx_tinylm.backend.choose import load_model
from mlx_tinylm.generation import stream_generate
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import probabilities

SHIPPED = Path(__file__).parents[2] / "weights" / "shakespeare"
PROMPT = "ROMEO:\nWhat is it"
Open = Callable[..., Any]


@pytest.fixture
def visit(watched: Any, play: Any) -> Open:
    """Open a view of the shipped model, with the state that the address is to hold."""

    def visit(view: str, prompt: str = PROMPT, **state: Any) -> Any:
        page = watched(f"{play.address}&{urlencode({'view': view, 'prompt': prompt, **state})}")
        page.locator(f".view-{view}").wait_for()
        page.get_by_role("button", name="no, thanks").click()
        return page

    return visit


@pytest.fixture(scope="module")
def model() -> Any:
    folder = open_folder(SHIPPED)
    return load_model(folder, "numpy"), folder.tokenizer


def after(model: Any, text: str) -> Any:
    """The model's probabilities of what follows a text (V,)."""
    network, tokenizer = model
    ids = tokenizer.encode(text)
    return probabilities(np.asarray(network.next_logits(ids, network.new_cache(len(ids))), np.float32))


def shares(page: Any, column: str) -> list[str]:
    return [text for text in page.locator(f".bars tbody tr:visible .{column}").all_inner_texts() if text]


def test_all_bars_are_there_and_right(visit: Open, model: Any) -> None:
    """Twelve bars and "54 more" that unfold; each percentage is the model's own."""
    page = visit("next")
    assert page.locator(".bars tbody tr:visible").count() == 12
    page.get_by_role("button", name="54 more").click()
    glyphs = page.locator(".bars tbody tr:visible button").all_inner_texts()
    assert len(glyphs) == 66
    wanted = after(model, PROMPT)
    id = model[1].encode("s")[0]
    shown = shares(page, "before")[glyphs.index("s")]
    assert abs(float(shown.rstrip("%")) - 100 * wanted[id]) < 0.0051


def test_sliders_move_the_bars_without_a_request(visit: Open) -> None:
    """Temperature and filters are computed in the browser: what each cut is counted, and nobody is asked."""
    page = visit("next")
    before = shares(page, "after")
    page.requests.clear()
    page.get_by_label("temperature").fill("1.6")
    page.wait_for_timeout(100)
    assert shares(page, "after") != before
    page.get_by_label("top-k").fill("4")
    page.locator(".filtered").filter(has_text="top-k cut 61").wait_for()
    assert shares(page, "after")[4:] == ["top-k"] * 8
    assert page.locator(".bars tbody tr.cut .fill:visible").count() == 0
    assert page.locator(".bars tbody tr.cut .outline:visible").count() > 0
    page.get_by_role("button", name="as at the start").click()
    page.wait_for_timeout(100)
    assert shares(page, "after") == before
    assert page.requests == []


def test_sliders_move_the_bars_in_one_frame(visit: Open) -> None:
    """From a slider's event to new bars passes one frame."""
    page = visit("next")
    frames = page.evaluate(
        """async () => {
          const slider = document.querySelector(".setting input");
          const bar = () => document.querySelector(".bars tbody .after").textContent;
          const counts = [];
          for (const value of ["0.1", "1.5", "0.4", "2"]) {
            const before = bar();
            slider.value = value;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            let frames = 0;
            while (bar() === before && frames < 9) {
              await new Promise(requestAnimationFrame);
              frames += 1;
            }
            counts.push(frames);
          }
          return counts; }"""
    )
    assert max(frames) <= 1


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_the_draw_is_the_programs(visit: Open, model: Any, seed: int) -> None:
    """The seed's draw falls on the character that the program writes with this prompt, seed and these settings."""
    page = visit("next", seed=seed, temperature=1.5, top_k=20)
    config = SampleConfig(max_tokens=1, temperature=1.5, top_k=20, seed=seed)
    wanted = next(stream_generate(*model, PROMPT, config))
    name = {" ": "space", "\n": "newline"}.get(wanted, f"“{wanted}”")
    page.get_by_role("button", name=f"append {name}").first.wait_for()
    assert f"falls on {name} (" in page.locator(".drawn").inner_text()


def test_candidates_by_keyboard(visit: Open) -> None:
    """Arrows choose a candidate, Enter appends it, Backspace takes the last character off."""
    page = visit("next")
    box = page.locator("#prompt-text")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.textContent").replace("·", " ").replace("⏎", "\n")
    page.keyboard.press("Enter")
    page.locator(".cell").nth(len(PROMPT)).wait_for()
    assert box.input_value() == PROMPT + focused
    page.keyboard.press("Backspace")
    page.locator(".cell").nth(len(PROMPT)).wait_for(state="detached")
    assert box.input_value() == PROMPT


def test_a_bar_in_the_middle_forks_there(visit: Open) -> None:
    """At an earlier position a bar goes on from there, and says so beforehand."""
    page = visit("next", at=4)
    first = page.locator(".bars tbody button").first
    assert "cut the prompt here" in (first.get_attribute("aria-label") or "")
    assert "“:” follows" in page.locator(".view-next .reading").inner_text()
    page.locator(".bars tbody button").nth(1).click()
    page.locator(".cell").nth(6).wait_for(state="detached")
    assert page.locator("#prompt-text").input_value().startswith("ROMEO")


def written(page: Any) -> str:
    """What stands behind the prompt, as it is."""
    spans = page.locator(".view-writing .text-data span")
    found: list[str] = spans.evaluate_all("(spans) => spans.map((span) => span.dataset.text)")
    return "".join(found)[len(PROMPT) :]


def test_the_page_writes_what_generate_writes(visit: Open, model: Any) -> None:
    """All 400 characters are those of the program for the same prompt, settings and seed, pauses or not."""
    page = visit("writing", seed=3, temperature=0.6)
    page.locator("#pace").select_option("1")
    page.locator("main").focus()
    page.keyboard.press("Space")
    page.locator(".view-writing .text-data span").nth(len(PROMPT) + 5).wait_for()
    page.keyboard.press("Space")
    page.wait_for_timeout(100)
    half = written(page)
    assert 0 < len(half) < 400
    page.wait_for_timeout(200)
    assert written(page) == half
    page.get_by_role("button", name="one step").click()
    page.wait_for_timeout(200)
    assert len(written(page)) == len(half) + 1
    page.locator("#pace").select_option("0")
    page.get_by_role("button", name="go on", exact=True).click()
    page.locator(".view-writing .reading").filter(has_text="Written:").wait_for(timeout=60000)
    wanted = stream_generate(*model, PROMPT, SampleConfig(max_tokens=400, temperature=0.6, seed=3))
    assert written(page) == "".join(wanted)


def test_a_written_character_has_alternatives_and_forks(visit: Open) -> None:
    """A click on a written character shows what else could have come; another one goes on from there."""
    page = visit("writing", seed=3)
    for _ in range(5):
        page.get_by_role("button", name="one step").click()
    page.locator(".view-writing .text-data span").nth(len(PROMPT) + 4).click()
    before = written(page)
    page.locator(".view-writing .text-data span").nth(len(PROMPT) + 2).click()
    choice = page.locator(".others button:enabled").first
    other = choice.locator(".glyph").inner_text().replace("·", " ").replace("⏎", "\n")
    choice.click()
    page.locator(".by-reader").wait_for()
    page.locator(".view-writing .reading").filter(has_text="Written:").wait_for(timeout=60000)
    assert written(page).startswith(before[:2] + other)
    assert other != before[2]


def test_arrows_walk_through_what_was_written(visit: Open) -> None:
    """With nothing else in focus, left and right choose among the written characters; the card follows."""
    page = visit("writing", seed=3)
    for count in range(1, 4):
        page.get_by_role("button", name="one step").click()
        page.locator(".view-writing .text-data span").nth(len(PROMPT) + count - 1).wait_for()
    page.locator("main").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    chosen = page.locator(".view-writing .text-data .chosen").evaluate("(span) => span.dataset.text")
    assert chosen == written(page)[0]


def test_settings_that_change_while_paused_count_from_there(visit: Open) -> None:
    """What was not shown yet is drawn anew with the new settings: at temperature 0 always the likeliest."""
    page = visit("writing", seed=3)
    for _ in range(2):
        page.get_by_role("button", name="one step").click()
        page.wait_for_timeout(300)
    page.locator(".drawn-how summary").click()
    page.locator(".drawn-how").get_by_label("temperature").fill("0")
    for count in range(3, 8):
        page.get_by_role("button", name="one step").click()
        page.locator(".view-writing .text-data span").nth(len(PROMPT) + count - 1).wait_for()
        assert page.locator(".others button").first.is_disabled()


def test_what_stands_in_the_training_text_is_underlined_with_its_lines(visit: Open, training_text: str) -> None:
    """A prompt from the training text, gone on with greedily, is told apart by its lines; they are really there."""
    page = visit("writing", prompt=PROMPT, seed=1, temperature=0.1)
    page.get_by_role("button", name="write", exact=True).click()
    page.locator(".view-writing .reading").filter(has_text="Written:").wait_for(timeout=60000)
    lines = training_text.split("\n")
    spans = page.locator(".view-writing .text-data span")
    known = spans.evaluate_all("(spans) => spans.map((span) => [span.dataset.text, span.classList.contains('known')])")
    runs = ["".join(t for t, _ in each) for on, each in itertools.groupby(known, lambda pair: pair[1]) if on]
    shown = page.locator(".origins li").all_inner_texts()
    assert bool(runs) == bool(shown)
    for item in shown:
        quote, first, last = re.fullmatch(
            r"(?s)[“\"]?(.*?)[”\"]? lines? ([\d\u202f]+)(?:–([\d\u202f]+))?", item
        ).groups()  # type: ignore[union-attr]
        place = [int(each.replace("\u202f", "")) for each in (first, last or first)]
        source = "".join(line + "\n" for line in lines[place[0] - 1 : place[1]])
        assert quote.replace("·", " ").replace("⏎", "\n").strip('“”"') in source


def test_the_surprise_of_a_text_is_that_of_eval(visit: Open, tmp_path: Path) -> None:
    """Mean and bits of a pasted text, longer than the context, are what `mlx-tinylm eval` prints of it."""
    from click.testing import CliRunner

    from mlx_tinylm.cli.main import main

    text = "Now is the winter of our discontent made glorious summer.\n" * 7
    (tmp_path / "own.txt").write_text(text, encoding="utf-8")
    given = ["eval", "--weights", str(SHIPPED), "--data", str(tmp_path / "own.txt"), "--backend", "numpy", "--json"]
    wanted = json.loads(CliRunner().invoke(main, given).stdout)
    page = visit("surprise")
    page.locator("#own-text").fill(text)
    total = page.locator(".total")
    total.filter(has_text=f"{len(text) - 1} characters").wait_for()
    loss = float(re.search(r"a loss of ([\d.]+) nats", total.inner_text())[1])  # type: ignore[index]
    bits = float(re.search(r"([\d.]+) bits a character", total.inner_text())[1])  # type: ignore[index]
    assert abs(loss - wanted["loss"]) < 1e-4
    assert abs(bits - loss / math.log(2)) < 2e-4


def test_surprise_tells_what_was_expected(visit: Open, model: Any) -> None:
    """At a chosen character stand its share, its rank and the three likeliest, by the model's own numbers."""
    page = visit("surprise", at=4)
    chances = after(model, PROMPT[:4])
    best = np.argsort(-chances, kind="stable")[:3]
    rows = [row.split() for row in page.locator(".expected li").all_inner_texts()]
    assert [float(row[1].rstrip("%")) for row in rows] == pytest.approx(100 * chances[best], abs=0.0051)
    id = model[1].encode("O")[0]
    rank = 1 + int((chances > chances[id]).sum())
    detail = page.locator(".view-surprise .reading").inner_text()
    assert ("first choice" if rank == 1 else f"number {rank} of 66") in detail
    page.locator(".most button").first.click()
    assert page.locator(".view-surprise .reading").inner_text() != detail


def test_a_text_with_an_unknown_character_is_said_in_words(visit: Open) -> None:
    """The character is named, and the text stays to be mended."""
    page = visit("surprise")
    page.locator("#own-text").fill("caf\u00e9")
    page.locator(".problem").filter(has_text="\u00e9").wait_for()
    assert page.locator("#own-text").input_value() == "caf\u00e9"


@pytest.mark.usefixtures("training_text")
def test_a_game_of_guesses_is_scored_in_bits(visit: Open) -> None:
    """A right guess at 60% costs 0.74 bits, a wrong one 7.34, no idea 6.04; the model's and the counter's beside."""
    page = visit("guess")
    text = page.locator(".view-guess .text-data span")
    text.nth(40).wait_for()
    cell = page.locator(".score tbody tr").first.locator(".number").first
    page.get_by_role("button", name="no idea").click()
    assert cell.inner_text() == "6.04 bits"
    seen = set()
    page.locator("#guess").focus()
    for _ in range(30):
        page.keyboard.type("e")
        page.wait_for_timeout(20)
        yes = page.locator(".verdict").inner_text().startswith("Yes")
        assert cell.inner_text() == ("0.74 bits" if yes else "7.34 bits")
        seen.add(yes)
    assert text.count() == 40 + 31 + 1
    assert page.locator(".score tbody tr").count() in (2, 3)
    mean = page.locator(".score tbody tr").nth(1).locator(".number").last.inner_text()
    assert 0 < float(mean.split()[0]) < 6.04


@pytest.mark.usefixtures("training_text")
def test_the_guess_is_typed_by_keyboard_with_its_certainty(visit: Open) -> None:
    """Arrows in the field change how sure the reader is, Enter is a newline, and single keys do not leave the view."""
    page = visit("guess")
    page.locator(".view-guess .text-data span").nth(40).wait_for()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("3")
    page.wait_for_timeout(100)
    assert page.locator("#guess-title").is_visible()
    assert page.locator(".score tbody tr").first.locator(".number").first.inner_text() in ("9.34 bits", "0.15 bits")
    page.keyboard.press("Enter")
    assert page.locator(".view-guess .text-data span").count() == 43
