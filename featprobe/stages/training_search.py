"""The same search for every backbone and mode: learning rate, layer decay, weight decay, inside the training rows."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError, MissingExtraError, OutputError, ProbeError
from featprobe.heads import Progress, TrainingRecipe, parse_mode
from featprobe.heads.team import EndedTogetherError
from featprobe.records import sha256_json

if TYPE_CHECKING:
    from featprobe.heads.inference import FittedHead
    from featprobe.stages.training import Trainable

SPAN: Final = 30.0
"""Learning rates from the mode's own, divided by it, to that multiplied by it, on a log scale."""

LAYER_DECAY: Final = (0.5, 1.0)
WEIGHT_DECAY: Final = (1e-4, 0.5)
RANDOM_TRIALS: Final = 5
"""Trials before TPE learns from those that are done; as many are never pruned."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    `value`: of the monitor at its best epoch; `reports`: at every epoch; `state`: "complete",
    "pruned" or "failed", with the reason in `why`.
    """

    number: int
    parameters: dict[str, float]
    value: float | None
    reports: tuple[float, ...]
    state: str
    seconds: float
    why: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Trial:
        """The trial of `dataclasses.asdict`, also after it has been JSON."""
        return cls(**{**values, "reports": tuple(values["reports"])})


def search(
    config: FinetuneConfig, task: Trainable, place: Path
) -> tuple[FittedHead, dict[str, Any], tuple[str, ...]]:
    """(the model of the best trial, what was tried, notes); trials that are on disk are not run again.

    Optuna's TPE (Bergstra et al. 2011) with a sampler seeded anew for each trial from (seed, trial), so that a search
    that was broken off goes on as it would have; trials whose monitor is worse than the median of the earlier ones at
    the same epoch are ended. The first trial is the recipe as it stands. Only the rows to learn from and to choose
    on are looked at. Of several processes the main one alone asks, prunes, counts the minutes and writes; all train.
    ProbeError where every trial fails.
    """
    space = space_of(task.unit.recipe)
    decided = task.team.decided
    trials = [Trial.of(one) for one in decided(lambda: [_plain(trial) for trial in _stored(place, task)])]
    sign = -1.0 if task.unit.recipe.monitor in {"val_loss", "val_mae"} else 1.0
    while decided(lambda: _goes_on(config, trials)):
        trials.append(_run(task, space, trials, place, sign))
        decided(lambda: _store(place, task, trials))
    best = _best(trials, sign)
    chosen = _with(task.unit.recipe, best.parameters)
    home = place / f"trial-{best.number}"
    head = task.fit(chosen, home, _key(task, best.number, best.parameters))
    for trial in trials:
        if trial.number != best.number and task.team.main:
            shutil.rmtree(place / f"trial-{trial.number}", ignore_errors=True)
    spent = sum(trial.seconds for trial in trials if trial.number != best.number)
    budget = (
        f"{config.trials} trials" if config.trials else f"{config.minutes:g} minutes ({len(trials)} trials)"
    )
    about = {
        "budget": budget,
        "seed": task.unit.key.seed,
        "sampler": "TPE, median pruning",
        "space": {name: list(bounds) for name, bounds in space.items()},
        "seconds": round(spent, 1),
        "chosen": best.number,
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }
    words = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in best.parameters.items())
    pruned = sum(trial.state == "pruned" for trial in trials)
    note = (
        f"trial {best.number} of {budget} (TPE, seed {task.unit.key.seed}, {pruned} pruned) chosen by "
        f"{task.unit.recipe.monitor} within the training rows: {words}"
    )
    return head, about, (note,)


def space_of(recipe: TrainingRecipe) -> dict[str, tuple[float, float]]:
    """Setting -> (least, most), all on a log scale: the same for every backbone in one mode.

    A layer decay has a meaning only where several blocks are trained.
    """
    if recipe.optimizer == "lbfgs":
        raise ConfigError(
            "--optimizer lbfgs has no learning rate to search",
            "its optimum depends on --l2 alone",
            "leave --trials and --minutes out",
        )
    space = {"lr": (recipe.peak_lr / SPAN, recipe.peak_lr * SPAN), "weight_decay": WEIGHT_DECAY}
    if parse_mode(recipe.mode).kind not in {"head", "huang-frozen"}:
        space["layer_decay"] = LAYER_DECAY
    return space


def _goes_on(config: FinetuneConfig, trials: list[Trial]) -> bool:
    if config.trials:
        return len(trials) < config.trials
    spent = sum(trial.seconds for trial in trials)
    return not trials or spent < 60 * (config.minutes or 0.0)


def _run(
    task: Trainable, space: Mapping[str, tuple[float, float]], trials: list[Trial], place: Path, sign: float
) -> Trial:
    optuna = _optuna()
    team, monitor, number = task.team, task.unit.recipe.monitor, len(trials)
    asked: Any = _asked(optuna, task, space, trials, sign) if team.main else None
    parameters: dict[str, float] = team.decided(
        lambda: {name: float(value) for name, value in asked.params.items()}
    )
    reports: list[float] = []

    def hopeless(epoch: int) -> bool:
        asked.report(sign * reports[-1], epoch)
        return bool(asked.should_prune())

    def watch(now: Progress) -> None:
        if now.metrics is None:
            return
        reports.append(float(now.metrics[monitor]))
        if team.decided(lambda: hopeless(now.epoch)):
            raise EndedTogetherError

    home = place / f"trial-{number}"
    if team.main:
        # From the start: what a broken-off trial had reported is not known any more, and decides on pruning.
        shutil.rmtree(home, ignore_errors=True)
    state, why, seconds = "complete", "", 0.0
    try:
        recipe = _with(task.unit.recipe, parameters)
        seconds = task.fit(recipe, home, _key(task, number, parameters), watch).seconds
    except EndedTogetherError:
        state, seconds = "pruned", _seconds(home)
    except ProbeError as error:
        state, why = "failed", error.wrong
    value = sign * max(sign * one for one in reports) if reports and state != "failed" else None
    print(f"{task.title}: trial {number} {state}, {monitor} {'-' if value is None else f'{value:.4f}'}")
    done = Trial(number, parameters, value, tuple(reports), state, seconds, why)
    return Trial.of(team.decided(lambda: _plain(done)))


def _asked(
    optuna: Any, task: Trainable, space: Mapping[str, tuple[float, float]], trials: list[Trial], sign: float
) -> Any:
    """Optuna's next trial after `trials`, its parameters drawn."""
    number = len(trials)
    seed = int(np.random.SeedSequence([task.unit.key.seed, number]).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS, n_warmup_steps=1),
    )
    scales = {
        name: optuna.distributions.FloatDistribution(*bounds, log=True) for name, bounds in space.items()
    }
    for earlier in trials:
        study.add_trial(_replayed(optuna, earlier, scales, sign))
    if not number:
        study.enqueue_trial({name: _own(task.unit.recipe, name, *bounds) for name, bounds in space.items()})
    return study.ask(scales)


def _own(recipe: TrainingRecipe, name: str, low: float, high: float) -> float:
    """The recipe's own setting, where the space holds it."""
    own = {"lr": recipe.peak_lr, "weight_decay": recipe.weight_decay, "layer_decay": recipe.layer_decay}
    return min(max(own[name], low), high)


def _with(recipe: TrainingRecipe, parameters: Mapping[str, float]) -> TrainingRecipe:
    return TrainingRecipe.from_dict({**recipe.to_dict(), **parameters})


def _replayed(optuna: Any, trial: Trial, scales: Mapping[str, Any], sign: float) -> Any:
    states = {
        "complete": optuna.trial.TrialState.COMPLETE,
        "pruned": optuna.trial.TrialState.PRUNED,
        "failed": optuna.trial.TrialState.FAIL,
    }
    return optuna.trial.create_trial(
        state=states[trial.state],
        params=trial.parameters,
        distributions=dict(scales),
        value=None if trial.value is None else sign * trial.value,
        intermediate_values={epoch: sign * value for epoch, value in enumerate(trial.reports, start=1)},
    )


def _best(trials: list[Trial], sign: float) -> Trial:
    """The best complete trial, of equals the first; ProbeError where none is."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if not whole:
        first = next((trial.why for trial in trials if trial.why), "")
        raise ProbeError(
            f"none of {len(trials)} trials came to an end", first, "type a smaller --lr, or --precision fp32"
        )
    return max(whole, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))


def _seconds(home: Path) -> float:
    """How long a pruned trial has trained, as its last checkpoint says."""
    from featprobe.heads.checkpoints import read_state

    state = read_state(home / "last.safetensors")
    return float(state.get("seconds", 0.0))


def _key(task: Trainable, number: int, parameters: Mapping[str, float]) -> str:
    return sha256_json({"unit": task.unit.hash, "trial": number, "parameters": dict(parameters)})


def _stored(place: Path, task: Trainable) -> list[Trial]:
    try:
        kept = json.loads((place / "trials.json").read_text(encoding="utf-8"))
        if kept["unit"] != task.unit.hash:
            return []
        return [Trial.of(one) for one in kept["trials"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{task.title}: {place / 'trials.json'} can't be read ({error}): the search begins anew")
        return []


def _store(place: Path, task: Trainable, trials: list[Trial]) -> None:
    kept = {"unit": task.unit.hash, "trials": [_plain(trial) for trial in trials]}
    part = place / "trials.json.part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        part.replace(place / "trials.json")
    except OSError as error:
        raise OutputError(
            f"{place} can't be written to: {error}", "", "free space or choose another --out"
        ) from error


def _plain(trial: Trial) -> dict[str, Any]:
    values = dataclasses.asdict(trial)
    if trial.value is not None and not math.isfinite(trial.value):
        values["value"] = None
    return values


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("--trials and --minutes", "optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
