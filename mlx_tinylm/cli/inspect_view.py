"""The inside of a model as lines for a terminal: the words, the order and the numbers of the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_tinylm.cli.columns import measure
from mlx_tinylm.cli.inspect_style import SCALE, WIDTH, Style, bits, digit, padded, painted, percent
from mlx_tinylm.errors import escaped
from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.sampling import probabilities

ROWS = 12  # of bars, and of heads
WHAT = {
    "previous": "the {unit} just before",
    "line_start": "where this line begins",
    "same_before": "the same {unit} earlier",
    "induction": "what followed it earlier",
}


def mean_surprise(payload: Payload) -> float | None:
    """In nats, of all but the first; None of a single one."""
    values = payload.tensors["surprise"][1:]
    return float(values.mean(dtype=np.float64)) if len(values) else None


def inspection(payload: Payload, style: Style, *, why_no_counter: str = "", whole: Payload | None = None) -> str:
    """All of it. `whole` is what the same text gives with no head switched off."""
    sections = [facts(payload, style)]
    if whole is not None:
        sections.append(without(payload, whole, style))
    sections += [next_id(payload, style, why_no_counter), surprise(payload, style), layers(payload, style)]
    sections.append(heads(payload, style))
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections)


def facts(payload: Payload, style: Style) -> list[str]:
    m = payload.meta["model"]
    loss = f", loss {m['loss']:.4f}" if m["loss"] is not None else ""
    text = (
        f"{m['family']}, {_count(m['layers'], 'layer')} x width {m['width']}, {_count(m['heads'], 'head')} each, "
        f"{m['parameters']:,} parameters{loss}, {m['backend']}"
    )
    return [style.title(escaped(m["name"])), *style.prose(text)]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def without(payload: Payload, whole: Payload, style: Style) -> list[str]:
    """What switching heads off changes in the loss."""
    names = ", ".join(f"layer {layer + 1} head {head + 1}" for layer, head in payload.meta["heads_off"])
    lines = [style.title(f"Switched off: {names}")]
    now, then = mean_surprise(payload), mean_surprise(whole)
    if now is not None and then is not None:
        verb = "rises" if now > then else "falls"
        unit = payload.meta["model"]["unit"]
        lines += style.prose(
            f"The loss of this prompt {verb} from {bits(then):.2f} to {bits(now):.2f} bits a {unit}. "
            "All that follows is what the model computes without."
        )
    return lines


def next_id(payload: Payload, style: Style, why_no_counter: str) -> list[str]:
    """The bars of the next id, the counter's beside them."""
    unit, texts, vocabulary = payload.meta["model"]["unit"], payload.texts, payload.meta["vocabulary"]
    model = probabilities(payload.tensors["logits"][-1])
    counter = payload.tensors["counter"][-1] if "counter" in payload.tensors else None
    told = f"The probability of each of {len(vocabulary):,} {unit}s to come after {_end(payload, style)}."
    if counter is not None:
        told += (
            f" Beside it a 3-gram counter's, which only counts what followed {style.spoken(''.join(texts[-2:]))} in "
            "the training text."
        )
    lines = [style.title(f"Next {unit}"), *style.prose(told), ""]
    order = np.argsort(-model, kind="stable")
    shown, rest = order[:ROWS], order[ROWS:]
    columns = [model] if counter is None else [model, counter]
    glyphs = [style.cut(style.glyph(vocabulary[id]), 12) for id in shown]
    more = f"{len(rest):,} more"
    label = max(map(measure, [*glyphs, more]))
    # label, and for each column: two spaces, 7 of percent, one space, the bar
    room = max((style.width - label) // len(columns) - 10, 4)
    most = max(float(column[shown].max()) for column in columns)
    heads = ["model", "3-gram counter"][: len(columns)]
    lines.append(style.muted(" " * label + "".join(f"  {head:>7} {'':<{room}}"[: room + 10] for head in heads)))
    for id, glyph in zip(shown, glyphs, strict=True):
        cells = [f"  {percent(float(c[id])):>7} {style.bar(float(c[id]) / most, room):<{room}}" for c in columns]
        lines.append(padded(glyph, label) + style.orange(cells[0]) + "".join(cells[1:]))
    if len(rest):
        lines.append(
            padded(more, label) + "".join(f"  {percent(float(c[rest].sum())):>7} {'':<{room}}" for c in columns)
        )
    return [*lines, "", *style.prose(why_no_counter)] if why_no_counter and counter is None else lines


def _end(payload: Payload, style: Style) -> str:
    """The last words of the prompt."""
    texts = payload.texts
    spoken = style.spoken("".join(texts[-20:]))
    return spoken if len(texts) <= 20 else spoken.replace("“", "“…", 1).replace('"', '"...', 1)


def surprise(payload: Payload, style: Style) -> list[str]:
    """The prompt, each id coloured by its surprise, or with a digit below."""
    unit, mean = payload.meta["model"]["unit"], mean_surprise(payload)
    lines = [style.title("Surprise")]
    if mean is None:
        return lines + style.prose(f"The prompt is a single {unit}: nothing stands before it, so nothing was expected.")
    lines += style.prose(
        f"How little each {unit} was expected, in bits: 0 is certain, 1 a coin's toss, 5 one of 32 alike. On average "
        f"{bits(mean):.2f} bits a {unit}, a loss of {mean:.4f} nats. The first has nothing before it."
    )
    values = [bits(float(value)) for value in payload.tensors["surprise"]]
    lines.append("")
    for row in _rows([style.glyph(text) for text in payload.texts], payload.texts, min(style.width, WIDTH)):
        if style.colour:
            lines.append("".join(painted(glyph, values[i]) for i, glyph in row))
        else:
            lines.append("".join(glyph for _, glyph in row))
            lines.append("".join(padded(digit(values[i]), measure(glyph)) for i, glyph in row))
    if style.colour:
        steps = [f" {step}{'+' if step == len(SCALE) - 1 else ''} " for step in range(len(SCALE))]
        lines += ["", "bits " + "".join(painted(text, step) for step, text in enumerate(steps))]
    else:
        lines += ["", *style.prose(f"The digit under a {unit} is its surprise in bits; 9 is 9 or more.")]
    return lines


def _rows(glyphs: Sequence[str], texts: Sequence[str], width: int) -> Iterator[list[tuple[int, str]]]:
    """Places and glyphs, a row for each line of the text or as much as fits."""
    row: list[tuple[int, str]] = []
    used = 0
    for i, glyph in enumerate(glyphs):
        if row and used + measure(glyph) > width:
            yield row
            row, used = [], 0
        row.append((i, glyph))
        used += measure(glyph)
        if texts[i].endswith("\n"):
            yield row
            row, used = [], 0
    if row:
        yield row


def layers(payload: Payload, style: Style) -> list[str]:
    """The lens at the last position."""
    unit, vocabulary = payload.meta["model"]["unit"], payload.meta["vocabulary"]
    top, chances = payload.tensors["lens_top"][:, -1], payload.tensors["lens_top_p"][:, -1]
    best = int(top[-1, 0])
    lines = [style.title("Layer by layer")]
    lines += style.prose(
        f"The numbers at {style.spoken(payload.texts[-1])}, the end of the prompt, read as though the model ended "
        f"there: after the embedding (what it has for that {unit} alone), each attention (a look at the past) and each "
        f"MLP (work on what was found). In each row the likeliest {unit}s; rank is the place of "
        f"{style.spoken(vocabulary[best])}, in the end the first."
    )
    stages = ["embedding", *(f"{n // 2 + 1} + {'MLP' if n % 2 else 'attention'}" for n in range(len(top) - 1))]
    wide = max(map(len, stages))
    most = 2 if unit == "character" else 8  # columns of a glyph: five fit, and only the end of a text is longer
    shown = [
        [(style.cut(style.glyph(vocabulary[i]), most), percent(float(p))) for i, p in zip(*row, strict=True) if i >= 0]
        for row in zip(top, chances, strict=True)
    ]
    label = max(measure(glyph) for row in shown for glyph, _ in row)
    count = max(1, (style.width - wide - 6) // (label + 10))
    lines += ["", style.muted(f"{'after':<{wide}}  rank")]
    for n, (stage, row) in enumerate(zip(stages, shown, strict=True)):
        cells = "".join(f"  {padded(glyph, label)} {p:>7}" for glyph, p in row[:count])
        lines.append(f"{stage:<{wide}}  {_rank(payload, n, best):>4}{cells}")
    note = "A lens is not the model's thought: only the last row was trained to answer."
    if top[0, 0] == payload.tensors["ids"][-1]:
        note += f" The embedding by itself names the {unit} that it stands for."
    return [*lines, "", *style.prose(note)]


def _rank(payload: Payload, stage: int, id: int) -> str:
    """From 1, of an id at the last position; empty where it was not measured."""
    if "lens_ranks" in payload.tensors:
        return str(int(payload.tensors["lens_ranks"][stage, -1, id]) + 1)
    places = np.flatnonzero(payload.tensors["lens_top"][stage, -1] == id)
    return str(int(places[0]) + 1) if len(places) else ">5"


def heads(payload: Payload, style: Style) -> list[str]:
    """The heads that do something nameable, and how strongly."""
    m, named = payload.meta["model"], payload.meta["heads"]
    each = f"At every {m['unit']} each of the {m['layers']} x {m['heads']} heads spreads a weight of 100% over the "
    each += f"{m['unit']}s so far."
    these = " These look for something that has a name; their mean weight on it in this prompt:"
    none = " None looks for something that has a name in this prompt."
    lines = [style.title("Attention"), *style.prose(each + (these if named else none))]
    near, unknown = _unnamed(payload)
    where = len(f"layer {m['layers']} head {m['heads']}")
    fits = max(6, style.width - where - 20)
    what = {kind: style.cut(text.format(unit=m["unit"]), fits) for kind, text in WHAT.items()}
    label = max((len(what[head["name"]]) for head in [*named, *near]), default=0)
    room = max(4, min(style.width, WIDTH) - where - label - 12)

    def row(head: Mapping[str, Any]) -> str:
        place = f"layer {head['layer'] + 1} head {head['head'] + 1}"
        return f"{place:<{where}}  {what[head['name']]:<{label}}  {percent(head['score']):>7}"

    if named:
        lines += ["", *(f"{row(head)} {style.bar(head['score'], room)}" for head in named[:ROWS])]
    if len(named) > ROWS:
        lines.append(f"{len(named) - ROWS} more, which --json lists")
    if near:
        lines += ["", *style.prose("Closest to another name, but too weak for it (if all were weighed alike):")]
        lines += [style.muted(f"{row(head)} ({percent(head['even'])})") for head in near]
    if unknown:
        lines += ["", *style.prose(f"Too few places in this prompt to tell: {_and([what[kind] for kind in unknown])}.")]
    note = "Weight is not importance: --head-off LAYER.HEAD switches a head off and shows what changes."
    return [*lines, "", *style.prose(note)]


def _unnamed(payload: Payload) -> tuple[list[dict[str, Any]], list[str]]:
    """Of the kinds that no head is: what comes closest to each; and those of which such a prompt says nothing."""
    scores, even = payload.tensors["head_scores"], payload.tensors["head_even"]
    found = {head["name"] for head in payload.meta["heads"]}
    near, unknown = [], []
    for n, kind in enumerate(payload.meta["kinds"]):
        if math.isnan(even[n]):
            unknown.append(kind)
        elif kind not in found:
            layer, head = (int(i) for i in np.unravel_index(np.argmax(scores[:, :, n]), scores.shape[:2]))
            score = float(scores[layer, head, n])
            near.append({"layer": layer, "head": head, "name": kind, "score": score, "even": float(even[n])})
    return near, unknown


def _and(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
