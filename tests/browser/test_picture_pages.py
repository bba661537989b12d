"""Views 4 to 7 on the page itself: a real server, a real model, a real run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

import mlx_tinylm
from mlx_tinylm.inside.measures import surprise
from mlx_tinylm.inside.trace import trace

PROMPT = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
BIT = np.log(2)
Open = Callable[..., Any]


@pytest.fixture
def visit(watched: Open) -> Open:
    """`visit(play, view, ...)`: the page of a server at a view, of PROMPT or the model's own example."""

    def opened(play: Any, view: str, prompt: str | None = None, **settings: Any) -> Any:
        chosen = "" if prompt is None else f"&prompt={quote(prompt)}"
        return watched(f"{play.address}&view={view}{chosen}&at=20", **settings)

    return opened


@pytest.fixture(scope="module")
def model() -> Any:
    return mlx_tinylm.load("weights/shakespeare", backend="numpy")


def test_the_lens_ends_where_the_model_does(visit: Open, play: Any, model: Any) -> None:
    """The last row of the lens has the probabilities of the model itself for the next character."""
    network, tokenizer = model
    logits = trace(network, tokenizer.encode(PROMPT)).logits[20]
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    page = visit(play, "layers", PROMPT)
    last = page.locator(".lens tbody tr").last
    last.wait_for()
    shown = [float(text.rstrip("%")) for text in last.locator(".p").all_inner_texts() if "<" not in text]
    assert shown == pytest.approx(sorted(100 * expected, reverse=True)[: len(shown)], abs=0.0051)
    assert page.locator(".lens tbody tr").count() == 1 + 2 * network.config.layers


def test_a_head_switched_off_by_its_key_has_the_loss_of_the_trace_without_it(
    visit: Open, play: Any, model: Any
) -> None:
    """The key h switches the chosen head off; the loss that is shown is the one that Python computes without it."""
    network, tokenizer = model
    ids = tokenizer.encode(PROMPT)
    losses = [
        np.nanmean(surprise(trace(network, ids, off).logits, np.asarray(ids, np.int32))) / BIT for off in ((), [(1, 3)])
    ]
    page = visit(play, "attention", PROMPT)
    page.locator(".thumb").nth(7).click()
    page.keyboard.press("h")
    sentence = page.get_by_text("Without 2.4 the loss of this text goes from")
    sentence.wait_for()
    shown = [float(number) for number in re.findall(r"(\d\.\d{3}) bits", sentence.inner_text())[:2]]
    assert shown == pytest.approx(losses, abs=0.0011)


def test_the_matrix_of_the_page_is_that_of_the_trace(visit: Open, play: Any, model: Any) -> None:
    """The weights of a head in its table are those of Python, to a 255th."""
    network, tokenizer = model
    row = trace(network, tokenizer.encode(PROMPT)).attention[1, 3, 20, :21]
    page = visit(play, "attention", PROMPT)
    page.locator(".thumb").nth(7).click()
    page.locator(".view-attention details.twin summary").first.click()
    cells = page.locator(".view-attention details.twin").first.get_by_role("row")
    cells.nth(21).wait_for()
    shown = [float(cells.nth(i).get_by_role("cell").last.inner_text().rstrip("%")) / 100 for i in range(1, 22)]
    assert shown == pytest.approx(row.tolist(), abs=1 / 255)


def test_neighbours_are_sorted_and_follow_the_prompts_selection(visit: Open, play: Any) -> None:
    """The character at the chosen position has eight neighbours, the closest first; another position has others."""
    page = visit(play, "characters", PROMPT)
    page.locator(".near tbody tr").nth(7).wait_for()
    cosines = [float(text) for text in page.locator(".near tbody .number").all_inner_texts()]
    assert cosines == sorted(cosines, reverse=True)
    assert "“e”" in page.locator(".view-characters .reading").inner_text()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Closest to “r”").wait_for()


def test_the_slider_moves_through_a_runs_snapshots_without_a_request(visit: Open, play_run: Any) -> None:
    """Once all snapshots of a real run are here, moving through them asks the server for nothing."""
    from playwright.sync_api import expect

    page = visit(play_run, "growing")
    page.locator("#snapshot").wait_for()
    expect(page.locator(".snapshots .note")).to_have_text("", timeout=60000)
    page.requests.clear()
    seen = set()
    for _ in range(int(page.locator("#snapshot").get_attribute("max"))):
        page.locator("#snapshot").press("ArrowLeft")
        seen.add(page.locator(".view-growing .snapshots .reading").inner_text())
    assert [url for url in page.requests if not url.endswith("/metrics")] == []
    assert page.locator(".step-name").inner_text() == "0"
    assert len(seen) > 2


def test_the_curve_of_a_run_is_there_with_its_lowest_loss(visit: Open, play_run: Any) -> None:
    """The sentence above the curve has the run's steps, and its table its validations."""
    page = visit(play_run, "growing")
    page.get_by_text(re.compile(r"lowest validation loss \d\.\d{4} nats")).first.wait_for()
    page.locator("figure.picture summary").click()
    page.locator("figure.picture tbody tr").first.wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
@pytest.mark.parametrize("view", ["layers", "attention", "characters", "growing"])
def test_a_view_is_accessible(visit: Open, play_run: Any, axe: str, view: str, width: int, scheme: str) -> None:
    """axe finds nothing to say against a view, with its tables unfolded, in either colour scheme, wide and narrow."""
    page = visit(play_run, view, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.locator(f".view-{view} details.twin summary").first.click()
    page.wait_for_timeout(500)
    page.evaluate(axe)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = page.evaluate("(tags) => axe.run({runOnly: tags})", tags)["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
