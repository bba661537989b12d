"""The page's drawing modules, with plain data: each is loaded from the page's own folder into an empty document."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser.page_modules import run, served


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served() as found:
        yield found


@pytest.fixture(params=["light", "dark"])
def document(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """An empty page in each colour scheme; whatever goes wrong in it fails the test."""
    page = browser.new_page(color_scheme=request.param, viewport={"width": 800, "height": 600})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    yield page
    page.close()
    assert problems == []


def test_the_sequential_scale_only_ever_goes_away_from_the_ground(document: Any) -> None:
    """More is always further from the page's ground, darker on light and lighter on dark, so it reads without hue."""
    light = run(document, "scale.js", "return Array.from({length: 101}, (_, i) => m.luminance(m.sequential(i / 100)))")
    if run(document, "scale.js", "return m.isDark()"):
        light = light[::-1]
    assert all(later <= earlier for earlier, later in pairwise(light))
    assert light[0] - light[-1] > 0.7


def test_scales_are_read_without_telling_red_from_green(document: Any) -> None:
    """With red and green replaced by their mean, eleven steps of either scale still differ from each other."""
    for scale in ("m.sequential(i / 10)", "m.difference(i / 5 - 1)"):
        colours = run(document, "scale.js", f"return Array.from({{length: 11}}, (_, i) => {scale})")
        seen = [((red + green) / 2, blue) for red, green, blue in colours]
        for i, one in enumerate(seen):
            assert all(math.dist(one, other) > 10 for other in seen[:i]), (scale, i)


def test_ink_on_every_colour_has_a_contrast_of_four_and_a_half(document: Any) -> None:
    """Text on a coloured ground stays readable wherever the value lies."""
    contrasts = run(
        document,
        "scale.js",
        """return [m.sequential, m.difference].flatMap((scale) => Array.from({length: 201}, (_, i) => {
             const rgb = scale(scale === m.difference ? i / 100 - 1 : i / 200);
             const ground = m.luminance(rgb) + 0.05, ink = (m.inkOn(rgb) === "#fff" ? 1 : 0) + 0.05;
             return Math.max(ground, ink) / Math.min(ground, ink); }))""",
    )
    assert min(contrasts) >= 4.5


def test_a_thinned_curve_keeps_its_spikes_and_its_length(document: Any) -> None:
    """Of 20,000 points at most 1,000 are drawn, the highest and the lowest among them, in the order of the steps."""
    points = [[step, 2 + (step % 7) / 100] for step in range(20000)]
    points[12345][1], points[54][1] = 9, -1
    kept = run(document, "curve.js", "return m.thinned(given[0])", points)
    assert len(kept) <= 1000
    assert points[12345] in kept
    assert points[54] in kept
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)


def test_a_short_curve_is_not_thinned(document: Any) -> None:
    """What fits is drawn as it is."""
    points = [[step, step] for step in range(1000)]
    assert run(document, "curve.js", "return m.thinned(given[0])", points) == points


def test_smoothing_leaves_a_constant_alone_and_has_no_start_of_its_own(document: Any) -> None:
    """The mean of equal losses is that loss from the first step on."""
    smooth = run(document, "curve.js", "return m.smoothed(given[0])", [[step, 3.5] for step in range(200)])
    assert [value for _, value in smooth] == pytest.approx([3.5] * 200)


def test_labels_at_the_right_end_never_cover_each_other(document: Any) -> None:
    """Reference lines that lie close get labels a line apart, in the order of their values, inside the picture."""
    placed = run(document, "curve.js", "return m.apart(given[0], 14, 0, 300)", [290, 291, 150, 289.5, 10])
    for lower, higher in pairwise(sorted(placed)):
        assert higher - lower >= 14
    assert max(placed) <= 300
    assert sorted(range(5), key=placed.__getitem__) == [4, 2, 3, 0, 1]


def test_a_resumed_run_replaces_what_it_makes_again(document: Any) -> None:
    """Lines that go back to an earlier step take the place of those after it, wherever the increments were cut."""
    first = [{"step": step, "loss": 1.0} for step in range(1, 11)]
    first[9]["val_loss"] = 1.5
    again = [{"step": step, "loss": 2.0} for step in range(6, 9)]
    found = run(
        document,
        "live_metrics.js",
        """const one = m.metrics("run");
           one.take({lines: given[0], next: 100, live: true});
           one.take({lines: given[1].slice(0, 2), next: 120}); one.take({lines: given[1].slice(2), next: 130});
           return [one.training, one.validations, one.next]""",
        first,
        again,
    )
    assert found == [[[s, 1.0] for s in range(1, 6)] + [[6, 2.0], [7, 2.0], [8, 2.0]], [], 130]


def test_a_run_that_began_anew_forgets_the_old_curve(document: Any) -> None:
    """A file that became shorter is read from its start, and nothing of the earlier run is left."""
    found = run(
        document,
        "live_metrics.js",
        """const one = m.metrics("run");
           one.take({lines: [{step: 500, loss: 1}], next: 9000});
           one.take({lines: [{step: 900, loss: 4}], next: 20, restarted: true});
           return one.training""",
    )
    assert found == [[900, 4]]


def test_the_future_is_blank_and_not_zero(document: Any) -> None:
    """Above the diagonal the matrix has no pixel at all; a weight of zero has the colour of zero."""
    alpha = run(
        document,
        "triangle.js",
        """const colours = m.palette((x) => [Math.round(255 * x), 0, 0]);
           const {image, cell, side} = m.triangleImage(new Uint8Array([255, 0, 255, 128, 0, 127]), 3, 31, colours);
           const place = (row, column) => 4 * ((row * cell + 4) * side + column * cell + 4);
           const at = (row, column) => [...image.data.slice(place(row, column), place(row, column) + 4)];
           return [cell, side, at(0, 1), at(1, 2), at(1, 0), at(2, 2)]""",
    )
    assert alpha == [10, 30, [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255], [180, 0, 0, 255]]


def test_more_rows_than_pixels_keep_the_largest_weight(document: Any) -> None:
    """A long prompt's matrix still shows a single strong weight in a pixel that several share."""
    seen = run(
        document,
        "triangle.js",
        """const weights = new Uint8Array(m.rowStart(500)); weights[m.rowStart(301) + 7] = 255;
           const colours = m.palette((x) => [Math.round(255 * x), 0, 0]);
           const {image, share, side} = m.triangleImage(weights, 500, 100, colours);
           return [share, side, image.data[4 * (Math.floor(301 / share) * side + Math.floor(7 / share))]]""",
    )
    assert seen == [5, 100, 255]


def test_white_space_is_seen_and_copied_as_what_it_is(document: Any) -> None:
    """A space is a raised dot and a newline an arrow on the page, and themselves in what is copied."""
    copied = run(
        document,
        "text_data.js",
        """const text = m.textData({label: "text", onSelect() {}});
           document.body.append(text.element);
           text.update({tokens: ["a", " ", "b", "\\n"], values: [0, 0.5, 1, null], selected: 1, describe: () => []});
           const range = document.createRange(); range.selectNodeContents(text.grid);
           getSelection().removeAllRanges(); getSelection().addRange(range);
           const event = new ClipboardEvent("copy", {clipboardData: new DataTransfer(), cancelable: true});
           text.grid.dispatchEvent(event);
           return [text.grid.textContent, event.clipboardData.getData("text/plain")]""",
    )
    assert copied == ["a·b⏎", "a b\n"]


def test_text_that_looks_like_html_stays_text(document: Any) -> None:
    """A token is never markup: nothing that a model writes becomes an element."""
    seen = run(
        document,
        "text_data.js",
        """const text = m.textData({label: "text", onSelect() {}});
           document.body.append(text.element);
           const tokens = ["<img src=x onerror=alert(1)>"];
           text.update({tokens, values: [0.5], selected: 0, describe: () => ["<b>x</b>"]});
           return [document.querySelectorAll("img, b").length, text.grid.textContent]""",
    )
    assert seen == [0, "<img·src=x·onerror=alert(1)>"]


def test_a_picture_has_the_devices_pixels_and_a_table(browser: Any, address: str) -> None:
    """On a screen of two pixels a CSS pixel the canvas has twice the pixels; its table and its JSON say the same."""
    context = browser.new_context(device_scale_factor=2, viewport={"width": 400, "height": 400})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address)
    run(
        page,
        "canvas.js",
        """const shown = m.picture({name: "squares", label: () => "two squares", height: () => 100,
             draw: ({context}) => context.fillRect(0, 0, 3, 3), table: () => [["n", "square"], [[2, 4], [3, 9]]],
             json: () => ({squares: [4, 9]})});
           document.body.append(shown.element); shown.redraw()""",
    )
    canvas = page.get_by_role("img", name="two squares")
    assert canvas.evaluate("canvas => [canvas.width, canvas.height]") == [
        2 * canvas.evaluate("c => c.clientWidth"),
        200,
    ]
    page.get_by_text("as a table").click()
    page.get_by_role("cell").first.wait_for()
    assert page.get_by_role("cell").all_inner_texts() == ["4", "9"]
    page.get_by_role("button", name="copy as JSON").click()
    page.get_by_text("copied").wait_for()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == {"squares": [4, 9]}
    with page.expect_download() as saved:
        page.get_by_role("button", name="save picture").click()
    assert saved.value.suggested_filename == "squares.png"
    assert Path(saved.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    context.close()


def test_what_is_no_canvas_can_be_saved_as_a_picture(document: Any) -> None:
    """The colour of a character of coloured text is in the picture that is saved of it."""
    shown, saved = run(
        document,
        "dom_picture.js",
        """const box = document.createElement("div"), one = box.appendChild(document.createElement("span"));
           Object.assign(box.style, {width: "200px"});
           Object.assign(one.style, {display: "block", backgroundColor: "rgb(10, 120, 200)"});
           one.textContent = "x";
           document.body.append(box);
           const canvas = m.domPicture(box);
           return [[10, 120, 200, 255], [...canvas.getContext("2d").getImageData(150, 4, 1, 1).data]]""",
    )
    assert shown == saved


def test_bars_are_sorted_cut_and_unfolded(document: Any) -> None:
    """Twelve rows and a button that says how many more there are; pressed, it shows them all."""
    run(
        document,
        "paired_bars.js",
        """const bars = m.pairedBars({label: "next", barName: "without", tickName: "with"});
           document.body.append(bars.element);
           const p = Array.from({length: 20}, (_, i) => (20 - i) / 210);
           bars.update({tokens: [..."abcdefghijklmnopqrst"], order: [...p.keys()], bars: p, ticks: p})""",
    )
    assert document.get_by_role("row").count() == 13
    document.get_by_role("button", name="8 more").click()
    assert document.get_by_role("row").count() == 21
    assert document.get_by_role("row").nth(1).inner_text().split() == ["a", "9.52%", "9.52%"]
