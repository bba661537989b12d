"""What `eval` says of a model folder."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder, random_tensors
from pair_files import pair, write
from tiny_models import brute_force
from tiny_runs import PLAIN, metrics, train

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import EvaluationReport, evaluate_text
from mlx_tinylm.integrity import read_sealed, sealed
from mlx_tinylm.mean_loss import Evaluation
from mlx_tinylm.memorised import SAMPLE_LENGTH, SAMPLES, memorised_share
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config
from mlx_tinylm.model_folder.folder import WEIGHTS, shipped_weights, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder.training_text import training_text
from mlx_tinylm.text.corpus import Corpus, open_named
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS, is_kept
from mlx_tinylm.text.ngrams import ngram_losses
from mlx_tinylm.text.tokenizer import Tokenizer

GPT2 = GPT2Config(vocab_size=97, context=8, width=16, layers=1, heads=2)
QWEN3 = Qwen3Config(vocab_size=97, context=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=20)
ALPHABET = "".join(map(chr, range(32, 32 + 96)))  # what random_folder gives a vocabulary of 97


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path) -> Path:
    return random_folder(tmp_path / "model", GPT2)


@pytest.fixture
def text(tmp_path: Path, english: str) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(character for character in english if character in ALPHABET)[:400])
    return path


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_a_given_text_counts_as_a_whole(folder: Path, text: Path, backend: str) -> None:
    """A file counts from its first to its last character, whatever the folder's train.json is."""
    (folder / "train.json").write_text("{")
    result = evaluate_text(folder, [str(text)], backend)
    model, tokenizer = load(folder, "numpy")
    expected = brute_force(model, tokenizer.encode(text.read_text()), 8)
    assert result.evaluation.loss == pytest.approx(expected, rel=1e-5)
    assert (result.evaluation.targets, result.evaluation.characters) == (399, 399)
    assert (result.text, result.part, result.backend) == (str(text), "all", backend)
    assert (result.ngram_losses, result.memorised) == ((), None)


def test_the_report_as_json_and_as_a_table() -> None:
    """Scripts rely on these keys, on these only, and the table has the same."""
    plain = EvaluationReport(Path("a/b"), "book", "all", "mlx", Evaluation(math.log(2), 10, 40, 80))
    found = {"weights": "a/b", "text": "book", "part": "all", "backend": "mlx", "targets": 10}
    found |= {"loss": pytest.approx(math.log(2)), "perplexity": pytest.approx(2), "bits_per_char": pytest.approx(0.25)}
    found |= {"bits_per_byte": pytest.approx(0.125)}
    assert plain.to_json() == found
    whole = dataclasses.replace(plain, ngram_losses=(3.0, 2.5), memorised=0.0)
    assert whole.to_json() == {**found, "1_gram_loss": 3.0, "2_gram_loss": 2.5, "memorised": 0.0}
    assert dict(whole.rows()) == json.loads(json.dumps(whole.to_json()))


def test_a_tokenizer_of_several_characters(tmp_path: Path, own_cache: Path) -> None:
    """With tokens of several characters the loss is that by id, and bits count the predicted characters."""
    import tokenizers
    from tokenizers import decoders, models

    folder = random_folder(tmp_path / "model", GPT2Config(vocab_size=3, context=8, width=16, layers=1, heads=2))
    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    inner.decoder = decoders.Fuse()
    (folder / "tokenizer.json").write_text(inner.to_str())
    (tmp_path / "text.txt").write_text("ab" * 5 + "a")  # the first id stands for 2 of the 11 characters, and bytes
    result = evaluate_text(folder, [str(tmp_path / "text.txt")], "numpy").evaluation
    assert (result.targets, result.characters, result.bytes) == (5, 9, 9)
    assert result.loss == pytest.approx(brute_force(load(folder, "numpy")[0], [2, 2, 2, 2, 2, 0], 8), rel=1e-5)


def test_bits_per_byte(tmp_path: Path, own_cache: Path) -> None:
    """Bits are those of all ids over the bytes of the text that they write, whatever a character takes of these."""
    config = GPT2Config(vocab_size=258, context=8, width=16, layers=1, heads=2, eos_ids=(256,))
    tokenizer = Tokenizer.from_texts([], 258)  # an id a byte
    (tmp_path / "model").mkdir()
    write_folder(tmp_path / "model", config, tokenizer)
    write_tensors(tmp_path / "model" / WEIGHTS, random_tensors(config))
    (tmp_path / "text.txt").write_text("aé日😀" * 5, encoding="utf-8")
    result = evaluate_text(tmp_path / "model", [str(tmp_path / "text.txt")], "numpy").evaluation
    assert (result.targets, result.characters, result.bytes) == (49, 19, 49)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2))
    assert result.bits_per_char == pytest.approx(result.loss * 49 / 19 / math.log(2))


def test_what_cannot_be_measured(folder: Path, text: Path) -> None:
    """Damaged weights and unknown characters each end in one line."""
    huge = random_tensors(GPT2)  # finite, and their products are not
    write_tensors(folder / WEIGHTS, huge | {"ln_f.weight": huge["ln_f.weight"] * np.float32(3e38)})
    for backend in ("numpy", "mlx"):
        with pytest.raises(TinyLMError, match="the model's output is not a finite number; its weights are damaged"):
            evaluate_text(folder, [str(text)], backend)
    text.write_text("abc é 😀", encoding="utf-8")
    with pytest.raises(TinyLMError) as error:
        evaluate_text(folder, [str(text)], "numpy")
    assert str(error.value) == f"{text}: has characters that the model does not know: 'é😀'"


# What a model was trained on


@pytest.fixture
def run(text: Path, own_cache: Path, tmp_path: Path) -> Path:
    train(tmp_path / "run", PLAIN, text)
    return tmp_path / "run"


def test_the_training_text_counts_by_its_held_out_tenth(run: Path, text: Path) -> None:
    """Without a text it is the recorded one, of which the last tenth counts: what the run itself measured."""
    report = evaluate_text(run, [], "mlx", baselines=True, memorised=True)
    assert (report.text, report.part, report.evaluation.targets) == (str(text), "held-out tenth", 39)
    measured = min(found["val_loss"] for found in metrics(run) if "val_loss" in found)
    assert report.evaluation.loss == pytest.approx(measured, rel=1e-6)
    model, tokenizer = load(run, "mlx")
    ids = np.array(tokenizer.encode(text.read_text()))
    assert report.ngram_losses == pytest.approx(ngram_losses(ids[:360], ids[360:], tokenizer.vocab_size))
    assert report.memorised == memorised_share(model, tokenizer, text.read_text()[:360])


def test_its_own_text_is_known_wherever_it_lies(run: Path, text: Path, tmp_path: Path) -> None:
    """Given by any name, the text a model was trained on counts by its held-out tenth, and it is said why."""
    expected = evaluate_text(run, [], "numpy", baselines=True, memorised=True)
    moved = Path(shutil.move(text, tmp_path / "moved.txt"))
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(moved.read_bytes()))
    for place in (moved, packed):
        found = evaluate_text(run, [str(place)], "numpy", baselines=True, memorised=True)
        assert found.text == str(place)
        assert found.part == "held-out tenth, as the model was trained on the rest"
        assert found.evaluation == expected.evaluation
        assert (found.ngram_losses, found.memorised) == (expected.ngram_losses, expected.memorised)
    moved.write_text(moved.read_text() + "a")
    assert evaluate_text(run, [str(moved)], "numpy").part == "all"


def test_baselines_of_another_text(run: Path, text: Path, tmp_path: Path) -> None:
    """Another text is compared with n-grams of what the model learned from, if that is here; else that is asked for."""
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[100:300][::-1])
    found = evaluate_text(run, [str(other)], "numpy", baselines=True, memorised=True)
    tokenizer = load(run, "numpy")[1]
    learned, ids = (np.array(tokenizer.encode(each.read_text())) for each in (text, other))
    assert (found.part, found.evaluation.targets) == ("all", 199)
    assert found.ngram_losses == pytest.approx(ngram_losses(learned[:360], ids, tokenizer.vocab_size))
    assert found.memorised == evaluate_text(run, [], "numpy", memorised=True).memorised
    moved = Path(shutil.move(text, tmp_path / "moved.txt"))
    for wanted in ({"baselines": True}, {"memorised": True}):
        with pytest.raises(TinyLMError) as error:
            evaluate_text(run, [str(other)], "numpy", **wanted)
        assert str(error.value) == (
            f"{run}: --baselines and --memorised need the text it was trained on, '{text}', which is not here; "
            "give that text with --data"
        )
        assert (
            evaluate_text(run, [str(moved)], "numpy", **wanted).evaluation.targets == 39
        )  # what was asked for will do


def test_a_folder_that_says_nothing_of_its_text(folder: Path, text: Path) -> None:
    """It is not taken for Tiny Shakespeare's: a text is asked for, and where even that is no help, that is said."""
    with pytest.raises(TinyLMError) as error:
        evaluate_text(folder, [], "numpy")
    assert str(error.value) == f"{folder}: says nothing of the text it was trained on; give a text with --data"
    assert evaluate_text(folder, [str(text)], "numpy").part == "all"
    with pytest.raises(TinyLMError) as error:
        evaluate_text(folder, [str(text)], "numpy", memorised=True)
    assert str(error.value).endswith(
        "model: says nothing of its text, which --baselines and --memorised need; leave them out"
    )


def test_a_named_corpus_of_a_folder_that_says_nothing(tmp_path: Path, own_cache: Path, fetched: Corpus) -> None:
    """A named corpus counts by its held-out tenth for any model, and its other nine tenths are the yardstick."""
    folder = random_folder(tmp_path / "model", GPT2)
    write_folder(folder, GPT2, Tokenizer.from_alphabet(fetched.alphabet))
    found = evaluate_text(folder, [fetched.name], "mlx", baselines=True)
    assert (found.text, found.part, found.evaluation.targets) == (fetched.name, "held-out tenth", 111_539)
    assert len(found.ngram_losses) == 5


@pytest.fixture
def fetched() -> Corpus:
    if not is_kept(DEFAULT_CORPUS):
        pytest.skip("tinyshakespeare is not fetched")
    return open_named(DEFAULT_CORPUS)


def test_what_ships(fetched: Corpus) -> None:
    """The shipped model says that it was trained on Tiny Shakespeare, and a copy of that is known for it."""
    ids = fetched.text()
    assert training_text(shipped_weights()) == fetched
    assert len(ids) == 1_115_394


def test_stages_are_watched(run: Path) -> None:
    """Each stage begins at nothing, before it takes any time, rises, and ends at all there is."""
    seen: dict[str, list[tuple[int, int]]] = {}
    evaluate_text(
        run,
        [],
        "numpy",
        baselines=True,
        memorised=True,
        watch=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    totals = {"loss": 39, "baselines": 5, "memorised": SAMPLES * SAMPLE_LENGTH}
    assert list(seen) == list(totals)
    for stage, total in totals.items():
        done = [each for each, _ in seen[stage]]
        assert (done[0], done[-1]) == (0, total)
        assert done == sorted(done)
        assert {each for _, each in seen[stage]} == {total}


def test_a_record_that_does_not_hold(run: Path, text: Path) -> None:
    """A damaged record or a text that has changed is no reason to measure another: it is named, a text asked for."""
    whole = (run / "train.json").read_text()
    for content in ("{", "[]", "3", whole[:-9], whole.replace(str(PLAIN.steps), "9", 1)):
        (run / "train.json").write_text(content)
        with pytest.raises(TinyLMError, match=r"train\.json: [^\n]*; give a text with --data$"):
            evaluate_text(run, [], "numpy")
    (run / "train.json").write_text(whole)
    text.write_text(text.read_text() + "a")
    with pytest.raises(TinyLMError, match=r"text\.txt: has changed since the model in .* give a text with --data$"):
        evaluate_text(run, [], "numpy")


def test_a_recorded_text_that_is_not_here(run: Path) -> None:
    """Standard input, a device or a lost file, recorded by whomever, is never opened: a text is asked for."""
    record = read_sealed(run / "train.json")
    for item in ("-", "/dev/zero", "no such file", "\0", "\ud800", "x" * 9999):
        (run / "train.json").write_text(sealed(record | {"data": [item]}))
        with pytest.raises(TinyLMError) as error:
            evaluate_text(run, [], "numpy")
        assert "is not here; give a text with --data" in str(error.value)
        assert len(str(error.value)) < 500


# Pairs


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_pairs_are_answered(tmp_path: Path, folder: Path, backend: str) -> None:
    """Of pairs, the loss is that of completions, and exact answers are counted; both are in the JSON and the table."""
    path = write(tmp_path / "a.jsonl", *[pair(str(n), "b") for n in range(5)])
    found = evaluate_text(folder, [str(path)], backend)
    assert (found.part, found.pairs, found.exact_answers) == ("all", 5, 0)
    assert (found.evaluation.targets, found.evaluation.characters) == (10, 5)
    assert {"exact_answers": 0, "pairs": 5}.items() <= found.to_json().items()
    assert ("exact_answers", "0 of 5") in found.rows()


def test_pairs_that_cannot_be_measured(tmp_path: Path, folder: Path) -> None:
    """What is for text is refused of pairs, as is a pair that does not fit into the context."""
    path = write(tmp_path / "a.jsonl", pair("a" * 5, "b" * 4))
    with pytest.raises(TinyLMError, match=r"a\.jsonl: the longest pair has 10 ids with its end, more than the 9 of a"):
        evaluate_text(folder, [str(path)], "numpy")
    for options in ({"baselines": True}, {"memorised": True}):
        with pytest.raises(TinyLMError, match="--baselines and --memorised are for text, not for pairs"):
            evaluate_text(folder, [str(path)], "numpy", **options)
