"""The page's modules as one script: a page that is opened from disk may not import any.

What may stand in a module is little on purpose, and told from the rest by its beginning:

    import { a, b as c } from "./x.js";     import * as x from "./x.js";
    export const, export function, export async function, export class, export { a, b as c };
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from mlx_tinylm.errors import TinyLMError

IMPORT = re.compile(r'^import (\* as (?P<all>\w+)|\{(?P<names>[^}]*)\}) from "(?P<path>\.{1,2}/[^"]+)";?$', re.M)
EXPORT = re.compile(r"^export (?=(?:const|(?:async )?function\*?|async function\*|class) +(?P<name>\w+))", re.M)
LIST = re.compile(r"^export \{(?P<names>[^}]*)\};?$", re.M)
REFUSED = re.compile(r"^(import|export)\b.*$|\bimport\.meta\b|(?<![.\w])import\(", re.M)


def bundled(entry: str, read: Callable[[str], str]) -> str:
    """One classic script that does what the module `entry` does; `read` gives the text of a module by its path.

    Each module becomes a function that is called once, after those that it imports. Raises TinyLMError for a module
    that says more than is allowed here, and for a circle of imports.
    """
    parts: list[str] = []
    state: dict[str, bool] = {}  # whether a module is whole

    def add(path: str) -> None:
        if state.get(path):
            return
        if path in state:
            raise TinyLMError(f"{path}: imports itself, by way of what it imports")
        state[path] = False
        text = read(path)
        for found in IMPORT.finditer(text):
            add(joined(path, found["path"]))
        parts.append(f"modules[{quoted(path)}] = (() => {{\n{as_function(path, text)}}})();\n")
        state[path] = True

    add(entry)
    return '"use strict";\n(() => {\nconst modules = {};\n' + "".join(parts) + "})();\n"


def as_function(path: str, text: str) -> str:
    """The body of a function that returns what a module exports."""
    exported: list[str] = [found["name"] for found in EXPORT.finditer(text)]
    for listed in LIST.finditer(text):
        exported += [": ".join(reversed(each)) for each in renamed(listed["names"])]

    def taken(found: re.Match[str]) -> str:
        what = found["all"] or "{ " + ", ".join(": ".join(each) for each in renamed(found["names"])) + " }"
        return f"const {what} = modules[{quoted(joined(path, found['path']))}];"

    body = LIST.sub("", EXPORT.sub("", IMPORT.sub(taken, text)))
    if refused := REFUSED.search(body):
        raise TinyLMError(f"{path}: cannot be in a saved page: {refused[0].strip()[:80]}")
    return f"{body.rstrip()}\nreturn {{ {', '.join(exported)} }};\n"


def renamed(names: str) -> list[tuple[str, ...]]:
    """`a, b as c` as (a,), (b, c)."""
    return [tuple(re.split(r"\s+as\s+", name.strip())) for name in names.split(",") if name.strip()]


def joined(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
