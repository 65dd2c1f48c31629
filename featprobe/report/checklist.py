"""Reporting checklists, filled in as far as a run can know: CLAIM 2024 and TRIPOD+AI.

Items by number and subject, in featprobe's own words; the published wording is in Tejani et al., Radiology: Artificial
Intelligence 6(4), e240300 (2024), and Collins et al., BMJ 385, e078378 (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from featprobe.records import ReportContent, Study
from featprobe.report.panels import Panel
from featprobe.report.references import cite_data
from featprobe.report.wording import in_sentence, markdown, metric_label

TO_FILL: Final = "**to be filled in by the authors**"


@dataclass(frozen=True, slots=True)
class Item:
    """One item; `answer` is "" where only the authors know it."""

    guideline: str
    number: str
    subject: str
    answer: str


CLAIM: Final = (
    ("1", "Title: that it is a study of AI, and of which kind", ""),
    ("2", "Abstract: structured", ""),
    ("3", "Background: science and clinic, intended use and role", ""),
    ("4", "Aims, objectives, hypotheses", ""),
    ("5", "Prospective or retrospective", ""),
    ("6", "Goal of the study", "goal"),
    ("7", "Sources of the data", "sources"),
    ("8", "Inclusion and exclusion", "exclusion"),
    ("9", "Preprocessing", "preprocessing"),
    ("10", "Selection of subsets of the data", "subsets"),
    ("11", "De-identification", ""),
    ("12", "Missing data", "missing"),
    ("13", "Acquisition of the images", ""),
    ("14", "Reference standard: how it was obtained", ""),
    ("15", "Reference standard: why this one", ""),
    ("16", "Who annotated", ""),
    ("17", "Annotation of the test set", ""),
    ("18", "Variability within and between readers", ""),
    ("19", "How data were assigned to partitions", "partitions"),
    ("20", "The level at which partitions are disjoint", "disjoint"),
    ("21", "Size of the test sample: intended", ""),
    ("22", "The model in detail", "models"),
    ("23", "Software", "software"),
    ("24", "Initial parameters", "weights"),
    ("25", "Training in detail", "training"),
    ("26", "How the final model was chosen", "choice"),
    ("27", "Ensembles", "ensembles"),
    ("28", "Metrics", "metrics"),
    ("29", "Significance and uncertainty", "statistics"),
    ("30", "Robustness, sensitivity", "robustness"),
    ("31", "Explainability", ""),
    ("32", "Evaluation on internal data", "internal"),
    ("33", "Testing on external data", "external"),
    ("34", "Registration of a clinical trial", ""),
    ("35", "Numbers included and excluded", "numbers"),
    ("36", "Demographic and clinical characteristics of each partition", ""),
    ("37", "Performance with its uncertainty", "performance"),
    ("38", "Diagnostic performance and its precision", "diagnostic"),
    ("39", "Failures: an analysis of wrong cases", "failures"),
    ("40", "Limitations", ""),
    ("41", "Implications for practice", ""),
    ("42", "Where the full protocol is", "protocol"),
    ("43", "Availability of software, model and data", "availability"),
    ("44", "Funding and the funders' role", ""),
)
"""(number, subject, the answer's name in ANSWERS)."""

TRIPOD: Final = (
    ("1", "Title: development or evaluation, population, outcome", ""),
    ("2", "Abstract", ""),
    ("3a", "Healthcare context and rationale", ""),
    ("3b", "Target population and purpose in the care pathway", ""),
    ("3c", "Known health inequalities", ""),
    ("4", "Objectives", "goal"),
    ("5a", "Sources of data for development and evaluation", "sources"),
    ("5b", "Dates of the data", ""),
    ("6a", "Setting", ""),
    ("6b", "Eligibility", "exclusion"),
    ("6c", "Treatments", ""),
    ("7", "Preparation of the data", "preprocessing"),
    ("8a", "Outcome: definition and how it was assessed", "outcome"),
    ("8b", "Outcome: who assessed it, if subjectively", ""),
    ("8c", "Outcome: blinding of the assessors", ""),
    ("9a", "Predictors: choice", "models"),
    ("9b", "Predictors: definition and measurement", ""),
    ("9c", "Predictors: who assessed them, if subjectively", ""),
    ("10", "Sample size: how it was arrived at", ""),
    ("11", "Missing data", "missing"),
    ("12a", "How data were used and partitioned", "partitions"),
    ("12b", "How predictors were handled", "handled"),
    ("12c", "Type of model, building, internal validation", "training"),
    ("12d", "Heterogeneity between clusters", ""),
    ("12e", "Measures of performance and how models were compared", "measures"),
    ("12f", "Updating of the model", ""),
    ("12g", "How predictions were calculated", "predictions"),
    ("13", "Class imbalance: methods against it, and recalibration", "imbalance"),
    ("14", "Fairness", ""),
    ("15", "Output of the model and thresholds", "predictions"),
    ("16", "Differences between training and evaluation data", "differences"),
    ("17", "Ethical approval", ""),
    ("18a", "Funding", ""),
    ("18b", "Conflicts of interest", ""),
    ("18c", "Where the study protocol is, or that none was prepared", "prepared"),
    ("18d", "Registration", ""),
    ("18e", "Data sharing", "data terms"),
    ("18f", "Code sharing", "availability"),
    ("19", "Involvement of patients and the public", ""),
    ("20a", "Flow of participants", "numbers"),
    ("20b", "Characteristics of participants", ""),
    ("20c", "Comparison of training and evaluation data", ""),
    ("21", "Numbers of participants and events in each analysis", "events"),
    ("22", "The full model, so that others can predict with it", "model files"),
    ("23a", "Performance with intervals, subgroups included", "performance"),
    ("23b", "Heterogeneity in performance between clusters", ""),
    ("24", "Results of model updating", ""),
    ("25", "Interpretation, fairness included", ""),
    ("26", "Limitations", ""),
    ("27a", "Use: handling of poor or missing input", ""),
    ("27b", "Use: interaction and expertise required", ""),
    ("27c", "Next steps, generalisability", ""),
)

GUIDELINES: Final = {"CLAIM 2024": CLAIM, "TRIPOD+AI": TRIPOD}


def items(content: ReportContent, study: Study, shown: Sequence[Panel]) -> list[Item]:
    """Every item of both guidelines with what the run knows."""
    known = _answers(content, study, shown)
    return [
        Item(guideline, number, subject, known[name]() if name else "")
        for guideline, rows in GUIDELINES.items()
        for number, subject, name in rows
    ]


def to_file(filled: Sequence[Item]) -> bytes:
    """checklist.md: a table for each guideline."""
    lines = [
        "<!-- Filled in by featprobe as far as the run knows. Check every answer: you sign it. -->",
        "# Reporting checklists",
    ]
    for guideline in GUIDELINES:
        own = [item for item in filled if item.guideline == guideline]
        done = sum(bool(item.answer) for item in own)
        lines += ["", f"## {guideline}", "", f"{done} of {len(own)} items filled in.", ""]
        lines += ["| Item | Subject | Answer |", "|:--|:--|:--|"]
        lines += [
            f"| {item.number} | {markdown(item.subject)} | {markdown(item.answer) if item.answer else TO_FILL} |"
            for item in own
        ]
    return ("\n".join(lines) + "\n").encode()


def _answers(content: ReportContent, study: Study, shown: Sequence[Panel]) -> Mapping[str, Callable[[], str]]:
    """Name -> what to say, "" where the run does not know it after all."""
    own = [backbone for backbone in study.backbones if not backbone.canary]
    frozen = [fit for fit in study.fits if fit.mode == "frozen"]
    trained = [fit for fit in study.fits if fit.mode != "frozen"]
    crossed = any("->" in data.name for data in study.data)
    return {
        "goal": lambda: (
            f"Comparison of {len({b.name for b in own})} pretrained backbones: {', '.join(dict.fromkeys(b.name for b in own))}. The clinical question is to be added by the authors."
        ),
        "sources": lambda: _each(
            study,
            lambda data: cite_data(data)[0] and f"{data.name}: see {cite_data(data)[0]} in references.bib",
        ),
        "exclusion": lambda: _join([*study.leaks, *_with(content.notes, "dropped", "removed", "unreadable")]),
        "preprocessing": lambda: _join(dict.fromkeys(f"{b.name}: {b.preprocessing}" for b in own)),
        "subsets": lambda: _join(_with(content.notes, "dropped", "removed", "left out")),
        "missing": lambda: _join(_with(content.notes, "missing", "no label", "unlabelled")),
        "partitions": lambda: _join(f"{data.name}: {_scheme(data.scheme)}" for data in study.data),
        "disjoint": lambda: _join(_disjoint(data.name, declared=data.groups_declared) for data in study.data),
        "models": lambda: _join(
            f"{b.name}: {b.architecture}, embedding {', '.join(b.poolings)}" for b in own
        ),
        "software": lambda: ", ".join(f"{name} {version}" for name, version in study.versions.items()),
        "weights": lambda: _join(
            f"{b.name}: {b.weights}{f', SHA-256 {b.weights_sha256[:12]}' if b.weights_sha256 else ''}"
            for b in own
        ),
        "training": lambda: _join(
            [
                *(
                    f"frozen, {fit.what}, protocol {fit.protocol}: {fit.describe or fit.source}"
                    for fit in frozen
                ),
                *(f"{fit.mode}: {', '.join(f'{k} {v}' for k, v in fit.training.items())}" for fit in trained),
            ]
        ),
        "choice": lambda: (
            "Every choice inside the training data (validation part, else grouped inner cross-validation); the test rows were used once"
        ),
        "ensembles": lambda: (
            "" if any(" over " in str(f) for f in content.estimates["fusion"].unique()) else "None"
        ),
        "metrics": lambda: _metrics(shown),
        "statistics": lambda: _statistics(study),
        "robustness": lambda: (
            f"Repeated with the seeds {', '.join(map(str, study.seeds))}" if len(study.seeds) > 1 else ""
        ),
        "internal": lambda: (
            "Training and test rows come from the same data set"
            + (", but for those named A->B" if crossed else "")
        ),
        "external": lambda: _join(
            f"{data.name}: trained on one data set, tested on the other"
            for data in study.data
            if "->" in data.name
        ),
        "numbers": lambda: _numbers(study),
        "performance": lambda: "Table of metrics with intervals (tables/)",
        "diagnostic": lambda: _join(
            f"{panel.title}: best {in_sentence(panel.main)} {' '.join(panel.shown(panel.main, panel.cells[panel.systems[0], panel.main]))}"
            for panel in shown
            if (panel.systems[0], panel.main) in panel.cells
        ),
        "failures": lambda: (
            "Confusion matrices, the hardest images and the most confident errors (report.html, figures/); their reading is to be added by the authors"
            if content.pictures
            else ""
        ),
        "protocol": lambda: "The settings of every stage: study.toml, run.json",
        "prepared": lambda: (
            "The settings of every stage as they were run: study.toml. Whether a protocol was prepared beforehand is to be added by the authors"
        ),
        "availability": lambda: (
            f"featprobe {study.versions.get('featprobe', '')} (Apache-2.0); licences of the weights: {', '.join(dict.fromkeys(f'{b.name} {b.licence}' for b in own if b.licence))}"
        ),
        "data terms": lambda: _each(
            study, lambda data: cite_data(data)[1] and f"{data.name}: {cite_data(data)[1]}"
        ),
        "outcome": lambda: "",
        "predictions": lambda: (
            "Probabilities of the fitted models, in predictions.parquet; the decision is the most probable class, or 0.5 for each label"
        ),
        "imbalance": lambda: _imbalance(study),
        "handled": lambda: _join(
            [
                *dict.fromkeys(f"{b.name}: {b.preprocessing}" for b in own),
                *dict.fromkeys(f"embeddings ({f.protocol}): {f.describe}" for f in frozen if f.describe),
            ]
        ),
        "measures": lambda: f"{_metrics(shown)}. {_statistics(study)}",
        "events": lambda: _join([_numbers(study), _events(study)]),
        "differences": lambda: (
            ""
            if crossed
            else "Training and test rows come from the same data set; sites and dates are to be added by the authors"
        ),
        "model files": lambda: (
            "featprobe probe --models writes the fitted probes; they are not part of this report"
            if frozen
            else ""
        ),
    }


def _metrics(shown: Sequence[Panel]) -> str:
    return ", ".join(dict.fromkeys(metric_label(m) for panel in shown for m in panel.metrics))


def _statistics(study: Study) -> str:
    return (
        f"Intervals, and paired comparisons with p-values adjusted over all pairs ({study.resamples[1]:,} resamples); "
        "which methods where: methods.md"
    )


def _numbers(study: Study) -> str:
    return _join(
        f"{data.name}: {data.images or data.n_test[1]:,} images, {data.groups or data.n_groups[1]:,} groups after exclusions; exclusions before featprobe are to be added by the authors"
        for data in study.data
    )


def _events(study: Study) -> str:
    """How many images are of each class, or hold each label."""
    return _join(
        f"{data.name}: {', '.join(f'{name} {count:,}' for name, count in data.classes.items())}"
        for data in study.data
        if data.task != "continuous" and data.classes
    )


def _imbalance(study: Study) -> str:
    """What was done about classes of unequal size, and what these are; "" where there are no classes."""
    events = _events(study)
    if not events:
        return ""
    done = [fit.variant for fit in study.fits if fit.variant]
    for fit in study.fits:
        done += [
            f"{name.replace('_', ' ')} balanced ({fit.mode})"
            for name in ("class_weight", "sampling")
            if fit.training.get(name) == "balanced"
        ]
    return _join(["; ".join(dict.fromkeys(done)) or "No class weights and no moved thresholds", events])


def _scheme(scheme: str) -> str:
    return "the data set's own split" if scheme in {"", "user's split"} else scheme


def _disjoint(name: str, *, declared: bool) -> str:
    return f"{name}: {'group (patient, lesion or study)' if declared else 'image; no groups were declared'}"


def _each(study: Study, say: Callable[..., str]) -> str:
    """An answer only where every data set has one."""
    said = [say(data) for data in study.data]
    return _join(said) if all(said) else ""


def _with(notes: Sequence[str], *words: str) -> list[str]:
    return [note for note in notes if any(word in note for word in words)]


def _join(parts: object) -> str:
    return "; ".join(str(part).rstrip(".") for part in parts if part)  # type: ignore[attr-defined]
