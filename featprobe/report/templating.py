"""One way to fill a page: escaped by default, strict about names, everything inside the file."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup


def template(name: str) -> jinja2.Template:
    """The template `name` of this room; `stylesheet` is the text of report.css."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featprobe.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    environment.globals["stylesheet"] = Markup(style)  # noqa: S704 - featprobe's own file
    environment.filters["breakable"] = _breakable
    return environment.get_template(name)


def _breakable(text: str) -> Markup:
    """`text`, escaped, that a narrow column may break behind an underscore."""
    return Markup("_<wbr>").join(text.split("_"))
