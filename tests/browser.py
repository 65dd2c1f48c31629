"""A headless browser for tests of pages, where the machine has one: what the DOM is after the scripts ran."""

from __future__ import annotations

import functools
import html.parser
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)


@functools.cache
def browser() -> str:
    """The browser's path, "" where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), "")


def dom(page: Path, state: str, profile: Path, *, script: str = "") -> tuple[str, list[str]]:
    """(the DOM as HTML, what the console said) of `page` opened with `state` behind the #.

    `script` runs after the page's own, in a copy of the page that lets it. Skips where there is no browser.
    """
    if not browser():
        pytest.skip(f"no browser on this machine: looked for {', '.join(NAMES)}")
    if script:
        text = page.read_text(encoding="utf-8")
        start = text.index('<meta http-equiv="Content-Security-Policy"')
        text = text[:start] + text[text.index("\n", start) + 1 :]
        page = profile.with_suffix(".html")
        page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [browser(), *QUIET, *sandbox, f"--user-data-dir={profile}", "--dump-dom", f"{page.as_uri()}{state}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if "</html>" not in done.stdout:
        pytest.skip(f"the browser {browser()} does not start here: {done.stderr.strip()[-200:]}")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class Rows(html.parser.HTMLParser):
    """The tables of a DOM: `tables`, each a list of rows (attributes, texts of the cells); `found`: all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.tables: list[list[tuple[dict[str, Any], list[str]]]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append((dict(attrs), []))
        elif tag in {"td", "th"} and self.tables and self.tables[-1]:
            self.tables[-1][-1][1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][1][-1] += data
