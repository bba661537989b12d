"""The command line: what is refused and in which words, what its help shows, and what a whole session looks like."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import pytest
from click.testing import CliRunner, Result
from tiny_runs import PLAIN, command, losses, options, same_run, train, train_until, write_text

from mlx_tinylm.cli.main import main
from mlx_tinylm.run_folder.settings import TrainConfig

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands below are pointed at."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_tinylm.text.ids.cache_dir", lambda: folder / "ids")
        text = write_text(folder / "text.txt")
        train(folder / "model", dataclasses.replace(PLAIN, steps=4), text)
        train_until(folder / "half", PLAIN, text, 1)
    write_text(folder / "other.txt", 1_500)
    write_text(folder / "short.txt", 30)
    (folder / "unknown.txt").write_text("été " * 500)
    (folder / "one.txt").write_text("a")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "latin1.txt").write_bytes("plain text, then caf\xe9".encode("latin-1"))
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "broken.gz").write_bytes(gzip.compress(b"text " * 400)[:-20])
    (folder / "no-text").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thesis.doc").write_text("years of work")
    (folder / "locked").mkdir()
    (folder / "locked" / ".lock").mkdir()  # not even the superuser can write to this one
    (folder / "no-weights").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / "model" / name, folder / "no-weights" / name)
    shutil.copytree(folder / "model", folder / "bad-config")
    raw = json.loads((folder / "bad-config" / "config.json").read_text())
    (folder / "bad-config" / "config.json").write_text(json.dumps(raw | {"n_layer": "three"}))
    return folder


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in that folder."""
    monkeypatch.chdir(made)
    return made


def invoke(*arguments: object, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


NEW = [*options(PLAIN), "--data", "text.txt", "--out", "new"]
USAGE = [
    # (arguments, what stands after "Error: ")
    (["nonsense"], r"No such command 'nonsense'"),
    (["trian"], r"No such command 'trian'\. Did you mean 'train'\?"),
    (["--nonsense"], r"No such option '--nonsense'"),
    (["train", "--nonsense"], r"No such option '--nonsense'"),
    (["train", "--epochs", "3"], r"No such option '--epochs'"),
    (["train", "text.txt"], r"Got unexpected extra argument \(text\.txt\)"),
    (["train", "--steps"], r"Option '--steps' requires an argument"),
    (["train", "--steps", "0"], r"Invalid value for '--steps': 0 is not in the range 1<=x<=1000000000"),
    (["train", "--steps", "-5"], r"Invalid value for '--steps': -5 is not in the range"),
    (["train", "--steps", "1.5"], r"Invalid value for '--steps': '1\.5' is not a whole number"),
    (["train", "--steps", "ten"], r"Invalid value for '--steps': 'ten' is not a whole number"),
    (["train", "--steps", "off"], r"Invalid value for '--steps': 'off' is not a whole number"),
    (["train", "--steps", ""], r"Invalid value for '--steps': '' is not a whole number"),
    (["train", "--steps", "9" * 400], r"Invalid value for '--steps': '9{40}' is not finite, or too large"),
    (["train", "--batch-size", "0"], r"'--batch-size': 0 is not in the range x>=1"),
    (["train", "--batch-size", "100000000"], r"batch_size must be a whole number from 1 to 10,000,000"),
    (["train", "--context", "1"], r"'--context': 1 is not in the range x>=2"),
    (["train", "--layers", "0"], r"'--layers': 0 is not in the range 1<=x<=1000"),
    (["train", "--layers", "1001"], r"'--layers': 1001 is not in the range 1<=x<=1000"),
    (["train", "--heads", "0"], r"'--heads': 0 is not in the range x>=1"),
    (["train", "--width", "-16"], r"'--width': -16 is not in the range x>=1"),
    (["train", "--dropout", "1"], r"'--dropout': 1\.0 is not in the range 0\.0<=x<=0\.95"),
    (["train", "--dropout", "-0.1"], r"'--dropout': -0\.1 is not in the range"),
    (["train", "--dropout", "nan"], r"'--dropout': 'nan' is not finite"),
    (["train", "--learning-rate", "0"], r"'--learning-rate': 0\.0 is not in the range x>0\.0"),
    (["train", "--learning-rate", "-1"], r"'--learning-rate': -1\.0 is not in the range"),
    (["train", "--learning-rate", "inf"], r"'--learning-rate': 'inf' is not finite"),
    (["train", "--learning-rate", "1e300"], r"'--learning-rate': '1e300' is not finite, or too large"),
    (["train", "--learning-rate", "fast"], r"'--learning-rate': 'fast' is not a number"),
    (["train", "--beta1", "1"], r"'--beta1': 1\.0 is not in the range 0\.0<=x<=0\.9999"),
    (["train", "--weight-decay", "-1"], r"'--weight-decay': -1\.0 is not in the range"),
    (["train", "--grad-clip", "0"], r"'--grad-clip': 0\.0 is not in the range x>0\.0"),
    (["train", "--grad-clip", "none"], r"'--grad-clip': 'none' is not a number or off"),
    (["train", "--ema", "1"], r"'--ema': 1\.0 is not in the range"),
    (["train", "--patience", "0"], r"'--patience': 0 is not in the range x>=1"),
    (["train", "--eval-every", "0"], r"'--eval-every': 0 is not in the range x>=1"),
    (["train", "--seed", "-1"], r"'--seed': -1 is not in the range 0<=x<=2147483647"),
    (["train", "--family", "llama"], r"'--family': 'llama' is not one of 'gpt2', 'qwen3'"),
    (["train", "--optimizer", "sgd"], r"'--optimizer': 'sgd' is not one of 'adamw', 'muon'"),
    (["train", "--schedule", "poly"], r"'--schedule': 'poly' is not one of"),
    (["train", "--preset", "huge"], r"'--preset': 'huge' is not one of"),
    (["train", "--device", "tpu"], r"'--device': 'tpu' is not one of 'auto', 'cpu', 'gpu'"),
    (["train", "--resume", "half", "--out", "new"], r"--resume goes on in its own folder: leave out --out"),
    (["train", "--resume", "half", "--init-from", "model"], r"--resume goes on in its own folder: leave out"),
    (["train", "--resume", "half", "--force"], r"--resume goes on in its own folder: leave out"),
    (["train", "--resume", "half", "--preset", "seed"], r"--resume goes on in its own folder: leave out"),
    (["generate", "--temperature", "-1"], r"'--temp(erature)?'( / '--temp')?: -1\.0 is not in the range x>=0"),
    (["generate", "--temperature", "nan"], r"'--temp(erature)?'( / '--temp')?: 'nan' is not finite"),
    (["generate", "--temp", "hot"], r"'--temp(erature)?'( / '--temp')?: 'hot' is not a number"),
    (["generate", "--top-k", "0"], r"'--top-k': 0 is not in the range x>=1"),
    (["generate", "--top-p", "0"], r"'--top-p': 0\.0 is not in the range 0<x<=1"),
    (["generate", "--top-p", "1.1"], r"'--top-p': 1\.1 is not in the range 0<x<=1"),
    (["generate", "--min-p", "-0.1"], r"'--min-p': -0\.1 is not in the range 0<=x<=1"),
    (["generate", "--repetition-penalty", "0"], r"'--repetition-penalty': 0\.0 is not in the range x>0"),
    (["generate", "--max-tokens", "0"], r"'--max-tokens': 0 is not in the range x>=1"),
    (["generate", "--max-tokens", "1000000000"], r"max_tokens must be a whole number from 1 to 10,000,000"),
    (["generate", "--seed", "-1"], r"'--seed': -1 is not in the range x>=0"),
    (["generate", "--seed", str(2**63)], r"seed must be a whole number from 0 to 9,223,372,036,854,775,807"),
    (["generate", "--num-samples", "0"], r"'--num-samples': 0 is not in the range x>=1"),
    (["generate", "--backend", "torch"], r"'--backend': 'torch' is not one of 'auto', 'mlx', 'numpy'"),
    (["generate", "--stop", ""], r"the stop text is empty; leave it out"),
    (["generate", "ROMEO:"], r"Got unexpected extra argument \(ROMEO:\)"),
    (["eval", "model"], r"Got unexpected extra argument \(model\)"),
    (["eval", "--weights"], r"Option '--weights' requires an argument"),
    (["export", "model"], r"Missing option '--out'"),
    (["export", "--out", "new"], r"Missing argument 'WEIGHTS'"),
    (["export", "model", "--out", "new", "--dtype", "int8"], r"'--dtype': 'int8' is not one of"),
    (["export", "model", "--out", "new", "--quantize", "3"], r"'--quantize': '3' is not one of '8', '4'"),
    (["info", "model", "half"], r"Got unexpected extra argument \(half\)"),
    (["data", "one", "two"], r"Got unexpected extra argument \(two\)"),
]
MISTAKES = [
    # (arguments, standard input, what stands after "Error: ")
    (["generate", "--weights", "nowhere"], "", r"nowhere: no such folder\. Train one: mlx-tinylm train --out nowhere"),
    (["generate", "--weights", "text.txt"], "", r"text\.txt: not a model folder but a file"),
    (["generate", "--weights", "no-text"], "", r"no-text: no config\.json here"),
    (["generate", "--weights", ""], "", r".*no config\.json here"),
    (["generate", "--weights", "no-weights"], "", r"no-weights: no model\.safetensors here"),
    (["generate", "--weights", "bad-config"], "", r"bad-config/config\.json: layers must be a whole number .*'three'"),
    (["generate", "--weights", "model", "--prompt", ""], "", r"the prompt is empty; give the model something to go on"),
    (["generate", "--weights", "model", "--prompt", "-"], "", r"the prompt is empty"),
    (
        ["generate", "--weights", "model", "--prompt", "aé"],
        "",
        r"the model does not know 'é' \(character 2 of the text",
    ),
    (["generate", "--weights", "model", "--prompt", "\x1b"], "", r"the model does not know '\\x1b' \(character 1"),
    (["generate", "--weights", "model", "--prompt", "-"], b"ab\xff", r"-: the prompt is not UTF-8 at byte 2"),
    (["generate", "--weights", "model", "--top-k", "999"], "", r"top_k 999: there are \d+ ids to draw from; leave it"),
    (["train", *NEW, "--data", "nowhere.txt"], "", r"'nowhere\.txt': no corpus, file or folder of this name"),
    (["train", *NEW, "--data", "tinyshakespear"], "", r".*Did you mean tinyshakespeare\?"),
    (["train", *NEW, "--data", "no-text"], "", r"no-text: no \*\.txt or \*\.md file in this folder"),
    (["train", *NEW[:-4], "--data", "empty.txt"], "", r"empty\.txt: there is no text in it"),
    (
        ["train", *NEW[:-4], "--data", "latin1.txt"],
        "",
        r"latin1\.txt: not UTF-8 at byte 20\. Convert the file to UTF-8",
    ),
    (["train", *NEW[:-4], "--data", "picture.png"], "", r"picture\.png: not UTF-8 at byte 0"),
    (["train", *NEW[:-4], "--data", "broken.gz"], "", r"broken\.gz: broken gzip file"),
    (
        ["train", *NEW[:-4], "--data", "short.txt", "--context", "64"],
        "",
        r"short\.txt: 30 characters leave 27 to train",
    ),
    (["train", *NEW[:-4], "--data", "-"], "", r"stdin: there is no text in it"),
    (["train", *NEW[:-4], "--data", "-", "--data", "-"], "", r"-: standard input can be read only once"),
    (["train", *NEW[:-4], "--data", ""], "", r"'': no corpus, file or folder of this name"),
    (["train", *NEW, "--heads", "3"], "", r"width 16 does not divide into 3 heads; choose a multiple"),
    (["train", *NEW, "--family", "qwen3", "--heads", "16"], "", r"RoPE turns pairs: head_dim must be even, not 1"),
    (["train", *NEW, "--width", "1000000"], "", r"this run needs [\d,.]+ GiB of memory or more, the machine has"),
    (["train", *NEW, "--out", "full"], "", r"full: has something in it already \(thesis\.doc\); choose another --out"),
    (["train", *NEW, "--out", "model"], "", r"model: has something in it already .* or add --force to replace it"),
    (["train", *NEW, "--out", "text.txt"], "", r"text\.txt: cannot be created \(File exists\)"),
    (["train", *NEW, "--out", "text.txt/new"], "", r"text\.txt/new: cannot be created \(Not a directory\)"),
    (["train", *NEW, "--out", "locked"], "", r"locked: cannot be locked \(Is a directory\); choose another --out"),
    (["train", "--data", "text.txt", "--init-from", "nowhere"], "", r"nowhere: no such folder"),
    (
        ["train", "--data", "unknown.txt", "--init-from", "model"],
        "",
        r"unknown\.txt: has 1 characters that .*know: é\.",
    ),
    (
        ["train", "--data", "text.txt", "--init-from", "model", "--width", "32"],
        "",
        r"--width 32: the model in model has",
    ),
    (["train", "--resume", "nowhere"], "", r"nowhere: no run to resume here \(train\.json is missing\)"),
    (["train", "--resume", "no-weights"], "", r"no-weights: no run to resume here"),
    (["train", "--resume", "model"], "", r"model: already has all 4 steps; give a larger --steps to go on"),
    (["train", "--resume", "half", "--seed", "1"], "", r"half: was trained with --seed 0, which cannot change on --re"),
    (["train", "--resume", "half", "--dropout", "0.5"], "", r"half: was trained with --dropout 0\.0, which cannot"),
    (["train", "--resume", "half", "--data", "other.txt"], "", r"half: was trained on another text than other\.txt is"),
    (["train", "--resume", "half", "--steps", "2"], "", r"half: already has all 2 steps"),
    (["eval", "--weights", "nowhere"], "", r"nowhere: no such folder"),
    (["eval", "--weights", "model", "--data", "nowhere"], "", r"'nowhere': no corpus, file or folder of this name"),
    (["eval", "--weights", "model", "--data", "one.txt"], "", r"the text is too short to evaluate"),
    (
        ["eval", "--weights", "model", "--data", "unknown.txt"],
        "",
        r"unknown\.txt: has characters that .* not know: 'é'",
    ),
    (["data", "tinyshakespear"], "", r".*Did you mean tinyshakespeare\?"),
    (["data", "wikipedia"], "", r"'wikipedia': no corpus, file or folder of this name"),
    (["info", "nowhere"], "", r"nowhere: no such folder"),
    (["info", "text.txt"], "", r"text\.txt: not a model folder but a file"),
    (["export", "nowhere", "--out", "new"], "", r"nowhere: no such folder"),
    (["export", "model", "--out", "full"], "", r"full: "),
]


def named(case: Any) -> str | None:
    return " ".join(case[-6:])[:60] if isinstance(case, list) else ""


def refused(result: Result, code: int, message: str, usage: bool) -> None:
    """Assert that a command ended with `code` and the one line, and nothing of a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    if usage and len(lines) > 1:
        assert lines[0].startswith("Usage: ")
        assert lines[1].endswith("--help' for help.")
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], result.stderr
    assert re.match(rf"Error: (Invalid value for )?{message}", lines[-1]), lines[-1]


@pytest.mark.parametrize(("arguments", "message"), USAGE, ids=named)
def test_wrong_options(there: Path, arguments: list[str], message: str) -> None:
    """An option or value that cannot be is a usage error in one line, exit code 2, before anything is done."""
    refused(invoke(*arguments), 2, message, usage=True)
    assert not (there / "new").exists()
    assert not (there / "weights").exists()


@pytest.mark.parametrize(("arguments", "stdin", "message"), MISTAKES, ids=named)
def test_mistakes(there: Path, arguments: list[str], stdin: str | bytes, message: str) -> None:
    """Whatever else is wrong is one line that says what and what to do, exit code 1, and nothing is made or lost."""
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file() and path.name != ".lock"}
    refused(invoke(*arguments, stdin=stdin), 1, message, usage=False)
    assert not (there / "new").exists()
    assert not (there / "weights").exists()
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time, path


def test_there_are_enough_mistakes() -> None:
    """The two tables together cover at least sixty wrong invocations, all of them different."""
    cases = [(tuple(arguments), "") for arguments, _ in USAGE] + [(tuple(a), stdin) for a, stdin, _ in MISTAKES]
    assert len(set(cases)) == len(cases) >= 60


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU here")
def test_no_gpu(there: Path) -> None:
    """Asking for a GPU where there is none is a mistake, not a crash."""
    refused(invoke("train", *NEW, "--device", "gpu"), 1, r"MLX has no gpu here; leave out --device", usage=False)


def test_debug_shows_the_traceback(there: Path) -> None:
    """With --debug the error itself comes out."""
    result = invoke("--debug", "generate", "--weights", "nowhere")
    assert type(result.exception).__name__ == "TinyLMError"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "some/file"), MemoryError()])
def test_what_nobody_foresaw(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """An error of the operating system that no code expects is a line too, naming the file where there is one."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("mlx_tinylm.generation.load", fail)
    result = invoke("generate", "--weights", "x")
    words = "some/file: Permission denied" if isinstance(error, OSError) else "not enough memory; a smaller model"
    refused(result, 1, words, usage=False)


# Help


def commands() -> list[tuple[str, click.Command]]:
    return sorted(main.commands.items())


@pytest.mark.parametrize(("name", "found"), commands())
def test_help(name: str, found: click.Command) -> None:
    """Every command has help with an example of its own, and says the same for -h."""
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert re.search(rf"^  .*mlx-tinylm {name}\b", result.stdout, re.M)
    assert invoke(name, "-h").stdout == result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_a_warning_is_one_line(there: Path, tmp_path: Path) -> None:
    """What a library would warn of is a plain note on stderr, once, and the command goes on."""
    shutil.copytree(there / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))
    result = command(tmp_path, "info", tmp_path / "model")
    assert result.returncode == 0
    assert result.stderr == f"note: {config}: auto_map ignored; no code from a model folder is ever run\n"


@pytest.mark.parametrize(("name", "found"), commands())
def test_every_option_shows_its_default(name: str, found: click.Command) -> None:
    """Each option has a help text and shows its default, unless it is a flag or required."""
    context = click.Context(found)
    for option in found.params:
        if isinstance(option, click.Option):
            record = option.get_help_record(context)
            assert record
            assert len(record[1]) > 10, option.name
            assert option.is_flag or "[default: " in record[1] or "[required]" in record[1], option.name


SCRIPTED = {  # what scripts may rely on
    "train": "--data --preset --out --steps --batch-size --context --family --layers --heads --width --dropout "
    "--learning-rate --seed --eval-every --save-every --sample-every --patience --resume --init-from --device --force",
    "generate": "--weights --prompt --max-tokens --temperature --temp --top-k --top-p --min-p --repetition-penalty "
    "--seed --num-samples --stop --backend",
    "eval": "--weights --data --backend --json",
    "export": "--out --dtype --quantize --force",
    "info": "--json",
    "data": "",
    "bench": "--json",
}


@pytest.mark.parametrize("name", SCRIPTED)
def test_options_that_scripts_rely_on(name: str) -> None:
    """The commands and options that were promised are there under their names."""
    found = dict(commands())[name]
    there = {option for parameter in found.params for option in parameter.opts}
    assert set(SCRIPTED[name].split()) <= there


def test_every_setting_has_an_option() -> None:
    """Each field of TrainConfig can be set from the command line."""
    there = {option for parameter in dict(commands())["train"].params for option in parameter.opts}
    assert {"--" + field.name.replace("_", "-") for field in dataclasses.fields(TrainConfig)} <= there


def test_version() -> None:
    """`--version` says the program's name and version."""
    assert re.fullmatch(r"mlx-tinylm, version \d+\.\d+\.\d+\n", invoke("--version").stdout)


# Sessions


def test_training_by_command_equals_the_library(there: Path, tmp_path: Path) -> None:
    """Every setting reaches the run: options make the run that the library makes."""
    config = dataclasses.replace(PLAIN, steps=3, dropout=0.1, schedule="wsd", ema=0.5, warmup_steps=1, seed=7)
    assert invoke("train", *options(config), "--data", "text.txt", "--out", tmp_path / "ours").exit_code == 0
    train(tmp_path / "theirs", config, there / "text.txt")
    same_run(tmp_path / "ours", tmp_path / "theirs")


def test_a_whole_session(there: Path, tmp_path: Path) -> None:
    """Train, resume, fine-tune, write, measure and look, each with text on stdout and the rest on stderr."""
    folder = tmp_path / "run"
    result = invoke("train", *options(PLAIN), "--data", "text.txt", "--out", folder)
    assert result.exit_code == 0
    assert re.match(r"After 8 steps the validation loss is \d\.\d{4}; it was best", result.stdout)
    assert "Go on:" not in result.stdout
    assert "step 8: validation loss" in result.stderr
    assert "\r" not in result.stderr  # no bar where there is no terminal
    assert invoke("train", "--resume", folder, "--steps", "10").exit_code == 0
    assert len(losses(folder)) == 10
    tuned = invoke(
        *("train", "--init-from", folder, "--data", "other.txt", "--out", tmp_path / "tuned"),
        *("--preset", "nano", "--steps", "2", "--sample-every", "1"),
    )
    assert tuned.exit_code == 0
    assert "  | " in tuned.stderr
    written = invoke("generate", "--weights", folder, "--prompt", "The ", "--max-tokens", "40", "--seed", "1")
    assert written.stdout.startswith("The ")
    assert re.search(r"\[\d+ characters, [\d,]+ a second, mlx\]", written.stderr)
    again = invoke("generate", "--weights", folder, "--prompt", "-", "--max-tokens", "40", "--seed", "1", stdin="The ")
    assert again.stdout == written.stdout
    measured = json.loads(invoke("eval", "--weights", folder, "--json").stdout)
    assert measured["loss"] == pytest.approx(losses(folder)[-1][-1], abs=1e-3)
    assert json.loads(invoke("info", folder, "--json").stdout)["parameters"] > 1000
    assert "parameters" in invoke("info", folder).stdout


def test_a_fresh_folder_is_printed_first_and_last(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out a run finds a folder of its own, and says which before and after."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        result = invoke("train", *options(dataclasses.replace(PLAIN, steps=1)), "--data", there / "text.txt")
        assert result.exit_code == 0
        assert result.stderr.startswith(f"model folder   weights/run-{number}\n")
        assert f"--weights weights/run-{number}" in result.stdout.splitlines()[-1]


def test_off_and_numbers_mean_what_they_say(there: Path, tmp_path: Path) -> None:
    """`off` turns a setting of the preset off, and large seeds are not rounded."""
    invoke("train", *NEW[:-4], "--data", "text.txt", "--out", tmp_path / "run", "--grad-clip", "off", "--steps", "1")
    settings = json.loads((tmp_path / "run" / "train.json").read_text())["settings"]
    assert settings["grad_clip"] is None
    near = [str(2**60), str(2**60 + 1)]
    texts = {invoke("generate", "--weights", "model", "--prompt", "e", "--seed", seed).stdout for seed in near}
    assert len(texts) == 2


def test_piped_text_can_be_resumed(there: Path, tmp_path: Path) -> None:
    """A run on text from a pipe can be resumed and measured without piping it again."""
    text = (there / "text.txt").read_text()
    folder = tmp_path / "run"
    arguments = [*options(dataclasses.replace(PLAIN, steps=2)), "--data", "-", "--out", folder]
    assert invoke("train", *arguments, stdin=text).exit_code == 0
    assert invoke("train", "--resume", folder, "--steps", "4").exit_code == 0
    assert json.loads(invoke("eval", "--weights", folder, "--json").stdout)["targets"] == 199


def test_a_run_on_piped_text_can_be_moved(there: Path, tmp_path: Path) -> None:
    """What came through a pipe is found in the run's folder, wherever that folder is now."""
    text = (there / "text.txt").read_text()
    arguments = [*options(dataclasses.replace(PLAIN, steps=4)), "--data", "-", "--out", tmp_path / "before"]
    assert invoke("train", *arguments, stdin=text).exit_code == 0
    (tmp_path / "before").rename(tmp_path / "after")
    assert invoke("train", "--resume", tmp_path / "after", "--steps", "6").exit_code == 0
    assert invoke("eval", "--weights", tmp_path / "after").exit_code == 0


def test_a_model_without_a_newline(tmp_path: Path) -> None:
    """A model that knows no newline begins with what it knows, wherever no prompt is given."""
    (tmp_path / "text.txt").write_text("abcabd" * 80)
    folder = tmp_path / "run"
    config = dataclasses.replace(PLAIN, steps=2, sample_every=2)
    arguments = [*options(config), "--data", tmp_path / "text.txt", "--out", folder]
    assert invoke("train", *arguments).exit_code == 0
    written = invoke("generate", "--weights", folder, "--max-tokens", "5")
    assert (written.exit_code, written.stdout[0]) == (0, "a")
    assert "memorised" in invoke("eval", "--weights", folder, "--memorised").stdout


def test_any_encoding_will_do(made: Path, tmp_path: Path) -> None:
    """Where the terminal's encoding lacks a character, an escape is shown and the program goes on."""
    (tmp_path / "text.txt").write_text("naïve été " * 40, encoding="utf-8")
    train(tmp_path / "model", dataclasses.replace(PLAIN, steps=1), tmp_path / "text.txt")
    program = command(
        made / "cache", "generate", "--weights", tmp_path / "model", "--prompt", "ï", PYTHONIOENCODING="ascii"
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.startswith("\\xef")
