"""The methods paragraph of a paper, written from what was run: nothing in it that was not, nothing vague."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from featprobe.records import BackboneFacts, DataFacts, FitFacts, Study
from featprobe.report.panels import Panel
from featprobe.report.references import SOFTWARE, cite_backbone, cite_data, cite_methods
from featprobe.report.wording import DASH, in_sentence, markdown, metric_label

_MOST_CLASSES: Final = 15
_CITATION: Final = re.compile(r" ?\[@[^\]]*\]")


def methods(study: Study, shown: Sequence[Panel], extras: Sequence[str] = ()) -> list[str]:
    """Paragraphs of Markdown, each of one subject, with citations as pandoc reads them: [@key; @key].

    `extras`: sentences of other analyses, which join the paragraph on statistics.
    """
    return [
        " ".join(_data(study)),
        " ".join(_models(study)),
        " ".join(_fitting(study)),
        " ".join([*_statistics(study, shown), *extras]),
        " ".join(_software(study)),
    ]


def without_citations(paragraph: str) -> str:
    """A paragraph as plain text, for the page."""
    return (
        re.sub(r"\\([\\`*_\[\]|#~$])", r"\1", _CITATION.sub("", paragraph))
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )


def to_file(paragraphs: Sequence[str]) -> bytes:
    """methods.md."""
    head = "<!-- Written by featprobe from what was run; words in brackets behind an at-sign are keys of references.bib, as pandoc reads them. -->"
    return ("\n\n".join([head, "## Methods", *paragraphs]) + "\n").encode()


def _cite(*keys: str) -> str:
    return f" [{'; '.join('@' + key for key in keys)}]" if keys else ""


def _data(study: Study) -> Iterator[str]:
    for data in study.data:
        key, licence = cite_data(data)
        cited = _cite(key) if key else ""
        terms = f" (licence: {licence})" if licence else ""
        yield f"{markdown(data.name)}{cited}{terms}: {_size(data)}. {_split(data)}"
    kept = "Rows of one group (patient, lesion or study) were kept on one side of every split that featprobe made."
    yield kept
    for words in study.leaks:
        yield f"{markdown(words)}."


def _size(data: DataFacts) -> str:
    if not data.images:
        return f"{_span(data.n_test)} test images from {_span(data.n_groups)} groups"
    target = {
        "classes": f"{len(data.classes)} classes",
        "ordinal": f"{len(data.classes)} ordered classes",
        "multilabel": f"{len(data.classes)} labels",
        "continuous": f"a continuous target ({', '.join(map(markdown, data.classes))})",
    }[data.task]
    counts = [f"{markdown(name)} {count:,}" for name, count in data.classes.items()]
    named = f" ({', '.join(counts)})" if data.task != "continuous" and len(counts) <= _MOST_CLASSES else ""
    cases = f" in {data.cases:,} cases" if data.cases < data.images else ""
    whose = (
        f"from {data.groups:,} independent groups"
        if data.groups_declared
        else "without declared groups, so each image (or set of equal images) counted as its own"
    )
    return f"{data.images:,} images{cases}, {target}{named}, {whose}"


def _split(data: DataFacts) -> str:
    sizes = f"{_span(data.n_train)} training and {_span(data.n_test)} test rows ({_span(data.n_groups)} test groups)"
    if data.scheme in {"", "user's split"}:
        return f"The data set's own split was used: {sizes}."
    return f"Split: {markdown(data.scheme)}, with {sizes} in each."


def _models(study: Study) -> Iterator[str]:
    own = [backbone for backbone in study.backbones if not backbone.canary]
    controls = [backbone for backbone in study.backbones if backbone.canary]
    number = len({backbone.name for backbone in own})
    yield f"{number} {'backbone was' if number == 1 else 'backbones were'} compared: {'; '.join(_backbone(b) for b in own)}."
    if controls:
        names = "; ".join(
            f"{markdown(b.name)} ({b.weights} weights)" if b.weights == "random" else markdown(b.name)
            for b in controls
        )
        yield f"As controls that a backbone must beat: {names}."


def _backbone(backbone: BackboneFacts) -> str:
    hashed = f", SHA-256 {backbone.weights_sha256[:12]}" if backbone.weights_sha256 else ""
    precision = f", {backbone.precision}" if backbone.precision else ""
    built = f"{markdown(backbone.architecture)}; " if backbone.architecture else ""
    licence = f", licence: {markdown(backbone.licence)}" if backbone.licence else ""
    return (
        f"{markdown(backbone.name)}{_cite(*cite_backbone(backbone))} ({built}weights: "
        f"{markdown(backbone.weights)}{hashed}{licence}; preprocessing: {markdown(backbone.preprocessing)}{precision}; "
        f"embedding: {', '.join(map(markdown, backbone.poolings))})"
    )


def _fitting(study: Study) -> Iterator[str]:
    for fit in study.fits:
        yield _frozen(fit) if fit.mode == "frozen" else _trained(fit)
    if study.amounts:
        yield f"Amounts of training labels, each nested in the next: {', '.join(study.amounts)}."
    yield "Scaling, regularisation and every other choice were made inside the training data; the test rows were used once, to judge."


def _frozen(fit: FitFacts) -> str:
    source = (
        f" (protocol {markdown(fit.protocol)}; {markdown(fit.source)})"
        if fit.source
        else f" (protocol {markdown(fit.protocol)})"
    )
    variant = f" ({markdown(fit.variant)})" if fit.variant else ""
    how = f": {markdown(fit.describe)}" if fit.describe else ""
    differs = f" Unlike the publication: {'; '.join(map(markdown, fit.differs))}." if fit.differs else ""
    return f"With the backbone frozen, a {markdown(fit.what)} probe{variant} was fitted to the embeddings{source}{how}.{differs}"


def _trained(fit: FitFacts) -> str:
    values = ", ".join(
        f"{markdown(name)} {value}" for name, value in fit.training.items() if name not in {"mode", "seed"}
    )
    return f"Mode {markdown(fit.mode)} ({markdown(fit.what)}) was trained on the same splits: {values or 'its settings were not recorded'}."


def _statistics(study: Study, shown: Sequence[Panel]) -> Iterator[str]:
    mains = list(dict.fromkeys(in_sentence(panel.main) for panel in shown))
    every = ", ".join(
        dict.fromkeys(metric_label(m) for panel in shown for m in panel.metrics if m != panel.main)
    )
    others = f"; also reported: {every}" if every else ""
    yield f"The main {'metric was' if len(mains) == 1 else 'metrics were'} {', '.join(mains)}{others}."
    found = interval_methods(shown)
    for method, where in _places(found, shown, _intervals).items():
        yield f"Interval{where}: {markdown(method)}{_cite(*cite_methods([method]))}."
    if any("bootstrap" in method for method in found):
        unit = "The group (patient, lesion or study), or the image where no groups were declared, was the unit of resampling"
        yield f"{unit}."
    tests = list(dict.fromkeys(method for panel in shown for method in panel.methods))
    for method, where in _places(tests, shown, lambda panel: panel.methods).items():
        yield f"Comparison of systems{where}: {markdown(method)}{_cite(*cite_methods([method]))}."
    if any(panel.tested for panel in shown):
        yield (
            f"All systems shared their resamples ({study.resamples[1]:,}); the systems that can't be told apart from the best "
            "were found on them by simultaneous comparison with the best, stepped "
            f"down{_cite('hsu1996multiple', 'romano2005stepwise')}."
        )
    seeds = ", ".join(map(str, study.seeds))
    yield f"Seed{'s' if len(study.seeds) > 1 else ''} of splits, fits and resamples: {seeds}."


def _places(
    methods: Sequence[str], shown: Sequence[Panel], used: Callable[[Panel], Collection[str]]
) -> dict[str, str]:
    """Method -> " (where it was used)", "" where that is everywhere or there is one only; the same words stand once."""
    if len(methods) < 2:
        return dict.fromkeys(methods, "")
    titles = {method: [panel.title for panel in shown if method in used(panel)] for method in methods}
    return {
        method: f" ({markdown('; '.join(names))})" if len(names) < len(shown) else ""
        for method, names in titles.items()
    }


def _intervals(panel: Panel) -> set[str]:
    return {str(method) for method in panel.headline["ci_method"].unique()}


def interval_methods(shown: Sequence[Panel]) -> list[str]:
    """What made the intervals, each method once."""
    return list(
        dict.fromkeys(
            str(m)
            for panel in shown
            for m in panel.headline["ci_method"].unique()
            if not str(m).startswith("undefined")
        )
    )


def _software(study: Study) -> Iterator[str]:
    names = [
        f"{name} {version}{_cite(SOFTWARE[name]) if name in SOFTWARE else ''}"
        for name, version in study.versions.items()
        if name in {"featprobe", "torchvision", "pandas", *SOFTWARE}
    ]
    where = f" on {', '.join(study.devices)}" if study.devices else ""
    yield f"Software: {', '.join(names)}{where}."
    yield "The settings of every stage are in study.toml, which repeats the study."
    yield from map(markdown, study.missing)


def _span(values: tuple[int, int]) -> str:
    low, high = values
    return f"{low:,}" if low == high else f"{low:,}{DASH}{high:,}"
