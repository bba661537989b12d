"""The whole page in a browser: it comes up, asks nobody else for anything, and a saved one needs nobody at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VIEWS = 8
TITLE = "#view article:not([hidden]) h2"


def tour(page: Any) -> Iterator[int]:
    """Show one view after the other, by its key."""
    page.locator(TITLE).wait_for()
    for number in range(1, VIEWS + 1):
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement?.blur()")
        page.keyboard.press(str(number))
        page.wait_for_timeout(150)
        yield number


def test_the_page_comes_up_and_asks_nobody_else(watched: Any, play: Any) -> None:
    """All eight views open without an error, a breach of the policy, or a request to anybody else."""
    page = watched(play.address)
    titles = [page.locator(TITLE).inner_text() for _ in tour(page)]
    assert len(set(titles)) == VIEWS, titles
    assert "shakespeare" in page.locator("#name").inner_text()


def test_the_token_is_in_no_request(watched: Any, play: Any) -> None:
    """The token stays in the fragment and in a header: no address that is asked for has it."""
    page = watched(play.address)
    list(tour(page))
    assert page.requests
    assert not any(play.token in url for url in page.requests)


def test_a_saved_page_opens_from_disk(watched: Any, saved: Path) -> None:
    """All eight views of a page that was saved open from a file, which is all that is ever loaded."""
    page = watched(saved.as_uri())
    titles = [page.locator(TITLE).inner_text() for _ in tour(page)]
    assert len(set(titles)) == VIEWS, titles
    assert {url.split("#")[0] for url in page.requests} == {saved.as_uri()}


@pytest.mark.parametrize("number", [1, 4, 5, 7])
def test_a_saved_page_shows_what_the_served_one_shows(watched: Any, saved: Path, play_run: Any, number: int) -> None:
    """The same words and numbers stand on both, for the prompt that was saved."""
    texts = []
    for address in (play_run.address, saved.as_uri()):
        page = watched(address)
        page.locator(TITLE).wait_for()
        page.keyboard.press(str(number))
        page.wait_for_timeout(1500)
        page.get_by_text("snapshots are here").wait_for(state="hidden")
        texts.append(page.locator("#view").inner_text())
    assert texts[0] == texts[1]


def test_the_first_picture_comes_at_once(watched: Any, play: Any) -> None:
    """From the address to the first bars it takes a moment: 0.3 s where nothing else runs, here ten times that."""
    watched(play.address).locator(TITLE).wait_for()  # what is read once
    begun = time.perf_counter()
    page = watched(play.address)
    page.locator(TITLE).wait_for()
    page.locator("#view").get_by_text("%").first.wait_for()
    assert time.perf_counter() - begun < 3
