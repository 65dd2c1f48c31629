"""Heads on cached embeddings follow their published rules: each against a plain rendering of the rule in torch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from timm.optim import AdamW as TimmAdamW
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional

from featprobe.heads.cached import RECIPES
from featprobe.heads.cached.fitting import fit_head
from featprobe.heads.cached.models import Attentive
from featprobe.heads.cached.recipes import BLOCK_INPUTS
from featprobe.heads.cached.rows import Rows, endless_batches
from featprobe.heads.cached.sgd import first_weight, train
from featprobe.heads.cached.targets import encode
from featprobe.heads.optimisation import derive_seed, epoch_order, seeded

CPU = torch.device("cpu")
FIT, VAL = np.arange(150), np.arange(150, 220)


def blocks(y, width=12, seed=0, strength=0.6):
    """The four inputs of DINOv2's linear heads, of which the labels can be half read."""
    rng = np.random.default_rng(seed)
    classes = int(y.max()) + 1
    cls = [rng.standard_normal((len(y), width)) + strength * np.eye(classes, width)[y] for _ in range(4)]
    mean = rng.standard_normal((len(y), width)) + strength * np.eye(classes, width)[y]
    tables = (cls[3], np.hstack([cls[3], mean]), np.hstack(cls), np.hstack([*cls, mean]))
    return {key: table.astype(np.float32) for key, table in zip(BLOCK_INPUTS, tables, strict=True)}


def labels(classes, rows=220):
    return np.random.default_rng(1).permutation(np.arange(rows) % classes)


def published(X, rates, steps, batch, loss, outputs, rows=FIT, seed=3):
    """One nn.Linear per input and rate, trained at once by one SGD with a group each, as the authors' code does."""
    heads, groups = {}, []
    for place, (key, table) in enumerate(X.items()):
        for number, rate in enumerate(rates):
            head = nn.Linear(table.shape[1], outputs)
            with torch.no_grad():
                head.weight.copy_(
                    first_weight(outputs, table.shape[1], std=0.01, seed=seed, place=(place, number))
                )
                head.bias.zero_()
            heads[key, number] = head
            groups.append({"params": head.parameters(), "lr": rate})
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0)
    for positions in endless_batches(len(rows), batch, steps, seed=seed):
        taken = rows[positions]
        losses = [loss(head(torch.from_numpy(X[key][taken])), taken) for (key, _), head in heads.items()]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        scheduler.step()
    return heads


def test_the_52_heads_of_dinov2_are_the_authors_one_by_one_and_so_is_the_choice():
    y = labels(4)
    X = blocks(y)
    recipe = dataclasses.replace(RECIPES["dinov2-linear"], iterations=40)
    assert len(recipe.learning_rates) * len(recipe.inputs) == 52
    rates = [rate * 128 / 256 for rate in recipe.learning_rates]
    truth = torch.from_numpy(y)
    heads = published(
        X, rates, 40, 128, lambda scores, rows: functional.cross_entropy(scores, truth[rows]), 4
    )
    target = encode(y, train=FIT, val=VAL, n_classes=4, task="classes", binary_output=False)
    tables = {key: Rows(table, FIT, CPU) for key, table in X.items()}
    banks = train(recipe, tables, rates, target, steps=40, batch=128, seed=3)
    for (key, number), head in heads.items():
        weight, bias = banks[key].head(number)
        torch.testing.assert_close(weight, head.weight.data, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(bias, head.bias.data, rtol=1e-4, atol=1e-6)

    fitted = fit_head(recipe, X, y, train=FIT, val=VAL, n_classes=4, task="classes", seed=3)
    best, chosen = 0.0, None  # strictly better, in the order of the code: the first of equals
    for (key, number), head in heads.items():
        name = f"{key}, learning rate {recipe.learning_rates[number]:g}"
        right = (head(torch.from_numpy(X[key][VAL])).argmax(dim=1) == truth[VAL]).float().mean().item()
        assert fitted.scores[name] == pytest.approx(right, abs=1e-6)
        if right > best:
            best, chosen = right, (key, number, name)
    assert fitted.chosen["candidate"] == chosen[2]
    expected = torch.softmax(heads[chosen[:2]](torch.from_numpy(X[chosen[0]])), dim=1).detach()
    np.testing.assert_allclose(fitted.predict(X), expected, atol=1e-5)


def test_a_head_alone_ends_in_the_weights_that_it_has_among_all():
    y = labels(4)
    X = {"cls": blocks(y)["cls"]}
    recipe = RECIPES["dinov2-linear"]
    target = encode(y, train=FIT, val=VAL, n_classes=4, task="classes", binary_output=False)
    tables = {"cls": Rows(X["cls"], FIT, CPU)}
    options = {"steps": 25, "batch": 128, "seed": 0}
    together = train(recipe, tables, [0.5, 1e-6, 1e9], target, **options)["cls"]
    alone = train(recipe, tables, [0.5], target, **options)["cls"]
    torch.testing.assert_close(together.head(0)[0], alone.head(0)[0], rtol=1e-5, atol=1e-7)


def test_multi_label_heads_are_trained_on_the_known_cells_alone():
    rng = np.random.default_rng(0)
    X = {"cls": rng.standard_normal((220, 8)).astype(np.float32)}
    y = (X["cls"][:, :3] > 0).astype(np.int64)
    y[rng.random(y.shape) < 0.3] = -1
    recipe = dataclasses.replace(RECIPES["dinov2-linear"], iterations=30, learning_rates=(0.1,))
    truth = torch.from_numpy(y).float()

    def loss(scores, rows):
        known = truth[rows] >= 0
        return functional.binary_cross_entropy_with_logits(scores[known], truth[rows][known])

    head = published(X, [0.05], 30, 128, loss, 3)["cls", 0]
    fitted = fit_head(recipe, X, y, train=FIT, val=VAL, n_classes=3, task="multilabel", seed=3)
    expected = torch.sigmoid(head(torch.from_numpy(X["cls"]))).detach().numpy()
    np.testing.assert_allclose(fitted.predict(X), expected, atol=1e-5)
    areas = [roc_auc_score(y[VAL, k][y[VAL, k] >= 0], expected[VAL, k][y[VAL, k] >= 0]) for k in range(3)]
    assert fitted.scores["cls, learning rate 0.1"] == pytest.approx(np.mean(areas), abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_baharoon_searches_by_auroc_and_refits_on_train_and_validation(classes):
    y = labels(classes)
    X = {key: blocks(y)[key] for key in RECIPES["baharoon-linear"].inputs}
    recipe = dataclasses.replace(RECIPES["baharoon-linear"], epochs=4)
    rates, outputs, truth = recipe.learning_rates, 1 if classes == 2 else classes, torch.from_numpy(y)

    def loss(scores, rows):
        if classes == 2:
            return functional.binary_cross_entropy_with_logits(scores[:, 0], truth[rows].float())
        return functional.cross_entropy(scores, truth[rows])

    heads = published(X, rates, 4 * math.ceil(150 / 128), 128, loss, outputs)
    best, chosen = 0.0, None
    for (key, number), head in heads.items():
        scores = head(torch.from_numpy(X[key][VAL])).detach().numpy()
        columns = (
            [(y[VAL] == 1, scores[:, 0])] if classes == 2 else [(y[VAL] == k, scores[:, k]) for k in range(3)]
        )
        area = np.mean([roc_auc_score(*column) for column in columns])
        if area > best:
            best, chosen = area, (key, number)
    fitted = fit_head(recipe, X, y, train=FIT, val=VAL, n_classes=classes, task="classes", seed=3)
    assert fitted.scores[fitted.chosen["candidate"]] == pytest.approx(best, abs=1e-6)
    assert (fitted.chosen["input"], fitted.chosen["learning_rate"]) == (chosen[0], rates[chosen[1]])
    everything = np.concatenate([FIT, VAL])
    again = published(
        {chosen[0]: X[chosen[0]]}, [rates[chosen[1]]], 4 * math.ceil(220 / 128), 128, loss, outputs,
        rows=everything,
    )  # fmt: skip
    scores = again[chosen[0], 0](torch.from_numpy(X[chosen[0]])).detach()
    if classes == 2:
        expected = torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], dim=1)
    else:
        expected = torch.softmax(scores, dim=1)
    np.testing.assert_allclose(fitted.predict(X), expected, atol=1e-5)


def test_baharoon_sums_the_multi_label_loss_over_rows_and_cuts_the_batch_to_the_data():
    rng = np.random.default_rng(0)
    X = {"cls": rng.standard_normal((110, 6)).astype(np.float32)}
    y = (X["cls"][:, :2] > 0).astype(np.int64)
    truth = torch.from_numpy(y).float()
    fit, val = np.arange(90), np.arange(90, 110)
    recipe = dataclasses.replace(RECIPES["baharoon-linear"], learning_rates=(1e-3,), refit=False, epochs=7)
    assert (recipe.batch(90), recipe.steps(90)) == (90, 7)

    def loss(scores, rows):
        cells = functional.binary_cross_entropy_with_logits(scores, truth[rows], reduction="none")
        return cells.sum(dim=0).mean()

    head = published(X, [1e-3], 7, 90, loss, 2, rows=fit)["cls", 0]
    fitted = fit_head(recipe, X, y, train=fit, val=val, n_classes=2, task="multilabel", seed=3)
    np.testing.assert_allclose(fitted.decision(X), head(torch.from_numpy(X["cls"])).detach(), atol=1e-5)


def test_huang2024_is_the_studys_loop_and_keeps_the_first_best_epoch():
    y = labels(3)
    table = blocks(y)["last4/cls"]
    recipe = dataclasses.replace(RECIPES["huang2024"], epochs=12, lr=1e-3)
    assert (RECIPES["huang2024"].lr, recipe.batch_size, RECIPES["huang2024"].epochs, recipe.hidden) == (
        1e-4, 32, 100, 256,
    )  # fmt: skip
    with seeded(CPU, derive_seed(5, "head")):
        model = nn.Sequential(nn.Linear(48, 256), nn.ReLU(), nn.Linear(256, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    X, truth = torch.from_numpy(table), torch.from_numpy(y)
    order = FIT[epoch_order(150, 1, seed=5, epoch=0)]  # shuffled once, the same batches in every epoch
    accuracies, kept, best = [], None, 0.0
    for _ in range(12):
        for start in range(0, 150, 32):
            rows = order[start : start + 32]
            optimizer.zero_grad()
            functional.cross_entropy(model(X[rows]), truth[rows]).backward()
            optimizer.step()
        accuracies.append((model(X[VAL]).argmax(dim=1) == truth[VAL]).double().mean().item())
        if accuracies[-1] > best:
            best, kept = accuracies[-1], torch.softmax(model(X), dim=1).detach()
    fitted = fit_head(recipe, {"cls": table}, y, train=FIT, val=VAL, n_classes=3, task="classes", seed=5)
    assert list(fitted.scores.values()) == pytest.approx(accuracies)
    assert fitted.chosen["epoch"] == accuracies.index(max(accuracies)) + 1
    np.testing.assert_allclose(fitted.predict({"cls": table}), kept, atol=1e-5)


def test_medmnistplus_is_timms_adamw_and_its_late_cosine():
    y = labels(3)
    table = blocks(y, strength=3.0)["cls"]
    recipe = dataclasses.replace(RECIPES["medmnistplus-linear"], epochs=9, lr=0.05)
    with seeded(CPU, derive_seed(5, "head")):
        model = nn.Linear(12, 3)
    optimizer = TimmAdamW(model.parameters(), lr=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=9, cycle_limit=1, t_in_epochs=True)
    X, truth, losses, kept = torch.from_numpy(table), torch.from_numpy(y), [], None
    for epoch in range(9):
        order = FIT[epoch_order(150, 1, seed=5, epoch=epoch)]
        for start in range(0, 150, 64):
            rows = order[start : start + 64]
            functional.cross_entropy(model(X[rows]), truth[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step(epoch=epoch)
        losses.append(functional.cross_entropy(model(X[VAL]), truth[VAL]).item())
        if losses[-1] == min(losses):
            kept = torch.softmax(model(X), dim=1).detach()
    fitted = fit_head(recipe, {"gap": table}, y, train=FIT, val=VAL, n_classes=3, task="classes", seed=5)
    assert list(fitted.scores.values()) == pytest.approx([-loss for loss in losses], abs=1e-5)
    np.testing.assert_allclose(fitted.predict({"gap": table}), kept, atol=1e-5)


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (48, 1), (66, 2)])
def test_attentive_pooling_is_plain_multi_head_attention_with_one_query(width, heads):
    with seeded(CPU, 0):
        model = Attentive(width, 5, head_width=64)
        tokens = torch.randn(7, 3, 4, width)
        nn.init.normal_(model.query)
    flat = tokens.flatten(1, 2)

    def split(x):
        return x.view(7, -1, heads, width // heads).transpose(1, 2)

    query = model.query.flatten().expand(7, 1, width)
    answer = functional.scaled_dot_product_attention(
        split(query), split(model.key(flat)), split(model.value(flat))
    )
    expected = model.out(answer.transpose(1, 2).reshape(7, width))
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-5)
