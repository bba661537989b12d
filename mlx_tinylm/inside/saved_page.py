"""The page as one file that opens from disk: its styles, its modules as one script, and the answers to one prompt.

A page that is opened from disk may load nothing, so all is in it, and its policy names its own script and styles by
their SHA-256: whatever a text or a model says, nothing else in the file can run.

The answers stand in `<script type="application/json" id="saved">`:

    state      what is shown first, as in the page's address, without the token
    model      as /api/model, with the saved prompt
    payload    of the prompt, in base64
    embedding, surprise, write, held_out     as /api/... answers for the prompt, lines as a list; null where it cannot
    heads_off  {"layer.head": payload} without one head: ids, logits, surprise
    metrics    {run: as /api/metrics}
    history    {run: {step: {payload, sample}}}
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import write_atomically
from mlx_tinylm.inside.api import Api, thinned
from mlx_tinylm.inside.collection import Collection
from mlx_tinylm.inside.page_files import INDEX, page_files
from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.run_folder.runs import find_run

MARK = '<meta name="generator" content="mlx-tinylm">'
SAMPLE = 200  # ids that each snapshot writes
WRITTEN = 400  # and the model itself
SEED = 0  # as on the page
ROOM = 6 << 20  # bytes for what can be left out: one head off after the other, snapshots
READ = ["logits", "surprise"]
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)">\n?')
SCRIPT = re.compile(r'<script type="module" src="([^"]+)"></script>')


def save_page(path: Path, subject: Subject, payload: Payload, runs: Iterable[Path] | None = None) -> int:
    """Write the page of one prompt, with the history of some runs; by default that of the subject's folder, if it is
    one. Returns its size in bytes.

    Raises TinyLMError where it cannot be written, and where something is there that is no page of this program.
    """
    check_free(path)
    if runs is None:
        runs = [subject.folder.path] if find_run(subject.folder.path) is not None else []
    content = whole_page(saved(Api(Collection(subject, runs)), payload)).encode("utf-8", "replace")
    write_atomically(path, content)
    return len(content)


def check_free(path: Path) -> None:
    """Raise TinyLMError where something is at `path` that this program has not written."""
    with suppress(FileNotFoundError, NotADirectoryError):  # the second is said when it is written
        with open(path, "rb") as file:
            ours = MARK.encode() in file.read(1024)
        if not ours:
            raise TinyLMError(f"{path}: is there already, and is no page of this program; choose another name")


# The answers


def saved(api: Api, payload: Payload) -> dict[str, Any]:
    """What the page needs to show one prompt, as JSON."""
    prompt, ids = payload.meta["prompt"], payload.tensors["ids"].tolist()
    room = ROOM
    found: dict[str, Any] = {
        "state": "view=next",
        "model": {**api.model(), "prompt": prompt},
        "payload": text_of(payload.to_bytes()),
        "embedding": answered(api, "embedding"),
        "surprise": answered(api, "surprise", text=prompt),
        "write": answered(api, "write", text=prompt, seed=SEED, tokens=WRITTEN),
        "held_out": answered(api, "held_out", seed=SEED),
        "heads_off": {},
        "metrics": {name: whole_metrics(api, name) for name in api.collection.folders},
        "history": {},
    }
    for run in found["model"]["runs"]:
        kept = {}
        for step in run["steps"]:
            asked = {"run": run["name"], "step": step}
            traced = answered(api, "trace", ids=ids, parts=READ, **asked)
            if traced is None or len(traced) > room:  # another vocabulary, or a large one
                break
            sample = answered(api, "write", text=prompt, seed=SEED, tokens=SAMPLE, **asked) or []
            kept[str(step)] = {"payload": traced, "sample": "".join(line.get("text", "") for line in sample)}
            room -= len(traced)
        run["steps"] = [int(step) for step in kept]
        found["history"][run["name"]] = kept
        run["live"] = False
    config = api.subject.model.config
    for layer, head in ((layer, head) for layer in range(config.layers) for head in range(config.heads)):
        without = answered(api, "trace", ids=ids, parts=READ, heads_off=[[layer, head]])
        if without is None or (room := room - len(without)) < 0:
            break
        found["heads_off"][f"{layer}.{head}"] = without
    return found


def answered(api: Api, name: str, **request: Any) -> Any:
    """An answer that can be kept: bytes as text, lines as a list; None where there is none."""
    try:
        answer = api.answer(f"/api/{name}", json.dumps(request).encode())
        if isinstance(answer, Generator):
            lines: list[Any] = []
            return drained(answer, lines) or lines
        return text_of(answer) if isinstance(answer, bytes) else answer
    except TinyLMError:
        return None


def drained(work: Generator[Any, None, Any], lines: list[Any]) -> Any:
    """Put the lines of a long answer into a list; what it returns in the end."""
    while True:
        try:
            lines += filter(None, [next(work)])
        except StopIteration as end:
            return end.value


def whole_metrics(api: Api, name: str) -> dict[str, Any]:
    """All that a run has measured so far, thinned."""
    lines: list[Any] = []
    baselines, start = None, 0
    while True:
        found = api.metrics(name, start)
        lines = found["lines"] if found["restarted"] else lines + found["lines"]
        baselines = found["baselines"] or baselines
        if found["next"] <= start:
            return found | {"lines": thinned(lines), "baselines": baselines, "live": False, "restarted": False}
        start = found["next"]


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


# The file


def whole_page(content: dict[str, Any]) -> str:
    """The page with what it is to show."""
    files = page_files()
    html = files[f"/{INDEX}"].read().decode()
    sheets = [files[f"/{name}"].read().decode() for name in STYLE.findall(html)]
    entry = SCRIPT.search(html)
    assert entry, "index.html has no module to begin with"
    style = "\n".join(sheets)
    script = files[f"/{entry[1]}"].read().decode()
    # In a script only its own end tag, and what begins a comment, mean something to HTML.
    script = re.sub(r"</(?=script)", r"<\\/", script, flags=re.I).replace("<!--", "<\\!--")
    policy = POLICY.format(script=hashed(script), style=hashed(style))
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    body = f'<script type="application/json" id="saved">{data}</script>\n<script type="module">{script}</script>'
    html = SCRIPT.sub(lambda _: body, STYLE.sub("", html), count=1)
    first = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{MARK}\n<style>{style}</style>\n'
    return html.replace("<title>", f"{first}<title>", 1)


def hashed(text: str) -> str:
    """As a policy names an inline script or style (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
