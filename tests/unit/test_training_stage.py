"""What joins flags, probes and trainings: recipes from flags, heads from fitted probes, costs that say what they are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from featprobe import probes
from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError
from featprobe.heads.protocols import TRAININGS
from featprobe.stages.training import head_start
from featprobe.stages.training_costs import Cost, costs, power
from featprobe.stages.training_recipes import check_settings, recipe_of, variant_of

NOTHING = {"patience": 0, "weight_decay": 0.0, "clip_norm": 0.0, "warmup": 0.0, "label_smoothing": 0.0}


def test_a_flag_of_nothing_is_a_flag() -> None:
    recipe = recipe_of(FinetuneConfig(**NOTHING), "full", "gap")
    assert {name: getattr(recipe, name) for name in NOTHING} == NOTHING
    plain = recipe_of(FinetuneConfig(), "full", "gap")
    assert (plain.patience, plain.weight_decay, plain.clip_norm, plain.warmup) == (5, 0.05, 1.0, 0.1)
    assert plain.augments
    assert not recipe_of(FinetuneConfig(augment=False), "full", "gap").augments
    assert not recipe_of(FinetuneConfig(), "head", "gap").augments


def test_a_protocol_sets_what_no_flag_says() -> None:
    config = FinetuneConfig(protocol="huang2024", lr=1e-3, batch_size=8)
    recipe = recipe_of(config, "full", "logits")
    assert (recipe.optimizer, recipe.weight_decay, recipe.epochs, recipe.head) == (
        "adam",
        0.0,
        100,
        "mlp:256",
    )
    assert (recipe.lr, recipe.batch_size) == (1e-3, 8)
    assert recipe_of(config, "full", "pre_logits").head == "linear"
    assert variant_of(config, recipe) == "mlp:256 head"
    rule = TRAININGS["huang2024"]
    assert rule.pooling(("gap", "pre_logits", "logits"), "gap") == "pre_logits", "a CNN's penultimate layer"
    assert rule.pooling(("logits", "cls", "pre_logits"), "logits") == "logits", "DINOv2's _lc"
    assert TRAININGS["featprobe"].pooling(("gap", "pre_logits"), "gap") == "gap"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"shots": (2,), "fraction": (0.5,)}, "leave one of them out"),
        ({"trials": 3, "minutes": 1.0}, "one budget ends a search"),
        ({"mode": ("last:1", "lats:2")}, "did you mean last"),
    ],
)
def test_contradictions_end_before_any_image_is_read(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_settings(FinetuneConfig(**values))


@pytest.mark.parametrize("kind", ["two", "three", "labels"])
def test_a_head_that_starts_from_a_probe_says_what_the_probe_says(kind: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 6)) * np.arange(1, 7) + 2
    classes = 2 if kind != "three" else 4  # of four the third never occurs
    y = rng.integers(0, 2, size=(90, 2)) if kind == "labels" else rng.integers(0, classes, size=90)
    if kind == "three":
        y[y == 2] = 3
    X[:, 0] += 3 * (y[:, 0] if kind == "labels" else y)
    fitted = probes.fit_probe(
        "logistic", X, y, n_classes=classes, selection=[(np.arange(60), np.arange(60, 90))], calibration=[], seed=0,
        task="multilabel" if kind == "labels" else "classes", rule=probes.Rule(refit=False),
    )  # fmt: skip
    start = head_start(fitted, X[:60], classes)
    scores = ((X - start.centre) / start.deviation) @ start.weight.T + start.bias
    said = expit(scores) if kind == "labels" else softmax(scores, axis=1)
    wanted = fitted.predict(X)
    assert np.allclose(said, wanted, atol=1e-6 if kind != "three" else 1e-3)
    assert "logistic probe at C" in start.words


def test_costs_add_up_and_the_energy_says_what_it_rests_on() -> None:
    cpu = torch.device("cpu")
    folds = [Cost(1800.0, 5, 10, 100), Cost(1800.0, 7, 10, 100)]
    spent = costs(folds, cpu, 20.0)
    assert (spent["seconds"], spent["peak_memory_bytes"], spent["trained_parameters"]) == (3600.0, 7, 10)
    assert spent["energy_wh"] == 20.0
    assert spent["energy_basis"] == "an estimate, no measurement: seconds times 20 W as given with --watts"
    watts, basis = power(cpu)
    assert watts == 10 * torch.get_num_threads()
    assert "assumed" in basis
    assert power(torch.device("meta"))[0] is None
    unknown = costs(folds, torch.device("meta"), None)
    assert unknown["energy_wh"] is None
    assert "give it with --watts" in unknown["energy_basis"]


PEAKS = """
import numpy as np, torch
from featprobe.stages.training_costs import peak_memory
with peak_memory(torch.device("cpu")) as before:
    pass
with peak_memory(torch.device("cpu")) as found:
    block = np.ones(2**27 // 8)
    del block
assert found.bytes > before.bytes + 2**26, (found.bytes, before.bytes)
"""


def test_the_peak_holds_what_was_held_for_a_moment() -> None:
    # In a process of its own: what other tests have freed may be kept, and then nothing new is held.
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
