"""Numbers, names and symbols read the same in page, table, figure and terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from featprobe.report.metric_words import FURTHER

MARK, MINUS, DASH = "●", "\N{MINUS SIGN}", "\N{EN DASH}"
LEVEL: Final = 0.05
"""An adjusted p-value below this is called a difference."""

METRICS: Final = {
    "quadratic_kappa": (
        "Quadratic weighted kappa",
        "agreement of true and most probable class beyond chance; a miss counts with the square of its steps in the order of the classes",
    ),
    "ordinal_mae": (
        "MAE in classes",
        "mean number of steps, in the order of the classes, between true and most probable class",
    ),
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
    "macro_auroc": (
        "Macro AUROC",
        "area under the ROC curve: the chance that an image with the label ranks above one without; averaged over labels, each on the rows where it is known",
    ),
    "macro_average_precision": (
        "Macro average precision",
        "mean precision over recall, without interpolation; averaged over labels, each on the rows where it is known",
    ),
    "macro_balanced_accuracy": (
        "Macro balanced accuracy",
        "mean of sensitivity and specificity at probabilities above 0.5; averaged over labels, each on the rows where it is known",
    ),
    "macro_label_f1": (
        "Macro F1 of labels",
        "harmonic mean of precision and recall at probabilities above 0.5; averaged over labels, each on the rows where it is known",
    ),
    "macro_brier": (
        "Macro Brier score",
        "mean squared error of the probability of a label; averaged over labels, each on the rows where it is known",
    ),
    "mae": ("MAE", "mean absolute error of the predicted value, in the unit of the target"),
    "r2": (
        "R²",
        "share of the target's variance in the test rows that is explained: 0 for always predicting their mean, below 0 for worse",
    ),
    "spearman": (
        "Spearman's rho",
        "correlation of the ranks of true and predicted values; blind to any monotone scale",
    ),
    **FURTHER,
}
"""Known name -> (label, definition), in the order of tables; labels are those of the metrics themselves."""

MEASURED: Final = frozenset({"mae"})
"""Metrics in the unit of the target: their digits follow the size of the values."""

_ALIASES: Final = {"f1": "macro_f1", "f1_macro": "macro_f1", "roc_auc": "auroc", "brier_score": "brier"}
_ERRORS: Final = {"ece", "mce", "sce", "ace", "macro_ece", "macro_ace", "log_loss"}
_LOWER: Final = frozenset({*_ERRORS, "brier", "macro_brier", "mae", "ordinal_mae", "mse", "rmse"})
_NAMES: Final = ("Brier", "Spearman", "Cohen", "Lin", "MedMNIST")
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
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "·": r"\textperiodcentered{}",
    MINUS: "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "●": r"$\bullet$",
    "→": r"$\rightarrow$",
    "²": r"$^{2}$",
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
    keeps = label.split()[0].isupper() or label.startswith(_NAMES)
    return label if keeps else label[0].lower() + label[1:]


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return known_metric(name) in _LOWER


def number(value: float, decimals: int = 3) -> str:
    """`decimals` decimals with a true minus sign; an en dash where there is no number."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{decimals}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", MINUS)


def interval(low: float, high: float, decimals: int = 3) -> str:
    """`[0.901, 0.962]`, or `[no interval]` where it is not defined."""
    if not math.isfinite(low + high):
        return "[no interval]"
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def decimals_for(values: Iterable[float]) -> int:
    """Decimals that leave the smallest of the values (0 apart) three significant digits; at most 12."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    return min(12, max(0, 2 - math.floor(math.log10(min(sizes))))) if sizes else 3


def digits(metric: str, values: Iterable[float]) -> int:
    """Decimals in which a metric is shown: three, or by the values where they have the target's unit."""
    return decimals_for(values) if known_metric(metric) in MEASURED else 3


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
