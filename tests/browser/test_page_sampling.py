"""What the page computes by itself against what the program computes: probabilities, cuts, draws, payloads."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser.page_modules import run, served

from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.sampling import keep_min_p, keep_top_k, keep_top_p, penalise, probabilities, sample

CASES = 400


@pytest.fixture(scope="module")
def document(browser: Any) -> Iterator[Any]:
    with served() as address:
        page = browser.new_page()
        page.goto(address)
        yield page
        page.close()


def cases(number: int) -> Iterator[dict[str, Any]]:
    """Random logits and settings of all sizes, ids of before, suppressed ones, and a draw."""
    random = np.random.default_rng(7)
    for _ in range(number):
        V = int(random.integers(2, 300))
        suppressed = random.choice(V, int(random.integers(0, min(3, V))), replace=False)
        logits = random.normal(0, random.choice([0.1, 2, 10]), V).astype(np.float32)
        if random.random() < 0.2:
            logits = np.round(logits)  # equals, of which the first counts
        yield {
            "logits": logits.tolist(),
            "suppressed": suppressed.tolist(),
            "recent": random.integers(0, V, int(random.integers(0, 40))).tolist(),
            "u": float(random.random(dtype=np.float32)),
            "settings": {
                "temperature": 0.0 if random.random() < 0.1 else float(random.uniform(0.05, 3)),
                "top_k": int(random.integers(1, V + 1)) if random.random() < 0.5 else None,
                "top_p": float(random.uniform(0.01, 1)) if random.random() < 0.5 else None,
                "min_p": float(random.uniform(0, 1)) ** 3 if random.random() < 0.5 else None,
                "repetition_penalty": float(random.uniform(0.5, 2)) if random.random() < 0.5 else None,
            },
        }


def drawn_with(case: dict[str, Any]) -> Any:
    """The probabilities (V,) that `sampling.sample` draws with, from its own filters in its own order."""
    settings = case["settings"]
    logits = np.array(case["logits"], np.float32)
    logits[case["suppressed"]] = -np.inf
    if settings["repetition_penalty"] is not None:
        logits = penalise(logits, case["recent"][-20:], settings["repetition_penalty"])
    if settings["temperature"] == 0:
        return np.eye(len(logits))[int(np.argmax(logits))]
    logits = ((logits.astype(np.float64) - logits.max()) / settings["temperature"]).astype(np.float32)
    for name, keep in (("top_k", keep_top_k), ("top_p", keep_top_p), ("min_p", keep_min_p)):
        if settings[name] is not None:
            logits = keep(logits, settings[name])
    return probabilities(logits)


def test_probabilities_are_the_programs_to_a_millionth(document: Any) -> None:
    """For random logits, settings, recent and suppressed ids every probability agrees with sampling.py to 1e-6."""
    given = list(cases(CASES))
    body = "return given[0].map((c) => [...m.distribution(c.logits, c.settings, c.recent, c.suppressed).p])"
    found = run(document, "sampling.js", body, given)
    apart = [np.abs(drawn_with(case) - np.array(p)).max() for case, p in zip(given, found, strict=True)]
    assert max(apart) < 1e-6


def test_a_draw_falls_on_the_id_that_the_program_draws(document: Any) -> None:
    """With the same u, the page and `sampling.sample` take the same id, also where u is 0 or nearly 1."""
    given = list(cases(CASES))
    for case, u in zip(given, (0.0, 1 - 2**-24), strict=False):
        case["u"] = u
    body = "return given[0].map((c) => m.draw(m.distribution(c.logits, c.settings, c.recent, c.suppressed).p, c.u))"
    found = run(document, "sampling.js", body, given)
    wanted = [
        sample(np.array(c["logits"], np.float32), c["u"], SampleConfig(**c["settings"]), c["recent"], c["suppressed"])
        for c in given
    ]
    assert found == wanted


def test_what_was_cut_names_the_filter_that_did_it(document: Any) -> None:
    """An id that is drawn with nothing was cut by a filter that is on, or is suppressed; the others were not cut."""
    given = list(cases(CASES))
    body = """return given[0].map((c) => {
        const {p, cut} = m.distribution(c.logits, c.settings, c.recent, c.suppressed);
        return [[...p], cut]; })"""
    found = run(document, "sampling.js", body, given)
    for case, (p, cut) in zip(given, found, strict=True):
        on = {name for name, value in case["settings"].items() if value is not None} | {"never"}
        for id, (chance, name) in enumerate(zip(p, cut, strict=True)):
            assert name is None or (name in on and chance == 0)
            assert (name == "never") == (id in case["suppressed"])
        kept = [chance for chance, name in zip(p, cut, strict=True) if name is None]
        assert abs(sum(kept) - 1) < 1e-5


def test_a_seed_draws_what_it_draws_in_numpy(document: Any) -> None:
    """The first draw of a seed is that of numpy.random.default_rng, bit for bit."""
    seeds = [0, 1, 2, 42, 2**31, 2**32 - 1, 2**32, 2**40 + 5, 2**53 - 1, *range(100, 200)]
    found = run(document, "random.js", "return given[0].map(m.firstDraw)", seeds)
    assert found == [float(np.random.default_rng(seed).random(dtype=np.float32)) for seed in seeds]


def test_a_payload_arrives_as_it_was_sent(document: Any) -> None:
    """Wherever they lie in the bytes, tensors and the object beside them come out of a payload as they went in."""
    random = np.random.default_rng(1)
    tensors = {
        "attention": random.integers(0, 256, (2, 3, 15), np.uint8),
        "logits": random.normal(0, 1, (5, 7)).astype(np.float32),
        "ids": np.arange(5, dtype=np.int32),
        "empty": np.zeros((0, 4), np.float32),
    }
    for name in ("json", "é\n<b>", "odd length"):
        payload = Payload(tensors, {"version": 1, "prompt": name})
        content = base64.b64encode(payload.to_bytes()).decode()
        body = """const data = m.fromBase64(given[0]);
            return [data.meta, data.shape, ...given[1].map((name) => [...data[name]])]"""
        meta, shape, *found = run(document, "payload.js", body, content, list(tensors))
        assert meta == payload.meta
        assert shape == {each: list(array.shape) for each, array in tensors.items()}
        for array, numbers in zip(tensors.values(), found, strict=True):
            assert np.array_equal(np.array(numbers, array.dtype), array.ravel())


def test_a_payload_of_another_version_is_refused_in_words(document: Any) -> None:
    """A page that was loaded before the program was replaced says so."""
    content = (
        Payload({"ids": np.arange(3, dtype=np.int32)}, {}).to_bytes().replace(b'"mlx_tinylm":"1"', b'"mlx_tinylm":"9"')
    )
    body = "try { m.fromBase64(given[0]); } catch (error) { return error.message; }"
    assert "load the page again" in run(document, "payload.js", body, base64.b64encode(content).decode())


def test_the_state_survives_its_address(document: Any) -> None:
    """Whatever the prompt holds, reading an address gives the state that it was made from."""
    state = {
        "view": "layers",
        "prompt": "a&b=c#d%20 e\n+é“<b>",
        "position": 3,
        "head": [2, 11],
        "settings": {"temperature": 0, "top_k": 5, "top_p": None, "min_p": 0.25, "repetition_penalty": 1.5},
        "seed": 2**40,
    }
    found = run(document, "state.js", "return m.parse(m.format('tok-en_', given[0]))", state)
    assert found == {"token": "tok-en_", "state": state}


def test_a_strange_address_is_read_without_harm(document: Any) -> None:
    """What no page wrote is left aside, one by one, and the rest counts."""
    body = "return m.parse('#t&view=none&at=-4&head=a.b&temperature=hot&top_k=off&seed=-3&x=y').state"
    assert run(document, "state.js", body) == {
        "view": "none",
        "prompt": None,
        "position": 0,
        "head": None,
        "settings": {"temperature": 0.8, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None},
        "seed": 0,
    }
