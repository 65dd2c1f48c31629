"""One way to fill a page: escaped by default, strict about names, everything inside the file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup


def template(name: str) -> jinja2.Template:
    """The template `name` of this room; `stylesheet` and `script` are the texts of report.css and report.js.

    `script_hash` is the script's SHA-256 in base64, by which a page allows it and no other to run.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featprobe.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["stylesheet"] = _own("report.css")
    environment.globals["script"] = _own("report.js")
    environment.globals["script_hash"] = base64.b64encode(
        hashlib.sha256(_own("report.js").encode()).digest()
    ).decode()
    environment.filters["breakable"] = _breakable
    environment.filters["system_key"] = _system_key
    return environment.get_template(name)


def _own(name: str) -> Markup:
    """The text of a file of featprobe's own, as it is."""
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - nobody else's words are in it


def _system_key(text: str, who: Mapping[str, Any]) -> str:
    """What the filters know a system by, "" for none."""
    known = who.get(text)
    return str(known.key) if known else ""


def _breakable(text: str) -> Markup:
    """`text`, escaped, that a narrow column may break behind an underscore."""
    return Markup("_<wbr>").join(text.split("_"))
