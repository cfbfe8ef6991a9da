"""Writes docs/images/board-5.png and board-500.png, as Chromium shows them: `python -m tests.board.pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from orchestrator.report.board import write_board
from orchestrator.report.publish import write_report
from tests.board.browser import Browser
from tests.board.conftest import build_runs
from tests.report.conftest import build_run

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COLOURS, HEIGHT = 24, 1600  # enough for flat areas, and a third of the bytes; px


def main() -> None:
    """Draw the board of 5 and of 500 runs, the second without its sweeps and losses, which are like the first's."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        first = build_run(place / "first")
        write_report(first)
        browser = Browser(place / "browser")
        for count, left_out in ((5, "#none"), (500, "#sweeps, section:has(#losses)")):
            write_board((build_runs(first, place / f"runs-{count}", count),), place / f"{count}.html")
            browser.open(f"file://{place}/{count}.html")
            browser.ask(f"document.querySelectorAll('{left_out}').forEach((section) => section.remove())")
            path = IMAGES / f"board-{count}.png"
            browser.picture(path, width=1320, height=HEIGHT)
            Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
