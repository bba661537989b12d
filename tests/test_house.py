"""The rules of the house: the order of the rooms, who imports MLX, what stays light, and what works without MLX."""

from __future__ import annotations

import ast
import graphlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import random_folder

import mlx_tinylm
from mlx_tinylm.cli import main
from mlx_tinylm.model_folder.config import GPT2Config

PACKAGE = Path(mlx_tinylm.__file__).parent
NAME = PACKAGE.name
# Top to bottom; a room imports from itself and from what stands below it.
ROOMS = """
__main__ __init__
cli
inside
export
benchmark
training
evaluation
answers
mean_loss
memorised
info
generation
sampling sample_config
backend
models numpy_models
run_folder
model_folder
text
integrity locks files checks errors watch
""".split()  # noqa: SIM905  (a list to be read from top to bottom)
IMPORT_MLX = ("models/", "training/", "backend/mlx_model.py", "backend/lanes.py", "export/quantize.py")
NO_MLX_AT_ALL = ROOMS[ROOMS.index("numpy_models") :]  # not even inside a function
IMPORT_CLICK = ("cli/",)
IMPORT_TQDM = ("cli/", "text/download.py")  # the bar of a download
FROM_THE_TOP = {"__version__"}  # a constant, in the package by convention
LONGEST = 250  # lines of a module
NO_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


@dataclass(frozen=True)
class Import:
    """One imported module, and where: at module level, inside a function, or for type checkers only."""

    file: str  # relative to the package
    line: int
    name: str
    where: str

    def __str__(self) -> str:
        return f"{NAME}/{self.file}:{self.line} imports {self.name}"


def module_name(file: str) -> str:
    parts = Path(file).with_suffix("").parts
    return ".".join([NAME, *(part for part in parts if part != "__init__")])


def files(package: Path) -> list[str]:
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))


def room_of(name: str) -> str:
    """The room of a module of the package, by its dotted name."""
    return name.split(".")[1] if "." in name else "__init__"


def imports(package: Path, file: str, modules: set[str]) -> Iterator[Import]:
    """All that a file of a package with these modules imports, wherever it stands in it."""

    def visit(node: ast.AST, where: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, child.lineno, alias.name, where) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{NAME}/{file}:{child.lineno} is a relative import"
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    if child.module != NAME or inner in modules or alias.name not in FROM_THE_TOP:
                        yield Import(file, child.lineno, inner if inner in modules else str(child.module), where)
            elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                yield from visit(ast.Module(child.body, []), "types")
                yield from visit(ast.Module(child.orelse, []), where)
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from visit(child, "function")
            else:
                yield from visit(child, where)

    yield from visit(ast.parse((package / file).read_text(encoding="utf-8")), "module")


def all_imports(package: Path) -> list[Import]:
    found = files(package)
    modules = {module_name(file) for file in found}
    return [each for file in found for each in imports(package, file, modules)]


def of(each: Import, *names: str) -> bool:
    return each.name.split(".")[0] in names


# Each rule gives what breaks it, one line a breach.


def upward_imports(package: Path) -> list[str]:
    """Imports of a room above one's own, inside functions and for type checkers too; rooms that nobody knows."""
    breaches = [f"{NAME}/{file} is in no room that is known" for file in files(package) if room_in(file) not in ROOMS]
    for each in all_imports(package):
        ours, theirs = room_in(each.file), room_of(each.name)
        if of(each, NAME) and ours in ROOMS and theirs in ROOMS and ROOMS.index(theirs) < ROOMS.index(ours):
            breaches.append(f"{each}: {theirs} stands above {ours}")
    return breaches


def room_in(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def circles(package: Path) -> list[str]:
    """Modules that import each other at module level."""
    graph: dict[str, set[str]] = {module_name(file): set() for file in files(package)}
    for each in all_imports(package):
        if each.where == "module" and each.name in graph:
            graph[module_name(each.file)].add(each.name)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def forbidden_mlx(package: Path) -> list[str]:
    """Imports of MLX, or at module level of a module that imports it, where it must be possible to do without."""
    found = all_imports(package)
    need_mlx: set[str] = set()
    while (
        grown := {
            module_name(each.file)
            for each in found
            if each.file.startswith(IMPORT_MLX)
            and each.where == "module"
            and (of(each, "mlx") or each.name in need_mlx)
        }
        - need_mlx
    ):
        need_mlx |= grown
    return [
        str(each) + ("" if of(each, "mlx") else ", which imports mlx")
        for each in found
        if not each.file.startswith(IMPORT_MLX)
        and each.where != "types"
        and (each.where == "module" or room_in(each.file) in NO_MLX_AT_ALL)
        and (of(each, "mlx") or each.name in need_mlx)
    ]


def forbidden_terminal(package: Path) -> list[str]:
    """Imports of click and tqdm outside the command line."""
    return [
        str(each)
        for each in all_imports(package)
        if (of(each, "click") and not each.file.startswith(IMPORT_CLICK))
        or (of(each, "tqdm") and not each.file.startswith(IMPORT_TQDM))
    ]


def hidden_imports(package: Path) -> list[str]:
    """Imports by a name in a string, which no rule here would see; the public API is made of them."""
    return [
        f"{NAME}/{file}:{node.lineno} imports by name"
        for file in files(package)
        if file != "__init__.py"
        for node in ast.walk(ast.parse((package / file).read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in ("__import__", "import_module"))
        or (isinstance(node, ast.Attribute) and node.attr == "import_module")
    ]


def shapeless_files(package: Path) -> list[str]:
    """Modules that are too long, or whose name says nothing."""
    breaches = [f"{NAME}/{file}: a name that says nothing" for file in files(package) if Path(file).name in NO_NAMES]
    for file in files(package):
        lines = len((package / file).read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            breaches.append(f"{NAME}/{file}:{lines} lines, more than {LONGEST}")
    return breaches


RULES = (upward_imports, circles, forbidden_mlx, forbidden_terminal, hidden_imports, shapeless_files)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    """No file of the package breaks a rule of the house."""
    breaches = rule(PACKAGE)
    assert breaches == [], "\n".join(breaches)


@pytest.mark.parametrize(
    ("rule", "file", "planted"),
    [
        (upward_imports, "run_folder/presets.py", "from mlx_tinylm.training import run"),
        (upward_imports, "run_folder/presets.py", "def f(): import mlx_tinylm.generation"),
        (upward_imports, "files.py", "from mlx_tinylm import load"),
        (upward_imports, "attic/hidden.py", ""),
        (circles, "text/ngrams.py", "from mlx_tinylm.text import planted"),
        (forbidden_mlx, "run_folder/presets.py", "import mlx.core as mx"),
        (forbidden_mlx, "run_folder/presets.py", "def f(): import mlx.core"),
        (forbidden_mlx, "sampling.py", "try:\n    from mlx import nn\nexcept ImportError: ..."),
        (forbidden_mlx, "export/gguf.py", "from mlx_tinylm.models import build"),
        (forbidden_terminal, "files.py", "def f(): import click"),
        (forbidden_terminal, "training/loop.py", "from tqdm import tqdm"),
        (hidden_imports, "sampling.py", "__import__('mlx.core')"),
        (shapeless_files, "text/utils.py", ""),
        (shapeless_files, "errors.py", "\n" * LONGEST),
    ],
)
def test_a_planted_breach_is_named(rule: Callable[[Path], list[str]], file: str, planted: str, tmp_path: Path) -> None:
    """Each rule notices a breach, and says in which file and line."""
    package = Path(shutil.copytree(PACKAGE, tmp_path / NAME, ignore=shutil.ignore_patterns("__pycache__", "shipped")))
    (package / "text" / "planted.py").write_text("import mlx_tinylm.text.ngrams\n")
    before = set(rule(package))
    (package / file).parent.mkdir(exist_ok=True)
    lines = (package / file).read_text(encoding="utf-8").splitlines() if (package / file).exists() else []
    (package / file).write_text("\n".join([*lines, planted]), encoding="utf-8")
    after = set(rule(package)) - before
    assert len(after) == 1, after
    (breach,) = after
    expected = module_name(file) if rule is circles else f"{NAME}/{file}"
    assert expected in breach
    if rule in (upward_imports, forbidden_mlx, forbidden_terminal) and lines:
        assert f":{len(lines) + 1 + planted.startswith('try')} " in breach


# Without MLX

WITHOUT_MLX = """
import importlib, json, sys
how, modules, commands = json.loads(sys.argv[1])
if how == "absent":
    sys.modules["mlx"] = None
heavy = {"mlx", "numpy", "tokenizers", "safetensors", "click", "tqdm"}
imported = lambda: sorted(name for name in heavy if sys.modules.get(name))
import mlx_tinylm
found = {"import": imported()}
from click.testing import CliRunner
from mlx_tinylm.cli import main
def run(command):
    done = CliRunner().invoke(main, command, prog_name="mlx-tinylm")
    return [done.exit_code, done.stdout, done.stderr]
helps = {name: run([*name.split(), "--help"]) for name in ["", *main.commands]}
found |= {"helps": helps, "help": imported()}
found["cannot be imported"] = {}
for name in modules:
    try:
        importlib.import_module(name)
    except Exception as error:
        found["cannot be imported"][name] = repr(error)
found["commands"] = {name: run(command) for name, command in commands.items()}
found["mlx"] = "mlx.core" in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["absent", "broken"])
def without_mlx(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, english: str) -> Any:
    """What a process says in which MLX is not there, or is and cannot be imported: each command, each module.

    The wheel of MLX for Linux is like that where the one of its back end is missing.
    """
    folder = tmp_path_factory.mktemp(request.param)
    config = GPT2Config(vocab_size=97, context=16, width=16, layers=1, heads=2)
    weights = str(random_folder(folder / "model", config))
    text = folder / "text.txt"
    text.write_text("".join(character for character in english[:400] if " " <= character < "\x7f"))
    (folder / "broken" / "mlx").mkdir(parents=True)
    (folder / "broken" / "mlx" / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object')")
    commands = {
        "generate": ["generate", "--weights", weights, "--prompt", "ROMEO:", "--seed", "3", "--max-tokens", "60"],
        "generate --backend mlx": ["generate", "--weights", weights, "--backend", "mlx"],
        "eval": ["eval", "--weights", weights, "--data", str(text), "--json"],
        "info": ["info", weights, "--json"],
        "inspect": ["inspect", weights, "--prompt", "ROMEO:", "--head-off", "1.2"],
        "play": ["play", weights, "--save", str(folder / "page.html")],
        "data": ["data"],
        "export": ["export", weights, "--out", str(folder / "exported")],
        "export --quantize": ["export", weights, "--out", str(folder / "small"), "--quantize", "8"],
        "train": ["train", "--out", str(folder / "run")],
    }
    paths = [PACKAGE.parent, *([folder / "broken"] if request.param == "broken" else [])]
    home = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "MLX_TINYLM_DATA"), str(folder / "home"))
    modules = [module_name(file) for file in files(PACKAGE) if not file.startswith((*IMPORT_MLX, "__main__"))]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_MLX, json.dumps([request.param, modules, commands])],
        env=os.environ | home | {"PYTHONPATH": os.pathsep.join(map(str, reversed(paths)))},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {"given": commands, "folder": folder, **json.loads(done.stdout)}


def with_mlx(command: list[str]) -> str:
    """What the same command writes on MLX."""
    done = CliRunner().invoke(main, [*command, "--backend", "mlx"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_imports_stay_light(without_mlx: Any) -> None:
    """`import mlx_tinylm` imports nothing that takes time; the help pages open, with little more."""
    assert without_mlx["import"] == []
    assert set(without_mlx["help"]) <= {"click"}
    assert len(without_mlx["helps"]) >= 8
    for name, (code, output, errors) in without_mlx["helps"].items():
        assert (code, errors, output[:7]) == (0, "", "Usage: "), name


def test_commands_without_mlx(without_mlx: Any, own_cache: Path) -> None:
    """Everything but training works on NumPy, with the very output of MLX; no module needs MLX to be imported."""
    given, done = without_mlx["given"], without_mlx["commands"]
    assert without_mlx["cannot be imported"] == {}
    assert not without_mlx["mlx"]
    code, text, note = done["generate"]
    assert (code, note[-8:]) == (0, " numpy]\n")
    assert text == with_mlx(given["generate"])
    assert [done[name][::2] for name in ("eval", "info", "inspect", "play", "data", "export")] == [[0, ""]] * 6
    measured, expected = json.loads(done["eval"][1]), json.loads(with_mlx(given["eval"]))
    assert measured["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]))
    assert (measured["backend"], expected["backend"]) == ("numpy", "mlx")
    assert "numpy" in json.loads(done["info"][1]).values()  # the back end
    assert done["inspect"][1] == with_mlx(given["inspect"]).replace(", mlx\n", ", numpy\n")
    assert "tinyshakespeare" in done["data"][1]
    assert (without_mlx["folder"] / "exported" / "model.safetensors").exists()


@pytest.mark.parametrize("command", ["train", "generate --backend mlx", "export --quantize"])
def test_what_needs_mlx_says_what_to_install(without_mlx: Any, command: str) -> None:
    """What needs MLX ends in one line with the extra for each system, before it fetches or writes anything."""
    code, output, errors = without_mlx["commands"][command]
    assert (code, output) == (1, "")
    assert errors.splitlines() == [errors.rstrip("\n")]
    assert "MLX is not installed here." in errors
    assert "pip install 'mlx-tinylm[cpu]'" in errors
    folder = without_mlx["folder"]
    assert not any((folder / name).exists() for name in ("run", "small", "home/tinyshakespeare.txt"))
