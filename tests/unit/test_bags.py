"""Cases as rows of a training: pooled as probing pools them, a case counted once, what is missing left silent."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from featprobe import cases
from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError
from featprobe.heads import TrainingRecipe
from featprobe.heads.bags import AT_ONCE, MISSING, Bagged, without_gaps
from featprobe.heads.inference import predict
from featprobe.heads.model import Classifier
from featprobe.heads.training import train_fold
from featprobe.records import Preprocessing, Samples
from featprobe.stages.bags import batches_of, members, need_possible
from featprobe.stages.case_images import CasePart, drawn
from featprobe.stages.images import Moves
from featprobe.stages.views import View

RULE = Preprocessing((2, 2), "squash", None, "bilinear", (0.5,) * 3, (0.5,) * 3)
SIZES = (3, 1, 2, 4, 2, 3)  # images of six cases
MODALITY = np.array(["A", "B", "A", "A", "B", "B", "B", "A", "B", "A", "A", "B", "A", "B", "A"])


class Summary(nn.Module):
    """float32 [B, 3, 2, 2] -> [B, 4]: nothing that a batch has a say in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(48.0).reshape(4, 12).sin())
            self.linear.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(images.flatten(1)))


class Shelf:
    """What `CasePart` needs of a shelf: image `row` is drawn by its number; what was asked for is written down."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def image(self, row: int) -> torch.Tensor:
        return torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(int(row)))

    def submit(self, rows: Any, _: Any, seed: int | None, __: Any) -> list[Future[torch.Tensor]]:
        made = []
        for row in rows:
            self.asked.append((row, seed))
            future: Future[torch.Tensor] = Future()
            future.set_result(self.image(row))
            made.append(future)
        return made


def view(fusion: str = "mean", modalities: tuple[str, ...] = ()) -> View:
    of_case = np.repeat(np.arange(len(SIZES)), SIZES)
    named = [f"c{number}" for number in range(len(SIZES))]
    samples = Samples.build(path=named, label=[0, 1] * 3, label_names=("low", "high"), case=named)
    return View("case", "+".join(modalities), fusion, samples, (), (), np.arange(15), of_case, modalities)


def part(own: View, shelf: Shelf, *, seen: int = 0, augments: bool = False) -> CasePart:
    images = members(own, np.arange(15) + 100, MODALITY)
    labels = own.samples.label
    names = own.samples.id.tolist()
    made: Any = shelf
    return CasePart(made, images, labels, RULE, Moves(), names, seen=seen, augments=augments)


def features(rows: Any, shelf: Shelf, backbone: nn.Module) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.asarray(backbone(torch.stack([shelf.image(row) for row in rows])))


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_bag_is_embedded_as_a_probe_pools_its_images(how: str, fused: bool) -> None:
    own = view(f"concat-{how}" if fused else how, ("A", "B") if fused else ())
    shelf, backbone = Shelf(), Summary()
    bagged = Bagged(backbone, 4, how)
    order = np.arange(len(SIZES))
    with torch.no_grad():
        found = torch.cat([bagged(b) for b in part(own, shelf).batches(order, 4, augment_seed=None)]).numpy()
    X = features(np.arange(15) + 100, shelf, backbone)
    wanted = own.features(X, MODALITY)
    assert found.shape == (6, 8 if fused else 4)
    lacking = np.isnan(wanted)
    assert lacking.any() == fused, "case 1 has no image of B"
    assert (found == MISSING).tolist() == lacking.tolist()
    assert np.allclose(found[~lacking], wanted[~lacking], atol=1e-6)


def test_many_images_pass_in_parts_and_padding_leaves_no_gradient() -> None:
    backbone = Summary()
    bagged = Bagged(backbone, 4, "mean")
    bags = torch.randn(2, 1, AT_ONCE + 5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    bags[1, 0, 2:] = torch.nan
    whole = bagged(bags)
    with torch.no_grad():
        parts = bagged(bags)
    assert torch.allclose(whole, parts, atol=1e-6)
    whole.square().sum().backward()
    alone = Summary()
    pooled = [alone(bags[0, 0]).mean(dim=0), alone(bags[1, 0, :2]).mean(dim=0)]
    torch.stack(pooled).square().sum().backward()
    assert backbone.linear.weight.grad is not None
    assert torch.allclose(backbone.linear.weight.grad, alone.linear.weight.grad, atol=1e-5)
    backbone.zero_grad()
    nothing = bagged(torch.full((2, 1, 1, 3, 2, 2), torch.nan))
    assert (nothing == MISSING).all()
    torch.where(nothing == MISSING, 0, nothing).sum().backward()
    assert not backbone.linear.weight.grad.any(), "a gradient of 0, for whoever adds gradients up"
    with pytest.raises(ValueError, match="unknown pooling"):
        Bagged(backbone, 4, "median")


def test_what_a_case_lacks_adds_nothing_and_is_filled_as_in_probing() -> None:
    X = np.random.default_rng(0).normal(size=(9, 3))
    X[2, 0] = X[5, 1] = X[7, 2] = np.nan
    X[:, 2] = np.where(np.arange(9) < 6, np.nan, X[:, 2])
    train = np.arange(6)
    gaps = torch.from_numpy(np.where(np.isnan(X), MISSING, X))
    filled = without_gaps(gaps, gaps[:6]).numpy()
    assert np.allclose(filled, cases.fill_missing(X, train))
    recipe = TrainingRecipe(mode="head")
    model = Classifier(Bagged(Summary(), 4, "mean"), 3, 2, recipe)
    assert model.head.gaps
    model.head.standardise_by(gaps[:6].float())
    assert torch.allclose(model.head.mean, torch.from_numpy(filled[:6].mean(axis=0)).float(), atol=1e-6)
    lacking = torch.full((1, 3), MISSING)
    assert torch.allclose(model.head(lacking), model.head.linear.bias[None])
    # A network that diverges must not look like one that lacks something.
    assert not torch.isfinite(model.head(torch.full((1, 3), torch.nan))).any()
    assert not Classifier(Summary(), 4, 2, recipe).head.gaps


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**32))
def test_images_are_drawn_once_each_in_order_and_spread(size: int, count: int, seed: int) -> None:
    rows = np.arange(size) + 7
    found = drawn(rows, count, [seed, 3])
    assert len(found) == min(size, count)
    assert (np.diff(found) > 0).all()
    assert np.isin(found, rows).all()
    assert (drawn(rows, count, [seed, 3]) == found).all()
    if size > count:
        assert np.diff(found, append=found[0] + size).max() <= np.ceil(size / count)


def test_every_image_is_as_likely_as_any_other() -> None:
    counts = Counter(row for seed in range(4000) for row in drawn(np.arange(10), 4, [seed]).tolist())
    shares = np.array([counts[row] for row in range(10)]) / 4000
    assert np.abs(shares - 0.4).max() < 5 * np.sqrt(0.4 * 0.6 / 4000)


def test_a_training_draws_by_seed_and_position_alone() -> None:
    shelf = Shelf()
    source = part(view(), shelf, seen=2)
    assert source.draws
    assert not part(view(), Shelf(), seen=4).draws
    assert not part(view(), Shelf()).draws

    def rows(order: list[int], size: int, seed: int | None) -> list[tuple[int, int | None]]:
        shelf.asked.clear()
        for bag in source.batches(np.array(order), size, augment_seed=seed):
            assert bag.shape[1:] == (1, 2 if seed is not None else bag.shape[2], 3, 2, 2)
        return list(shelf.asked)

    together, apart = rows([0, 3, 5], 3, 1), rows([5, 3, 0], 1, 1)
    assert sorted(together) == sorted(apart)
    assert all(seed is None for _, seed in together), "drawn, but not augmented"
    assert any(sorted(rows([0, 3, 5], 3, seed)) != sorted(together) for seed in range(2, 9))
    assert sorted(row for row, _ in rows(list(range(6)), 4, None)) == list(range(100, 115))
    augmented = part(view(), shelf, seen=2, augments=True)
    shelf.asked.clear()
    list(augmented.batches(np.arange(6), 6, augment_seed=9))
    assert {seed for _, seed in shelf.asked} == {9}


def test_volumes_of_a_case_are_a_bag_too() -> None:
    class Volumes(Shelf):
        def image(self, row: int) -> torch.Tensor:
            return torch.full((1, 4, 2, 2), float(row))

    deep: Any = Volumes()
    rule = dataclasses.replace(RULE, depth=4, interpolation="trilinear")
    images = members(view("concat-mean", ("A", "B")), np.arange(15), MODALITY)
    source = CasePart(deep, images, np.zeros(6), rule, Moves(), [], seen=0, augments=False)
    (bag,) = source.batches(np.array([1, 0]), 2, augment_seed=None)
    assert bag.shape == (2, 2, 2, 1, 4, 2, 2)
    firsts = bag.flatten(3)[..., 0]
    assert firsts[0, 0, 0] == 3
    assert torch.isnan(firsts[0, 1]).all(), "case 1 has no volume of B"
    assert firsts[1, 0].tolist() == [0.0, 2.0]
    assert firsts[1, 1, 0] == 1


def test_a_step_sees_about_as_many_images_whatever_a_row_is() -> None:
    config = FinetuneConfig()
    full = TrainingRecipe(mode="full", batch_size=32, micro_batch=8)
    found, (note,) = batches_of(full, config, view())
    assert (found.batch_size, found.micro_batch) == (8, 2)
    assert note == "a training step sees 8 cases with up to 4 images each"
    found, (note,) = batches_of(full, dataclasses.replace(config, case_images=2), view())
    assert (found.batch_size, note.endswith("drawn anew every epoch")) == (16, True)
    assert batches_of(full, config, view("max"))[0].batch_size == 8
    found, _ = batches_of(TrainingRecipe(mode="full", batch_size=12), config, view())
    assert (found.batch_size, found.micro_batch) == (8, 3), "a step needs labels: it is passed in parts"
    head = TrainingRecipe(mode="head")
    assert batches_of(head, config, view()) == (head, ())
    images = dataclasses.replace(view(), level="image", of_case=None)
    assert batches_of(full, config, images) == (full, ())
    with pytest.raises(ConfigError, match="--mixup mixes two images"):
        need_possible(FinetuneConfig(mixup=0.2), [view()])
    need_possible(FinetuneConfig(mixup=0.2), [images])


@dataclasses.dataclass
class Half:
    """Some rows of a `CasePart`."""

    whole: CasePart
    rows: np.ndarray[Any, Any]

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return self.whole.labels[self.rows]

    def batches(
        self, order: np.ndarray[Any, Any], batch_size: int, *, augment_seed: int | None
    ) -> Iterator[torch.Tensor]:
        return self.whole.batches(self.rows[order], batch_size, augment_seed=augment_seed)


def test_a_head_on_cases_is_the_probe_on_pooled_embeddings(tmp_path: Path) -> None:
    """The convex problem of probing at the level of cases, with a modality that one case lacks."""
    own, shelf, backbone = view("concat-mean", ("A", "B")), Shelf(), Summary()
    source = part(own, shelf)
    learn, watch = np.array([0, 1, 2, 3]), np.array([4, 5])
    halves: list[Any] = [Half(source, learn), Half(source, watch)]
    recipe = TrainingRecipe(mode="head", optimizer="lbfgs", l2=1 / (0.5 * 4), epochs=1, patience=0)
    fitted = train_fold(
        Bagged(backbone, 4, "mean"), 8, 2, train=halves[0], val=halves[1], recipe=recipe, device="cpu",
        checkpoint_dir=tmp_path, resume_key="k",
    )  # fmt: skip
    X = own.features(features(np.arange(15) + 100, shelf, backbone), MODALITY)
    X = cases.fill_missing(X, learn)
    X = (X - X[learn].mean(axis=0)) / X[learn].std(axis=0)
    reference = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(X[learn], own.samples.label[learn])
    every: Any = source
    assert np.allclose(predict(fitted, every, device="cpu"), reference.predict_proba(X), atol=1e-5)


def test_weights_follow_from_the_seed_where_images_are_drawn(tmp_path: Path) -> None:
    trained = []
    for number in range(2):
        source: Any = part(view("max"), Shelf(), seen=1)
        recipe = TrainingRecipe(mode="full", batch_size=2, epochs=3, patience=0, augment=False)
        fitted = train_fold(
            Bagged(Summary(), 4, "max"), 4, 2, train=source, val=source, recipe=recipe, device="cpu",
            checkpoint_dir=tmp_path / str(number), resume_key="k",
        )  # fmt: skip
        trained.append(fitted.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    begun = Summary().linear.weight
    assert not torch.equal(trained[0]["backbone.backbone.linear.weight"], begun), "the backbone was trained"
