"""Numbers, names and symbols read the same in page, table, figure and terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Final

MARK, MINUS, DASH = "●", "\N{MINUS SIGN}", "\N{EN DASH}"
LEVEL: Final = 0.05
"""An adjusted p-value below this is called a difference."""

METRICS: Final = {
    "accuracy": ("Accuracy", "share of test rows whose most probable class is the true one"),
    "balanced_accuracy": ("Balanced accuracy", "mean over classes of the share that is recognised (recall)"),
    "macro_f1": ("Macro F1", "mean over classes of the harmonic mean of precision and recall"),
    "auroc": (
        "AUROC",
        "area under the ROC curve: the chance that a case ranks above a non-case; one class against the rest, averaged over classes, where there are more than two",
    ),
    "average_precision": (
        "Average precision",
        "mean precision over recall, without interpolation; averaged over classes where there are more than two",
    ),
    "brier": (
        "Brier score",
        "mean squared error of the probability of the second class; with more than two classes summed over classes",
    ),
}
_ALIASES: Final = {"f1": "macro_f1", "f1_macro": "macro_f1", "roc_auc": "auroc", "brier_score": "brier"}
_LOWER: Final = frozenset({"brier", "log_loss", "ece", "mae", "mse", "rmse"})
_TEX: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "·": r"\textperiodcentered{}",
    MINUS: "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "●": r"$\bullet$",
    "→": r"$\rightarrow$",
}


def known_metric(name: str) -> str:
    """The name under which METRICS and the rest of the room know a metric."""
    return _ALIASES.get(name, name)


def metric_label(name: str) -> str:
    """`balanced_accuracy` -> `Balanced accuracy`."""
    known = METRICS.get(known_metric(name))
    return known[0] if known else name.replace("_", " ").capitalize()


def in_sentence(name: str) -> str:
    """A metric's label in the middle of a sentence: abbreviations and names keep their capitals."""
    label = metric_label(name)
    keeps = label.split()[0].isupper() or label.startswith("Brier")
    return label if keeps else label[0].lower() + label[1:]


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return known_metric(name) in _LOWER


def number(value: float) -> str:
    """Three decimals with a true minus sign; an en dash where there is no number."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """`[0.901, 0.962]`, or `[no interval]` where it is not defined."""
    return f"[{number(low)}, {number(high)}]" if math.isfinite(low + high) else "[no interval]"


def p_value(value: float) -> str:
    """Three decimals, `<0.001` below, an en dash where there was no test."""
    if not math.isfinite(value):
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def span(values: list[int]) -> str:
    """`640`, or the lowest and the highest with a dash between, where they differ."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}{DASH}{high:,}"


def one_line(text: str) -> str:
    """`text` without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in str(text)).split())


def tex(text: str) -> str:
    """`text` as LaTeX: nothing in it is a command, an alignment, or an option after a line break."""
    return "".join(_TEX.get(character, character) for character in one_line(text))


def markdown(text: str) -> str:
    """`text` as a cell of a Markdown table: no markup, no HTML, no cell border."""
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", escaped)


def slug(text: str, taken: set[str]) -> str:
    """A file name for `text`, safe on every system and not yet in `taken`, to which it is added."""
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:60] or "unnamed"
    name, count = base, 1
    while name.lower() in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name.lower())
    return name


def width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)
