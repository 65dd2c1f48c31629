"""What probe and finetune share: the gate, the splits, the hash of a result, so that both judge alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from featprobe import __version__, significance, splitting
from featprobe.config import EvaluationOptions
from featprobe.errors import LeakError, SplitError
from featprobe.metrics import default_metrics, metrics_for, need_suitable
from featprobe.records import Estimate, Predictions, Recipe, RunKey, Samples, sha256_json
from featprobe.results import ResultsFolder
from featprobe.stages.machine import versions


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One data set ready to be judged on: samples after the gate, folds into them, and what must be said.

    `protocol`: "featprobe", with the way of testing where it is neither the user's split nor folds: models that
    were tested otherwise are other models.
    """

    name: str
    samples: Samples
    plan: splitting.SplitPlan
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    protocol: str = "featprobe"

    def unit(self, fingerprint: str, **configuration: Any) -> str:
        """The hash under which a result is stored: equal only where everything that decides it is equal."""
        folds = [
            [fold.name, *(part.tolist() for part in (fold.train, fold.val, fold.test))]
            for fold in self.plan.folds
        ]
        return sha256_json(
            {
                "fingerprint": fingerprint,
                "ids": self.samples.id.tolist(),
                "labels": self.samples.labels_sha256(),
                "groups": self.samples.group.tolist(),
                "cases": self.samples.case.tolist(),
                "modality": self.samples.modality.tolist(),
                **self._kept(),
                "folds": sha256_json(folds),
                "settings": dict(self.settings),
                "configuration": configuration,
                "version": __version__,
            }
        )

    def _kept(self) -> dict[str, Any]:
        """What else of the rows is stored with predictions: the site and kept columns, where there are any."""
        columns = {"site": self.samples.site, **{f"column_{n}": c for n, c in self.samples.columns.items()}}
        kept = {name: column.tolist() for name, column in sorted(columns.items()) if (column != "").any()}
        return {"kept": kept} if kept else {}


def question(name: str, samples: Samples, config: EvaluationOptions) -> Question:
    """Pass the gate and plan the folds; a pure function of the samples and the options.

    Raises LeakError at the gate, SplitError where no split can be made or labels are missing.
    """
    if not samples.label_names or not samples.labelled.any():
        raise SplitError(
            f"data set {name!r} has no labels",
            f"--label none was given, or its label column is empty ({len(samples)} images)",
            "type featprobe extract (or finetune) with labels: embeddings are kept, only the labels are added",
        )
    metrics_of(config, samples.task)
    try:
        return _gated(name, samples, config)
    except (LeakError, SplitError) as error:
        raise type(error)(f"data set {name!r}: {error.wrong}", error.known, error.next_step) from None


def _gated(name: str, samples: Samples, config: EvaluationOptions) -> Question:
    passed, gate_notes = splitting.gate(
        samples, resplit=config.resplit, allow=config.allow_leaks, drop=config.drop_leaks
    )
    # From here on a group is the unit that is split, resampled and tested, in predictions.parquet too.
    joined = passed.joined()
    planned, plan = splitting.plan(
        joined,
        folds=config.folds,
        seed=config.seed,
        resplit=config.resplit,
        min_groups=config.min_groups,
        holdout=config.holdout,
        leave_out=config.leave_out,
    )
    undeclared = (
        ()
        if samples.groups_declared
        else (
            "no groups were declared: every image counts as its own patient; name the column with --group-column at extraction if that is not so",
        )
    )
    settings = {
        "resamples": config.resamples,
        "seed": config.seed,
        "task": samples.task,
        "metrics": list(metrics_of(config, samples.task)),
        "scheme": plan.scheme,
        "leaks": [*config.allow_leaks, "dropped" if config.drop_leaks else ""],
    }
    given = plan.scheme == "user's split"
    notes = (*undeclared, *gate_notes, *_joined_notes(passed, joined, given=given), *plan.notes)
    return Question(name, planned, plan, notes, settings, _protocol(config))


def _protocol(config: EvaluationOptions) -> str:
    if config.leave_out is not None:
        return f"featprobe leave-one-{config.leave_out}-out"
    return "featprobe" if config.holdout is None else f"featprobe holdout {100 * config.holdout:g} %"


def _joined_notes(before: Samples, after: Samples, *, given: bool) -> tuple[str, ...]:
    """What was joined beyond the declared groups; under a split that was `given` only for the statistics."""
    moved = after.group != before.group
    if not moved.any():
        return ()
    near = int((moved & (before.twin != "")).sum())
    how = f" ({near} of them of a near copy)" if near else ""
    why = "they are resampled as one group" if given else "copies are never apart"
    return (f"{int(moved.sum())} images joined the group of a copy{how}: {why}",)


def seeds(config: EvaluationOptions) -> range:
    """The seed of every repeat."""
    return range(config.seed, config.seed + config.repeats)


def metrics_of(config: EvaluationOptions, task: str, published: Sequence[str] = ()) -> tuple[str, ...]:
    """What is computed of each model: the usual metrics of the target's kind and those that were asked for.

    Also those that a protocol's publication reports, `published`, as far as they judge it. "all" is every metric that judges it. ConfigError for one that is unknown or does not judge it.
    """
    asked = metrics_for(task) if "all" in config.metrics else config.metrics
    for name in asked:
        need_suitable(name, task, flag="--metrics")
    fitting = [name for name in published if name in metrics_for(task)]
    return tuple(dict.fromkeys([*default_metrics(task), *fitting, *asked]))


def judged(
    predictions: Sequence[Predictions], config: EvaluationOptions, published: Sequence[str] = ()
) -> list[Estimate]:
    """Every metric of one model with its interval: per fold and, where there are several, their average.

    `published`: as in `metrics_of`.
    """
    metrics = metrics_of(config, predictions[0].samples.task, published)
    return significance.estimates(predictions, metrics, resamples=config.resamples, seed=config.seed)


def identity(key: RunKey, *recipes: Recipe) -> str:
    """What a system is, whichever images it was judged on: a later list of images supersedes an earlier one.

    `recipes`: of its embeddings, in their order, several where it is fused of several.
    """
    named = {name: value for name, value in key.to_dict().items() if name not in {"fold", "fingerprint"}}
    parts = list(dict.fromkeys(recipe.images_free for recipe in recipes))
    return sha256_json({**named, "recipe": parts[0] if len(parts) == 1 else parts})


def stored(folder: ResultsFolder, unit: str, key: RunKey, *recipes: Recipe) -> bool:
    """Whether the results of `unit` are in `folder`; if so, they carry the name that `key` gives the weights now."""
    there = folder.has(unit)
    if there:
        folder.relabel(unit, key.weights, identity(key, *recipes))
    return there


def title(key: Mapping[str, Any]) -> str:
    """A model's columns (`RunKey.to_dict`) as a reader knows it, before a note about it."""
    weights = key.get("weights", "")
    parts = [
        key.get("dataset", ""),
        "" if key.get("level", "image") == "image" else f"by {key['level']}",
        key.get("backbone", "") if weights == "pretrained" else f"{key.get('backbone', '')} ({weights})",
        key.get("inputs", ""),
        key.get("fusion", ""),
        key.get("mode", ""),
        key.get("probe", ""),
    ]
    return " · ".join(str(part) for part in parts if part)


def with_fold(key: RunKey, fold: str) -> RunKey:
    """`key` for another fold."""
    return dataclasses.replace(key, fold=fold)


def announce(subject: Question) -> None:
    """Print what was split, and how."""
    samples, plan = subject.samples, subject.plan
    groups, cases = (len(set(column.tolist())) for column in (samples.group, samples.case))
    count = len(samples.label_names)
    target = {
        "classes": f"{count} classes",
        "ordinal": f"{count} ordered classes",
        "multilabel": f"{count} labels",
        "continuous": f"target {', '.join(samples.label_names)}",
    }[samples.task]
    of_cases = f"{cases} cases, " if cases < len(samples) else ""
    print(f"{subject.name}: {len(samples)} images, {of_cases}{groups} groups, {target}, {plan.scheme}")
    for note in subject.notes:
        print(f"{subject.name}: {note}")


def describe_run(config: Any, stage: str) -> dict[str, Any]:
    """Configuration and versions of one stage, for run.json."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = {
        name: [str(v) for v in value] if isinstance(value, tuple) else value for name, value in values.items()
    }
    return {
        "stage": stage,
        "configuration": {
            name: value if isinstance(value, (int, float, str, bool, list, type(None))) else str(value)
            for name, value in plain.items()
        },
        "versions": versions(),
    }
