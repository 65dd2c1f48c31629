"""The report is one offline page that a colleague can open, print, read aloud and check."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from featprobe.records import ReportContent
from featprobe.report import examples, paper, tables
from featprobe.report.canaries import canaries_table
from featprobe.report.costs import costs_table
from featprobe.report.files import write_all
from featprobe.report.label_studies import label_part, title_of_study
from featprobe.report.leaks import galleries
from featprobe.report.output import Output, Picture
from featprobe.report.page_figures import MAX_MAPS, pictures
from featprobe.report.panels import Panel, panels
from featprobe.report.rank_figures import critical_difference, describe_ranks
from featprobe.report.reliability import trust_part
from featprobe.report.statistics import Block, statistics_blocks
from featprobe.report.strange import strange_blocks
from featprobe.report.subgroups import subgroup_sections
from featprobe.report.targets import target_fact
from featprobe.report.templating import template
from featprobe.report.wording import LEVEL, METRICS, in_sentence, slug, span

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
class Who:
    """A system as the page asks for it: `key` for the filters (backbone|mode, quoted), `tip` for who points at it."""

    key: str
    tip: str


@dataclass(frozen=True, slots=True)
class Filter:
    """One group of boxes: (value, label) of each."""

    key: str
    label: str
    choices: tuple[tuple[str, str], ...]


def write_report(content: ReportContent, out: Path) -> Path:
    """Write out/report.html, out/tables/*, out/figures/* and the paper pack, and return the path of the page.

    The pack (see `featprobe.report.paper`) needs `content.study`. Equal content gives equal bytes. Raises OutputError where `out` can't be written to.
    """
    output = Output()
    shown = panels(content)
    everyone = [_who(panel) for panel in shown]
    parts = [
        {
            **_part(panel, who, content, output),
            "subgroups": subgroup_sections(content, panel, output.table, output.files),
            "trust": trust_part(content, panel, output),
        }
        for panel, who in zip(shown, everyone, strict=True)
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
        who=_together(everyone),
        filters=_filters(shown),
        ranks=list(_ranks(content, output)),
        pack=paper.write(content, shown, output),
        intervals=_interval_methods(shown),
        comparisons=list(dict.fromkeys(method for panel in shown for method in panel.methods)),
        glossary=[(METRICS[m][0], METRICS[m][1]) for m in tables.used_metrics(shown) if m in METRICS],
        traces=_traces(shown),
        leaks=galleries(content.leaks),
        strange=list(_written(strange_blocks(content), output)),
        statistics=list(_written(statistics_blocks(content, shown), output)),
        level=LEVEL,
        cross_validated=any(panel.folds for panel in shown),
    )
    output.files["report.html"] = page.encode()
    write_all(Path(out), output.files)
    return Path(out) / "report.html"


def _amount(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _who(panel: Panel) -> dict[str, Who]:
    """System -> how the page asks for it."""
    rows = panel.headline.drop_duplicates("system").set_index("system")
    found = {}
    for system in panel.systems:
        row = rows.loc[system]
        key = "|".join(quote(str(row[name]), safe="") for name in ("backbone", "mode"))
        tip = f"Fingerprint {str(row['fingerprint'])[:12]}, seed {row['seed']}. {_what(row)}"
        found[system] = Who(key, tip)
    return found


def _together(everyone: Sequence[Mapping[str, Who]]) -> dict[str, Who]:
    """The systems of all panels; where one has another fingerprint on each data set, the tip says where to look."""
    found: dict[str, Who] = {}
    for panel in everyone:
        for system, who in panel.items():
            other = found.setdefault(system, who)
            if other.tip != who.tip:
                found[system] = Who(
                    who.key, "Fingerprint and seed differ between data sets: see their own tables."
                )
    return found


def _filters(shown: Sequence[Panel]) -> list[Filter]:
    """Boxes for what there are several of."""
    rows = [row for panel in shown for row in panel.headline[["backbone", "mode"]].to_dict("records")]
    groups = [
        ("backbone", "Backbone", {str(row["backbone"]): str(row["backbone"]) for row in rows}),
        ("mode", "Trained", {str(row["mode"]): str(row["mode"]) for row in rows}),
        ("dataset", "Data set", {panel.slug: panel.title for panel in shown}),
    ]
    return [
        Filter(key, label, tuple(sorted(found.items()))) for key, label, found in groups if len(found) > 1
    ]


def _written(blocks: Sequence[Block], output: Output) -> Iterator[Block]:
    """The tables beyond panels, each also as files."""
    for block in blocks:
        output.block(block.name, block.table, block.rows)
        yield block


def _ranks(content: ReportContent, output: Output) -> Iterator[Picture]:
    """The critical-difference diagrams, where systems were ranked over several data sets."""
    for number, ranks in enumerate(content.ranks):
        caption = f"Mean ranks over {ranks.datasets} data sets; a bar joins systems that can't be told apart ({ranks.method})."
        yield from output.picture(
            f"critical-difference-{number + 1}" if number else "critical-difference",
            functools.partial(critical_difference, ranks),
            describe_ranks(ranks),
            caption,
            wide=True,
        )


def _part(panel: Panel, who: Mapping[str, Who], content: ReportContent, output: Output) -> dict[str, Any]:
    """What the template shows of one panel."""
    name = panel.slug
    output.files[f"tables/{name}-metrics.csv"] = tables.metrics_csv(panel)
    metrics = output.table(f"{name}-metrics", tables.metrics_table(panel))
    pairs, canaries = _pair_tables(panel, output), canaries_table(panel)
    thumbnails = examples.shows(panel, content.pictures)
    costs = costs_table(panel)
    if len(panel.predictions) and panel.classes and panel.ranked:
        output.files[f"tables/{name}-confusion.csv"] = tables.confusion_csv(panel)
    return {
        "panel": panel,
        "who": who,
        "facts": list(_facts(panel)),
        "table": metrics,
        "pairs": pairs,
        "canaries": output.table(f"{name}-canaries", canaries) if canaries else None,
        "costs": output.table(f"{name}-costs", costs) if costs else None,
        "pictures": list(pictures(panel, output, thumbnails)),
        "gallery": examples.gallery(panel, thumbnails) if thumbnails else None,
        "gallery_cut": _gallery_cut(panel),
        "maps_left": _maps_left(panel),
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


def _interval_methods(shown: Sequence[Panel]) -> list[tuple[str, list[str]]]:
    """(method and estimand, data sets that it is used on)."""
    used: dict[str, list[str]] = {}
    for panel in shown:
        for method in panel.headline["ci_method"].unique():
            used.setdefault(str(method), []).append(panel.title)
    return list(used.items())


def _gallery_cut(panel: Panel) -> str:
    cut = len(panel.systems) > examples.MOST_SYSTEMS
    return f"The {examples.MOST_SYSTEMS} best of {len(panel.systems)} systems are offered." if cut else ""


def _maps_left(panel: Panel) -> str:
    left = len(panel.maps) - MAX_MAPS
    return (
        f"Maps of the {MAX_MAPS} best are shown; {_amount(left, 'more map')} in figures/." if left > 0 else ""
    )


def _what(row: Any) -> str:
    """What was run: the columns TRACED that say something, and how much was learnt from."""
    what = [str(row[name]) for name in TRACED if str(row[name])]
    parts = {
        "fraction": f"{row['fraction']:g} of the training labels",
        "shots": f"{row['shots']} shots per class",
    }
    what += [text for name, text in parts.items() if row[name] != {"fraction": 1.0, "shots": 0}[name]]
    return ", ".join(what)


def _traces(shown: Sequence[Panel]) -> list[dict[str, str]]:
    """Per data set and system what was run, its seed and fingerprint."""
    rows = []
    for panel in shown:
        headline = panel.headline.drop_duplicates("system").set_index("system")
        for system in panel.systems:
            row = headline.loc[system]
            rows.append(
                {
                    "dataset": panel.title,
                    "system": system,
                    "what": _what(row),
                    "seed": str(row["seed"]),
                    "fingerprint": str(row["fingerprint"]),
                }
            )
    return rows
