"""The report is one offline page that a colleague can open, print, read aloud and check."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from featprobe.records import ReportContent
from featprobe.report import figures, tables
from featprobe.report.canaries import canaries_table
from featprobe.report.costs import costs_table
from featprobe.report.drawing import render
from featprobe.report.files import write_all
from featprobe.report.label_studies import label_part, title_of_study
from featprobe.report.leaks import galleries
from featprobe.report.panels import Panel, panels
from featprobe.report.reliability import trust_part
from featprobe.report.subgroups import subgroup_sections
from featprobe.report.targets import target_fact
from featprobe.report.templating import template
from featprobe.report.wording import (
    LEVEL,
    METRICS,
    in_sentence,
    known_metric,
    metric_label,
    slug,
    span,
)

MAX_PAIRS = 12
TRACED = (
    "backbone",
    "weights",
    "mode",
    "pooling",
    "layer",
    "inputs",
    "fusion",
    "preprocessing",
    "probe",
    "protocol",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure on the page: the SVG as a data URI, words in its place, what it shows and how to read it."""

    name: str
    source: str
    alt: str
    caption: str
    wide: bool = False


@dataclass(slots=True)
class Output:
    """What will be written, by path relative to the folder, gathered before the first byte is."""

    files: dict[str, bytes] = field(default_factory=dict)

    def table(self, name: str, table: tables.Table) -> tables.Table:
        """Adds the table as Markdown and LaTeX, and returns it."""
        self.files[f"tables/{name}.md"] = tables.to_markdown(table)
        self.files[f"tables/{name}.tex"] = tables.to_latex(table, name)
        return table

    def picture(
        self, name: str, draw: Callable[[], Figure | None], alt: str, caption: str, *, wide: bool = False
    ) -> list[Picture]:
        """Adds the figure as SVG and PNG, and returns it for the page; nothing where there is nothing to draw."""
        files = render(draw)
        self.files |= {f"figures/{name}.{kind}": data for kind, data in files.items()}
        if not files:
            return []
        source = "data:image/svg+xml;base64," + base64.b64encode(files["svg"]).decode()
        return [Picture(name, source, alt, caption, wide)]


def write_report(content: ReportContent, out: Path) -> Path:
    """Write out/report.html, out/tables/* and out/figures/*, and return the path of the page.

    Equal content gives equal bytes. Raises OutputError where `out` can't be written to.
    """
    output = Output()
    shown = panels(content)
    parts = [
        {
            **_part(panel, output),
            "subgroups": subgroup_sections(content, panel, output.table, output.files),
            "trust": trust_part(content, panel, output),
        }
        for panel in shown
    ]
    taken = {panel.slug.lower() for panel in shown}
    labels = [
        label_part(study, slug(title_of_study(study), taken), output) for study in content.label_studies
    ]
    overview = output.table("overview", tables.overview_table(shown)) if len(shown) > 1 else None
    page = template("report.html").render(
        content=content,
        parts=parts,
        systems=_amount(len({name for panel in shown for name in panel.systems}), "system"),
        datasets=_amount(len({panel.dataset for panel in shown}), "data set"),
        overview=overview,
        labels=labels,
        intervals=_interval_methods(shown),
        comparisons=list(dict.fromkeys(method for panel in shown for method in panel.methods)),
        glossary=[(METRICS[m][0], METRICS[m][1]) for m in tables.used_metrics(shown) if m in METRICS],
        traces=_traces(shown),
        leaks=galleries(content.leaks),
        level=LEVEL,
        cross_validated=any(panel.folds for panel in shown),
    )
    output.files["report.html"] = page.encode()
    write_all(Path(out), output.files)
    return Path(out) / "report.html"


def _amount(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _part(panel: Panel, output: Output) -> dict[str, Any]:
    """What the template shows of one panel."""
    name = panel.slug
    output.files[f"tables/{name}-metrics.csv"] = tables.metrics_csv(panel)
    pairs, canaries = _pair_tables(panel, output), canaries_table(panel)
    costs = costs_table(panel)
    if len(panel.predictions) and panel.classes and panel.ranked:
        output.files[f"tables/{name}-confusion.csv"] = tables.confusion_csv(panel)
    return {
        "panel": panel,
        "facts": list(_facts(panel)),
        "table": output.table(f"{name}-metrics", tables.metrics_table(panel)),
        "pairs": pairs,
        "canaries": output.table(f"{name}-canaries", canaries) if canaries else None,
        "costs": output.table(f"{name}-costs", costs) if costs else None,
        "pictures": list(_pictures(panel, output)),
        "metric": in_sentence(panel.main),
    }


def _pair_tables(panel: Panel, output: Output) -> list[tables.Table]:
    """The pairs' table; where it is long, first the pairs with the best system, then the others."""
    if not panel.pairs:
        return []
    whole = output.table(f"{panel.slug}-comparisons", tables.pairs_table(panel, panel.pairs))
    output.files[f"tables/{panel.slug}-comparisons.csv"] = tables.pairs_csv(panel)
    if len(panel.pairs) <= MAX_PAIRS:
        return [whole]
    best = panel.systems[0]
    near = [pair for pair in panel.pairs if best in {pair.a, pair.b}]
    far = [pair for pair in panel.pairs if best not in {pair.a, pair.b}]
    return [tables.pairs_table(panel, part) for part in (near, far) if part]


def _facts(panel: Panel) -> Iterator[tuple[str, str]]:
    """(label, text) of what the panel's numbers rest on."""
    if panel.folds:
        made = panel.scheme or f"{panel.folds}-fold cross-validation"
        yield "Split", f"{made}; every value is the mean of the folds' values"
    elif panel.scheme in {"", "user's split"}:
        yield "Split", "the data set's own: fitted on train and val, judged on test"
    else:
        yield "Split", panel.scheme
    groups = span(panel.counts("n_groups"))
    yield "Test", f"{span(panel.counts('n_test'))} {panel.rows_word} from {groups} independent groups"
    yield "Train", f"{span(panel.counts('n_train'))} {panel.rows_word} per fitted model"
    if fact := target_fact(panel):
        yield fact


def _pictures(panel: Panel, output: Output) -> Iterator[Picture]:
    name, words = panel.slug, _in_words(panel)
    kinds: tuple[tuple[str, Callable[[Panel], Figure | None], str, str], ...] = (
        ("forest", figures.forest, figures.describe_forest(panel), _forest_caption(panel)),
        ("roc", figures.roc, f"ROC curves on {panel.title}, one per system. {words}", _roc_caption(panel)),
    )
    for kind, draw, alt, caption in kinds:
        yield from output.picture(f"{name}-{kind}", functools.partial(draw, panel), alt, caption)
    taken: set[str] = set()
    for item in panel.maps:
        alt = f"{item.method} map of {len(item.xy)} embeddings of {panel.title}, coloured by {'class' if panel.ranked else 'target'}: {item.title}"
        yield from output.picture(
            f"{name}-map-{slug(item.title, taken)}",
            functools.partial(figures.embedding, item),
            alt,
            f"{item.title}. {item.method} map of the embeddings: each point is an image, near points look alike to the backbone. A map shows a tendency; it tests nothing.",
        )
    yield from output.picture(
        f"{name}-scatter",
        functools.partial(figures.scatters, panel),
        f"Predicted against true value on {panel.title}, one panel per system. {words}",
        _scatter_caption(panel),
        wide=True,
    )
    # Matrices need the whole width of the page, so they come last.
    yield from output.picture(
        f"{name}-confusion",
        functools.partial(figures.matrices, panel),
        f"Confusion matrices on {panel.title}, one per system. {words}",
        _matrix_caption(panel),
        wide=True,
    )


def _in_words(panel: Panel) -> str:
    """Best and worst system, for who does not see the figure; all numbers are in the table."""
    ends = [panel.systems[0], *([panel.systems[-1]] if len(panel.systems) > 1 else [])]
    words = []
    for place, system in zip(("Best", "Last"), ends, strict=False):
        cell = panel.cells.get((system, panel.main))
        if cell is not None:
            words.append(
                f"{place} by {in_sentence(panel.main)}: {system}, {' '.join(panel.shown(panel.main, cell))}."
            )
    return " ".join(words)


def _forest_caption(panel: Panel) -> str:
    told = (
        " Filled: can't be told apart from the best. The dotted line marks the best value."
        if panel.tested
        else ""
    )
    return f"{metric_label(panel.main)} with interval, best first.{told}"


def _roc_caption(panel: Panel) -> str:
    kind = (
        f"positive class: {panel.classes[1]}"
        if len(panel.classes) == 2
        else "each class against the rest, averaged over classes"
    )
    if panel.task == "multilabel":
        kind = "each label on the rows where it is known, averaged over labels"
    folds = f"; mean of the {panel.folds} folds' curves at each false positive rate" if panel.folds else ""
    cut = len(panel.systems) - figures.MAX_CURVES
    more = f" The {figures.MAX_CURVES} best of {len(panel.systems)} systems are shown." if cut > 0 else ""
    area = " The legend gives AUROC with interval." if _has_area(panel) else ""
    return f"ROC curves ({kind}{folds}).{area}{more}"


def _has_area(panel: Panel) -> bool:
    return any(known_metric(metric) in {"auroc", "macro_auroc"} for metric in panel.metrics)


def _scatter_caption(panel: Panel) -> str:
    folds = "; each row is predicted in the fold that holds it out" if panel.folds else ""
    cut = len(panel.systems) > figures.MAX_MATRICES
    more = f" The {figures.MAX_MATRICES} best of {len(panel.systems)} systems are shown." if cut else ""
    return f"Predicted against true value, one point per test row{folds}. On the dotted line both are equal.{more}"


def _matrix_caption(panel: Panel) -> str:
    folds = " summed over the folds" if panel.folds else ""
    cut = len(panel.systems) > figures.MAX_MATRICES
    more = f" The {figures.MAX_MATRICES} best of {len(panel.systems)} systems are shown." if cut else ""
    return f"Confusion matrices: counts{folds}; the colour is the share of the true class (its row), so dark off the diagonal is a frequent error.{more}"


def _interval_methods(shown: Sequence[Panel]) -> list[tuple[str, list[str]]]:
    """(method and estimand, data sets that it is used on)."""
    used: dict[str, list[str]] = {}
    for panel in shown:
        for method in panel.headline["ci_method"].unique():
            used.setdefault(str(method), []).append(panel.title)
    return list(used.items())


def _traces(shown: Sequence[Panel]) -> list[dict[str, str]]:
    """Per data set and system what was run: the columns TRACED that say something, sizes, seed, fingerprint."""
    rows = []
    for panel in shown:
        headline = panel.headline.drop_duplicates("system").set_index("system")
        for system in panel.systems:
            row = headline.loc[system]
            what = [str(row[name]) for name in TRACED if str(row[name])]
            parts = {
                "fraction": f"{row['fraction']:g} of the training labels",
                "shots": f"{row['shots']} shots per class",
            }
            what += [text for name, text in parts.items() if row[name] != {"fraction": 1.0, "shots": 0}[name]]
            rows.append(
                {
                    "dataset": panel.title,
                    "system": system,
                    "what": ", ".join(what),
                    "seed": str(row["seed"]),
                    "fingerprint": str(row["fingerprint"]),
                }
            )
    return rows
