"""The page's modules as one script."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.bundle import bundled
from mlx_tinylm.inside.page_files import page_files

NODE = shutil.which("node")
MODULES = {
    "main.js": """import { one, two as deux } from "./a.js";
import * as b from "./views/b.js";
globalThis.said = [one, deux(), b.name, b.Thing.of(), b.later];
""",
    "a.js": """let hidden = 1;
export const one = hidden;
export function two() {
  return "import { x } from nowhere";
}
""",
    "views/b.js": """import { one } from "../a.js";
export const name = `b${one}`;
export class Thing {
  static of() {
    return 3;
  }
}
const inner = 4;
export { inner as later };
export async function* unused() {}
""",
}


def test_modules_see_what_they_import() -> None:
    """The script does what its modules would do: each sees what it imports, and nothing else of the others."""
    if NODE is None:
        pytest.skip("needs node, to run the script without a browser")
    script = bundled("main.js", MODULES.__getitem__) + "console.log(JSON.stringify(globalThis.said), typeof hidden);"
    done = subprocess.run([NODE, "--input-type=commonjs"], input=script, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", '[1,"import { x } from nowhere","b1",3,4] undefined\n')


def test_each_module_is_there_once() -> None:
    """What two modules import is made once, before both."""
    script = bundled("main.js", MODULES.__getitem__)
    places = [script.index(f'modules["{path}"] =') for path in ("a.js", "views/b.js", "main.js")]
    assert places == sorted(places)
    assert script.count("let hidden") == 1


@pytest.mark.parametrize(
    "line",
    [
        "export default 1;",
        "export let x = 1;",
        'export * from "./a.js";',
        'import x from "./a.js";',
        'import "./a.js";',
        'import { x } from "https://example.org/x.js";',
        'const later = import("./a.js");',
        "const here = import.meta.url;",
    ],
)
def test_what_cannot_be_bundled_is_named(line: str) -> None:
    """What a script cannot do is refused with the name of the module, rather than left to fail in a browser."""
    with pytest.raises(TinyLMError, match=r"^main\.js: cannot be in a saved page: "):
        bundled("main.js", {"main.js": f"{line}\n", "a.js": ""}.__getitem__)


def test_circles_are_named() -> None:
    """Modules that import each other have no order."""
    circle = {"main.js": 'import { a } from "./a.js";', "a.js": 'import { b } from "./main.js";\nexport const a = 1;'}
    with pytest.raises(TinyLMError, match="imports itself"):
        bundled("main.js", circle.__getitem__)


def test_the_page_can_be_bundled() -> None:
    """All of the page's own modules are in the script that is served, each of them once; no other is asked for."""
    script = page_files()["/main.js"].read().decode()
    for path in page_files():
        if path.endswith(".js"):
            assert script.count(f'modules["{path[1:]}"] =') == 1, path
    assert "import {" not in script
