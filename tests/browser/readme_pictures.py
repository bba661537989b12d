"""Make the README's pictures in .pictures/: of the model that ships, and of a first run.

python tests/browser/readme_pictures.py [FOLDER]

It needs Pillow and what the tests in a browser need (see conftest.py). The run, of `train --preset nano`, is made for
it in about a minute, or found in FOLDER/first-run and kept there.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / ".pictures"
PROMPT = "ROMEO:\nBut, soft! what light through yonder w"
WIDTH = 1280  # CSS pixels, and those of the file
COLOURS = 256  # of a palette: under 150 KB, and nothing to be seen of it
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
PROGRAM = [sys.executable, "-m", "mlx_tinylm"]


@contextlib.contextmanager
def playing(weights: Path) -> Iterator[str]:
    """The address of `mlx-tinylm play` of a model folder, until the end of the context."""
    given = [*PROGRAM, "play", "--no-open", str(weights)]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def opened(browser: Any, address: str, view: str) -> Any:
    """A view in light colours, without the invitation to the tour and with the meanings of the words folded."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light", reduced_motion="reduce")
    page.goto(f"{address}&view={view}&prompt={quote(PROMPT)}")
    page.get_by_role("button", name="no, thanks").click()
    page.locator("details.meanings[open] summary").click()
    return page


def keep(page: Any, name: str, below: Any) -> None:
    """Write the page from its top to the upper edge of an element, in few colours."""
    from PIL import Image

    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": int(below.bounding_box()["y"]) - 8}
    taken = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
    path = PICTURES / name
    taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {taken.width} x {taken.height}, {path.stat().st_size / 1e3:.0f} KB")


def main() -> None:
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with playing(ROOT / "weights" / "shakespeare") as address:
            page = opened(browser, address, "next")
            page.get_by_text("Seed 0 draws").wait_for()
            keep(page, "next-character.png", page.get_by_role("heading", name="The draw"))
        run = Path(*sys.argv[1:2] or [made]) / "first-run"
        if not run.exists():
            subprocess.run([*PROGRAM, "train", "--preset", "nano", "--out", str(run)], check=True, env=ENVIRONMENT)
        with playing(run) as address:
            page = opened(browser, address, "growing")
            page.get_by_text("Loss of this prompt").wait_for()
            for _ in range(3):  # back from the last snapshot
                page.locator("#snapshot").press("ArrowLeft")
            page.get_by_text("The samples of").wait_for(state="hidden", timeout=90_000)
            keep(page, "growing-up.png", page.get_by_role("button", name="save picture").last)
        browser.close()


if __name__ == "__main__":
    main()
