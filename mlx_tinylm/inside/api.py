"""What the page may ask, and the answers: JSON, the payload's bytes, or lines as they come.

Every request is a JSON object; what it may hold are the arguments of the method of `Api` that answers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from mlx_tinylm import __version__
from mlx_tinylm.checks import brief, check, check_count
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside import measures, reading, trace, writing
from mlx_tinylm.inside.code_links import code_links
from mlx_tinylm.inside.collection import Collection
from mlx_tinylm.inside.neighbours import embedding_answer
from mlx_tinylm.inside.origins import Origins
from mlx_tinylm.inside.payload import Payload
from mlx_tinylm.inside.request import name_of, names_of, pairs, parsed
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.inside.trace import Head
from mlx_tinylm.locks import is_locked
from mlx_tinylm.run_folder.metrics import BASELINES, increment
from mlx_tinylm.sample_config import SampleConfig

Line: TypeAlias = dict[str, Any]
Answer: TypeAlias = "dict[str, Any] | bytes | Generator[Line | None, None, dict[str, Any] | None]"

PREFIX = "/api/"
TEXT = 40_000  # characters of a text by surprise, or to go on from
TOKENS = 2_000  # to be written in one go
SEARCHED = 1 << 25  # characters of a training text in which origins are looked for
POINTS = 1_000  # steps of a run in one answer
KEPT = ("step", "loss", "val_loss", "seconds", "tokens", BASELINES)  # of the lines of metrics.jsonl
FARTHEST = 2**53  # as far as a file can be read, in bytes that JavaScript can count
SETTINGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
PROMPT = 120  # ids of a prompt where none is given
PARTS_OF_READING = {"ids", "logits", "surprise"}  # of a payload, which need nothing but the logits


class Api:
    """The answers about one model and the runs beside it; all are to be asked for in one thread."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.subject = collection.subject
        self._endpoints = {
            f"{PREFIX}{each.__name__}": each
            for each in (self.model, self.trace, self.write, self.surprise, self.embedding, self.metrics, self.held_out)
        }

    def answer(self, path: str, body: bytes) -> Answer:
        """The answer to the body of a request; long ones come in parts, with None for a pause.

        Raises LookupError where nothing is at `path`, TinyLMError for what cannot be asked.
        """
        if path not in self._endpoints:
            raise LookupError("there is nothing to ask here")
        endpoint = self._endpoints[path]
        request = parsed(body)
        # `from` is a word of Python's, which takes a line below it.
        names = {name.rstrip("_"): each for name, each in inspect.signature(endpoint).parameters.items()}
        if unknown := sorted(request.keys() - names.keys()):
            raise TinyLMError(f"{path} knows no {brief(unknown[0])}; it knows {', '.join(names) or 'nothing'}")
        for name, parameter in names.items():
            check(name in request or parameter.default is not parameter.empty, f"{path} needs {name}")
        found: Answer = endpoint(**{names[name].name: value for name, value in request.items()})
        return found

    def model(self) -> dict[str, Any]:
        """What the page needs to know before anything else."""
        subject, config = self.subject, self.subject.model.config
        newlines = [id for id, text in enumerate(subject.vocabulary) if "\n" in text]
        settings = {name: getattr(SampleConfig(), name) for name in SETTINGS}
        return {
            "model": subject.facts,
            "vocabulary": list(subject.vocabulary),
            "suppressed": list(config.suppressed),
            "newlines": newlines,
            "longest": subject.longest,
            "prompt": self.prompt,
            "settings": settings,
            "limits": {"write": TOKENS, "surprise": TEXT},
            "text": {
                "name": subject.facts["text"],
                "counter": subject.counter is not None,
                "why": subject.why_no_counter,
            },
            "runs": self.collection.runs(),
            "version": __version__,
            "code": {view: dataclasses.asdict(link) for view, link in code_links().items()},
        }

    @functools.cached_property
    def prompt(self) -> str:
        """Some text to begin with."""
        return self.subject.tokenizer.decode(self.subject.held_out(PROMPT))

    def trace(
        self,
        text: object = None,
        ids: object = None,
        run: object = None,
        step: object = None,
        heads_off: object = (),
        parts: object = None,
    ) -> bytes:
        """The payload of a text, or of ids; only some of its tensors, if told."""
        subject = self._at(run, step)
        given = self._ids(subject, text, ids, subject.longest)
        off = pairs(heads_off)
        wanted = names_of(parts)
        if wanted is not None and wanted <= PARTS_OF_READING:
            return self._reading(subject, given, off, wanted).to_bytes()
        found = subject.look(given, off, counter=run is None)
        if wanted is not None:
            tensors = {name: each for name, each in found.tensors.items() if name in wanted or name == "ids"}
            found = dataclasses.replace(found, tensors=tensors)
        return found.to_bytes()

    @staticmethod
    def _reading(subject: Subject, ids: Sequence[int], off: list[Head], wanted: set[str]) -> Payload:
        """What needs neither lens nor heads, as for each of a dozen snapshots."""
        traced = trace.trace(subject.model, ids, off)
        found = {"logits": traced.logits, "surprise": measures.surprise(traced.logits, traced.ids)}
        meta = {"version": 1, "model": dict(subject.facts), "heads_off": [list(head) for head in off]}
        return Payload({"ids": traced.ids} | {name: found[name] for name in wanted - {"ids"}}, meta)

    def write(
        self,
        text: object,
        settings: object = None,
        seed: object = None,
        tokens: object = 400,
        run: object = None,
        step: object = None,
    ) -> Answer:
        """What follows a text, id by id; lines as in writing.py."""
        subject = self._at(run, step)
        ids = self._ids(subject, text, None, TEXT)
        given = {} if settings is None else settings
        check(isinstance(given, dict), f"settings must be an object, not {brief(given)}")
        assert isinstance(given, dict)
        if unknown := sorted(given.keys() - set(SETTINGS)):
            raise TinyLMError(f"no setting {brief(unknown[0])}; there are {', '.join(SETTINGS)}")
        config = SampleConfig(max_tokens=check_count("tokens", tokens, 1, TOKENS), seed=seed, **given)  # type: ignore[arg-type]
        return self._written(subject, ids, config)

    def _written(
        self, subject: Subject, ids: Sequence[int], config: SampleConfig
    ) -> Generator[Line | None, None, None]:
        yield from writing.write(subject.model, subject.tokenizer, ids, config, self.origins)

    @functools.cached_property
    def origins(self) -> Origins | None:
        """The text that the model learned from, to look up what it writes; None where it is not here, or too long."""
        data, corpus = self.subject.dataset, self.subject.corpus
        if data is None or corpus is None or corpus.characters > SEARCHED:
            return None
        return Origins(self.subject.tokenizer.decode(data.train.tolist()))

    def surprise(self, text: object) -> Answer:
        """A whole text by surprise, as `eval` reads it."""
        return reading.surprises(self.subject.model, self.subject.tokenizer, self._ids(self.subject, text, None, TEXT))

    def embedding(self) -> dict[str, Any]:
        """Which embeddings are close to each other."""
        return self._embedding

    @functools.cached_property
    def _embedding(self) -> dict[str, Any]:
        model = self.subject.model
        return embedding_answer(trace.embeddings(model), model.config.suppressed)

    def metrics(self, run: object, from_: object = 0) -> dict[str, Any]:
        """The steps that a run has made since byte `from` of its metrics."""
        folder = self.collection.folder(name_of(run))
        found = increment(folder, check_count("from", from_, 0, FARTHEST))
        lines = [{key: line[key] for key in KEPT if key in line} for line in found.lines]
        baselines = next((line[BASELINES] for line in reversed(lines) if BASELINES in line), None)
        live = is_locked(folder)
        return {
            "lines": thinned(lines),
            "next": found.next,
            "restarted": found.restarted,
            "live": live,
            "baselines": baselines,
        }

    def held_out(self, seed: object) -> dict[str, Any]:
        """Text that the model was not trained on, to guess at."""
        return reading.held_out(self.subject, check_count("seed", seed, 0, FARTHEST))

    # What requests hold

    def _at(self, run: object, step: object) -> Subject:
        number = None if step is None else check_count("step", step, 0, FARTHEST)
        return self.collection.at(None if run is None else name_of(run), number)

    def _ids(self, subject: Subject, text: object, ids: object, most: int) -> list[int]:
        """The ids of a request; raises TinyLMError unless it is a text or ids, of which there are at most `most`."""
        check((text is None) != (ids is None), "give either a text or ids")
        if ids is not None:
            check(isinstance(ids, list) and 0 < len(ids) <= most, f"ids must be a list of 1 to {most:,} numbers")
            assert isinstance(ids, list)
            same = subject is self.subject or subject.vocabulary == self.subject.vocabulary
            check(same, "this run has another vocabulary: ids mean something else there")
            return [check_count("an id", id, 0, subject.model.config.vocab_size - 1) for id in ids]
        check(isinstance(text, str), f"text must be text, not {brief(text)}")
        assert isinstance(text, str)
        # A token may be many characters, but a text of so many has at least one for each hundred.
        check(len(text) <= max(TEXT, most), f"the text has {len(text):,} characters; at most {TEXT:,} are read")
        check(all(not 0xD800 <= ord(character) <= 0xDFFF for character in text), "the text has half a character in it")
        found = subject.encode(text)
        check(len(found) <= most, f"the text has {len(found):,} {subject.unit}s; at most {most:,} can be read at once")
        return found


def thinned(lines: Sequence[Line], most: int = POINTS) -> list[Line]:
    """At most about `most` of the lines of a run, evenly, and every one with a validation or baselines."""
    every = -(-len(lines) // most) if lines else 1
    return [line for i, line in enumerate(lines) if i % every == 0 or "val_loss" in line or BASELINES in line]
