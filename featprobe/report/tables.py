"""Numbers go on into papers and scripts: every table of the page as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from featprobe.report import curves
from featprobe.report.panels import Cell, Pair, Panel
from featprobe.report.wording import (
    MARK,
    MINUS,
    in_sentence,
    interval,
    known_metric,
    lower_is_better,
    markdown,
    metric_label,
    number,
    p_value,
    tex,
)

VERDICTS = {"ahead": "A is ahead", "same": "can't be told apart", "untested": "not tested"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One field of a table: main text, smaller text below it (an interval), and whether it is marked."""

    text: str
    below: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text. `caption` says what it shows, `note` what its marks mean; the first column is a name."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    left: int = 1


def better_arrow(metric: str) -> str:
    """`Brier score (low is good)` where that is the unusual direction, else the plain label."""
    return metric_label(metric) + (" (low is good)" if lower_is_better(metric) else "")


def metrics_table(panel: Panel) -> Table:
    """Systems (best first) by metrics, with the sizes they rest on where these differ between systems."""
    sizes = {name: panel.counts(name) for name in ("n_train", "n_test", "n_groups")}
    varying = [name for name, values in sizes.items() if len(set(values)) > 1]
    heads = {"n_train": "Train", "n_test": "Test", "n_groups": "Groups"}
    rows = [
        (
            Entry(system),
            *(_entry(panel, system, metric) for metric in panel.metrics),
            *(Entry(str(sizes[name][position])) for name in varying),
        )
        for position, system in enumerate(panel.systems)
    ]
    header = ("System", *(better_arrow(m) for m in panel.metrics), *(heads[name] for name in varying))
    caption = f"{panel.title}: every system with its interval, sorted by {in_sentence(panel.main)}"
    return Table(caption, header, tuple(rows), mark_meaning(panel))


def mark_meaning(panel: Panel) -> str:
    """What the mark means here, exactly ("" where nothing was tested)."""
    if not panel.tested:
        return ""
    tested = [in_sentence(metric) for metric in panel.metrics if metric in panel.tested]
    others = len(panel.tested) < len(panel.metrics)
    only = f" Tested for {', '.join(tested)}; the other columns carry no mark." if others else ""
    return (
        f"{MARK} can't be told apart from the best: no other system is ahead of it beyond chance, judged over "
        f"all pairs at once. Without {MARK} a system is behind the best one. Intervals of two systems may "
        f"overlap although the paired comparison tells them apart.{only}"
    )


def overview_table(shown: Sequence[Panel]) -> Table:
    """Systems by panels in each panel's main metric; systems in order of their mean place."""
    places: dict[str, list[int]] = {}
    for panel in shown:
        for place, system in enumerate(panel.systems):
            places.setdefault(system, []).append(place)
    order = sorted(places, key=lambda name: (sum(places[name]) / len(places[name]), name))
    rows = tuple((Entry(name), *(_entry(panel, name, panel.main) for panel in shown)) for name in order)
    mark = f"{MARK} can't be told apart from the best of its column." if any(p.tested for p in shown) else ""
    if len({panel.main for panel in shown}) == 1:
        caption = f"{metric_label(shown[0].main)} on every data set, with interval"
        return Table(caption, ("System", *(panel.title for panel in shown)), rows, mark)
    caption = "The main metric of every data set, with interval"
    heads = (f"{panel.title}: {better_arrow(panel.main)}" for panel in shown)
    return Table(caption, ("System", *heads), rows, mark)


def pairs_table(panel: Panel, pairs: Sequence[Pair]) -> Table:
    """Pairs of systems with their difference in the main metric, tests and a verdict in words."""
    decimals = panel.decimals(panel.main)
    rows = tuple(
        (
            Entry(pair.a),
            Entry(pair.b),
            Entry(number(pair.difference, decimals), interval(pair.low, pair.high, decimals)),
            Entry(p_value(pair.p)),
            Entry(p_value(pair.p_adjusted)),
            Entry(
                VERDICTS.get(pair.verdict, f"{pair.verdict.upper()} is ahead"), marked=pair.verdict in "ab"
            ),
        )
        for pair in pairs
    )
    header = ("A", "B", f"A {MINUS} B [95 %, pair alone]", "p", "p (adjusted)", "Verdict")
    return Table(f"{panel.title}: paired differences in {in_sentence(panel.main)}", header, rows, left=2)


def _entry(panel: Panel, system: str, metric: str) -> Entry:
    cell = panel.cells.get((system, metric))
    if cell is None:
        return Entry("")
    return Entry(*panel.shown(metric, cell), marked=cell.best and metric in panel.tested)


def to_markdown(table: Table) -> bytes:
    """A pipe table under its caption; a mark is the symbol, an interval stands behind its value."""

    def cell(entry: Entry) -> str:
        return " ".join(
            filter(None, [MARK * entry.marked * bool(entry.below), markdown(entry.text), entry.below])
        )

    lines = [f"**{markdown(table.caption)}**", "", _pipes([markdown(name) for name in table.header])]
    lines.append(_pipes([":--" if i < table.left else "--:" for i in range(len(table.header))]))
    lines += [_pipes([cell(entry) for entry in row]) for row in table.rows]
    return "\n".join([*lines, *(["", table.note] if table.note else []), ""]).encode()


def to_latex(table: Table, label: str) -> bytes:
    """A `table` environment for booktabs; intervals stand below their values in smaller type."""

    def cell(entry: Entry) -> str:
        text = rf"\textbf{{{tex(entry.text)}}}" if entry.marked else tex(entry.text)
        small = rf"{{\scriptsize {tex(entry.below)}}}"
        return rf"\shortstack{{{text}\\{small}}}" if entry.below else text

    note = table.note.replace(MARK, "Bold:", 1).replace(f"Without {MARK}", "Not bold:").replace(MARK, "bold")
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{tex(table.caption)}.{' ' + tex(note) if note else ''}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * table.left}{'c' * (len(table.header) - table.left)}}}",
        r"\toprule",
        " & ".join(tex(name) for name in table.header) + r" \\",
        r"\midrule",
        *(" & ".join(cell(entry) for entry in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines).encode()


def metrics_csv(panel: Panel) -> bytes:
    """One row per system and metric, in full precision, with what it rests on."""
    heads = [
        "system",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "not_told_from_best",
        "n_train",
        "n_test",
        "n_groups",
    ]
    sizes = {system: row for system, *row in zip(panel.systems, *_sizes(panel), strict=True)}
    rows = [
        [
            system,
            metric,
            repr(cell.value),
            repr(cell.low),
            repr(cell.high),
            _tested(panel, metric, cell),
            *sizes[system],
        ]
        for system in panel.systems
        for metric in panel.metrics
        if (cell := panel.cells.get((system, metric))) is not None
    ]
    return _csv([heads, *rows])


def pairs_csv(panel: Panel) -> bytes:
    """One row per pair of systems, in full precision."""
    heads = ["a", "b", "metric", "difference", "ci_low", "ci_high", "p_value", "p_adjusted", "verdict"]
    rows = [
        [
            p.a,
            p.b,
            panel.main,
            *map(repr, (p.difference, p.low, p.high, p.p, p.p_adjusted)),
            VERDICTS[p.verdict],
        ]
        for p in panel.pairs
    ]
    return _csv([heads, *rows])


def confusion_csv(panel: Panel) -> bytes:
    """One row per system, true and predicted class: the counts of every confusion matrix."""
    rows: list[list[object]] = [["system", "true", "predicted", "count"]]
    for system in panel.systems:
        own = panel.predictions[panel.predictions["system"] == system]
        counts = curves.confusion(own, panel.classes)
        rows += [
            [system, true, said, int(counts[i, j])]
            for i, true in enumerate(panel.classes)
            for j, said in enumerate(panel.classes)
        ]
    return _csv(rows)


def used_metrics(shown: Sequence[Panel]) -> list[str]:
    """Every metric of the panels, by its known name, in order of first use."""
    return list(dict.fromkeys(known_metric(metric) for panel in shown for metric in panel.metrics))


def _tested(panel: Panel, metric: str, cell: Cell) -> str:
    return str(cell.best).lower() if metric in panel.tested else ""


def _sizes(panel: Panel) -> tuple[list[int], ...]:
    return tuple(panel.counts(name) for name in ("n_train", "n_test", "n_groups"))


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode()
