"""Every protocol against a plain rendering of its publication's rule, with scikit-learn, NumPy and torch alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from featprobe import splitting
from featprobe.heads.cached import find_recipe
from featprobe.heads.cached.fitting import fit_head
from featprobe.protocols.adamw import train
from featprobe.protocols.clip_benchmark import DECAYS, coarse_to_fine
from featprobe.protocols.orders import torch_order
from featprobe.records import RunKey, Samples
from featprobe.registry import PROTOCOLS
from featprobe.splitting import Fold
from featprobe.stages.fitting import Work, fit, parts_of

ROWS, TEST, COLUMNS, CLASSES = 150, 60, 6, 3
SCALE = np.array([0.05, 0.3, 1, 1, 4, 10])


def data(rows=ROWS + TEST, seed=0, classes=CLASSES):
    """Overlapping classes in columns of unequal scale: scaling, C and ties all make a difference."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, rows)
    X = rng.standard_normal((rows, COLUMNS)) + 1.2 * np.eye(classes, COLUMNS)[y]
    return X * SCALE + 1, y


def several(rows, seed=0):
    X, _ = data(rows, seed)
    noise = np.random.default_rng(seed).standard_normal((rows, 2))
    return X, (X[:, :2] / SCALE[:2] + noise > 1.5 / SCALE[:2]).astype(np.int64)


def work(name, X, y, *, val=0, shots=0, names=None):
    """Fold 0: the last TEST rows are tested, the `val` rows before them validate."""
    count = len(X)
    texts = [f"i{row:04d}" for row in range(count)]
    end = count - TEST
    split = ["train"] * (end - val) + ["val"] * val + ["test"] * TEST
    names = names or tuple("abcdefgh"[: int(y.max()) + 1])
    task = "multilabel" if y.ndim == 2 else "classes"
    samples = Samples.build(path=texts, id=texts, label=y, label_names=names, split=split, task=task)
    fold = Fold("test", np.arange(end - val), np.arange(end - val, end), np.arange(end, count))
    key = RunKey("d", "b", "w", "frozen", "cls", "p", "x", "f", shots=shots)
    protocol = PROTOCOLS.get(name)
    learn, selection = parts_of(protocol, samples, fold, key)
    made = Work(
        protocol=protocol,
        fits=protocol.fits or "logistic",
        X={"cls": X[learn]},
        y=y[learn],
        X_test={"cls": X[fold.test]},
        label_names=names,
        task=task,
        selection=selection,
        calibration=selection,
        seed=0,
        shots=shots,
        few=bool(shots),
    )
    return SimpleNamespace(work=made, learn=learn, selection=selection, samples=samples, outcome=fit(made))


def logistic(X, y, C):
    return LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(X, y)


def first_best(values, judge):
    """(the first value that nothing before it reaches, all scores)."""
    best, most, scores = None, -np.inf, []
    for value in values:
        scores.append(judge(value))
        if scores[-1] > most:
            best, most = value, scores[-1]
    return best, np.array(scores)


GRID_45 = (10 ** torch.linspace(-6, 5, 45, dtype=torch.float64)).tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 37, 1000])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_order_is_torchs(count, seed):
    torch.manual_seed(seed)
    assert torch_order(count, seed).tolist() == torch.randperm(count).tolist()


def test_sklearn_default():
    X, y = data()
    found = work("sklearn-default", X, y, val=30)
    expected = logistic(X[:ROWS], y[:ROWS], 1.0).predict_proba(X[ROWS:])
    np.testing.assert_allclose(found.outcome.y_score, expected, atol=1e-6)
    assert found.outcome.n_train == ROWS


class TestDinov2Logreg:
    def choose(self, X, y, fitted, held):
        return first_best(
            GRID_45, lambda C: (logistic(X[fitted], y[fitted], C).predict(X[held]) == y[held]).mean()
        )

    @pytest.mark.parametrize("val", [0, 30])
    def test_choice_ties_and_refit(self, val):
        X, y = data(seed=11)
        if val:
            fitted, held = np.arange(ROWS - val), np.arange(ROWS - val, ROWS)
        else:
            torch.manual_seed(0)
            order = torch.randperm(ROWS).numpy()
            held, fitted = order[: ROWS // 10], order[ROWS // 10 :]
        C, scores = self.choose(X, y, fitted, held)
        assert (scores == scores.max()).sum() > 1, "the data must hold a tie"
        assert scores[0] < scores.max()
        found = work("dinov2-logreg", X, y, val=val).outcome
        assert found.chosen["C"] == pytest.approx(C)
        expected = logistic(X[:ROWS], y[:ROWS], C).predict_proba(X[ROWS:])
        np.testing.assert_allclose(found.y_score, expected, atol=1e-5)
        assert found.n_train == ROWS


class TestDinov3Logreg:
    def held(self, y, share):
        generator = torch.Generator()
        generator.manual_seed(0)
        order = torch.randperm(len(y), generator=generator).numpy()
        _, indices = torch.sort(torch.from_numpy(y[order]), stable=True)
        counts = np.unique(y, return_counts=True)[1].tolist()
        parts = torch.split(indices, counts)
        return {
            int(order[row])
            for part in parts
            if len(part) > 1
            for row in part[: max(1, int(share * len(part)))]
        }

    def test_a_tenth_of_each_class_is_chosen_on_and_fitted_to_again(self):
        X, y = data(seed=1)
        y[:ROWS][y[:ROWS] == 2] = np.r_[2, np.zeros((y[:ROWS] == 2).sum() - 1, dtype=int)]  # a class of one
        found = work("dinov3-logreg", X, y)
        held = self.held(y[:ROWS], 0.1)
        ((fitted, chosen_on),) = found.selection
        assert set(found.learn[chosen_on].tolist()) == held
        rest = np.setdiff1d(np.arange(ROWS), sorted(held))
        assert found.learn[fitted].tolist() == rest.tolist()
        sides = (rest, np.array(sorted(held)))
        C, _ = TestDinov2Logreg().choose(X, y, *sides)
        assert found.outcome.chosen["C"] == pytest.approx(C)
        expected = logistic(X[:ROWS], y[:ROWS], C).predict_proba(X[ROWS:])
        np.testing.assert_allclose(found.outcome.y_score, expected, atol=1e-5)

    def test_few_shots_choose_on_rows_apart_and_are_fitted_to_alone(self):
        X, y = data(seed=2)
        found = work("dinov3-logreg", X, y, shots=8)
        held = self.held(y[:ROWS], 0.01)
        ((fitted, chosen_on),) = found.selection
        assert set(found.learn[chosen_on].tolist()) == held
        shots = found.learn[fitted]
        assert np.bincount(y[shots]).tolist() == [8, 8, 8]
        C, _ = TestDinov2Logreg().choose(X, y, shots, found.learn[chosen_on])
        expected = logistic(X[shots], y[shots], C).predict_proba(X[ROWS:])
        np.testing.assert_allclose(found.outcome.y_score, expected, atol=1e-5)
        assert found.outcome.n_train == 24


class TestDinov2Knn:
    def votes(self, X, y, new):
        """The class scores of every k at once, as the published module gives them."""
        train_rows, rows = (torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for part in (X, new))
        nearness, places = (rows @ train_rows.T).topk(200, largest=True, sorted=True)
        weight = torch.softmax(nearness / 0.07, 1)[:, :, None]
        each = torch.nn.functional.one_hot(torch.from_numpy(y)[places], CLASSES) * weight
        return {k: each[:, :k].sum(1).numpy() for k in (10, 20, 100, 200)}

    def test_votes_and_choice(self):
        rows = 260
        X, y = data(rows + TEST, seed=4)
        held = np.arange(rows - 40, rows)
        fitted = np.arange(rows - 40)
        scores = {
            k: (vote.argmax(1) == y[held]).mean()
            for k, vote in self.votes(X[fitted], y[fitted], X[held]).items()
        }
        best = max(k for k, value in scores.items() if value == max(scores.values()))
        found = work("dinov2-knn", X, y, val=40).outcome
        assert found.chosen["k"] == best
        expected = self.votes(X[:rows], y[:rows], X[rows:])[best]
        np.testing.assert_allclose(found.y_score, expected / expected.sum(1, keepdims=True), atol=1e-9)

    def test_shots_bound_k(self):
        X, y = data(260 + TEST, seed=4)
        assert work("dinov2-knn", X, y, shots=12).outcome.chosen["k"] in {10, 12}


def test_uni():
    X, y = data(seed=5)
    found = work("uni", X, y, val=20).outcome
    expected = logistic(X[:ROWS], y[:ROWS], COLUMNS * CLASSES / 100).predict_proba(X[ROWS:])
    np.testing.assert_allclose(found.y_score, expected, atol=1e-6)


def test_patho_bench():
    X, y = data(seed=11)
    fitted, held = np.arange(ROWS - 40), np.arange(ROWS - 40, ROWS)
    grid = np.logspace(np.log10(10e-6), np.log10(10e5), num=45)
    C, scores = first_best(
        grid, lambda C: balanced_accuracy_score(y[held], logistic(X[fitted], y[fitted], C).predict(X[held]))
    )
    assert (np.isclose(scores, scores.max())).sum() > 1
    found = work("patho-bench", X, y, val=40).outcome
    assert found.chosen["C"] == pytest.approx(C)
    np.testing.assert_allclose(
        found.y_score, logistic(X[fitted], y[fitted], C).predict_proba(X[ROWS:]), atol=1e-5
    )
    assert found.n_train == ROWS - 40


def test_medmnistplus_knn():
    X, y = data(seed=7, classes=5)
    fitted = np.arange(ROWS - 30)
    near = NearestNeighbors(n_neighbors=11, algorithm="ball_tree").fit(X[fitted])
    places = near.kneighbors(X[ROWS:], return_distance=False)
    votes = y[fitted][places]
    counts = np.sort([np.bincount(row, minlength=5) for row in votes], axis=1)
    assert (counts[:, -1] == counts[:, -2]).any(), "the data must hold a tie"
    found = work("medmnistplus-knn", X, y, val=30).outcome
    assert found.y_score.argmax(axis=1).tolist() == stats.mode(votes, axis=1)[0].ravel().tolist()
    assert found.n_train == ROWS - 30


def test_medmnistplus_knn_of_labels():
    X, y = several(ROWS + TEST)
    near = NearestNeighbors(n_neighbors=11).fit(X[:ROWS])
    votes = y[:ROWS][near.kneighbors(X[ROWS:], return_distance=False)].mean(axis=1)
    found = work("medmnistplus-knn", X, y, names=("u", "v")).outcome
    assert ((found.y_score > 0.5) == (votes > 0.5)).all()


class TestBaharoonMlknn:
    def chances(self, X, y, k, new):
        """ML-kNN of Zhang and Zhou 2007 by loops, a training row left out of its own neighbours."""
        unit, fresh = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X, new))
        order = np.argsort(-(unit @ unit.T - 9 * np.eye(len(X))), axis=1, kind="stable")[:, :k]
        tests = np.argsort(-(fresh @ unit.T), axis=1, kind="stable")[:, :k]
        result = np.zeros((len(new), y.shape[1]))
        for label in range(y.shape[1]):
            prior = (1 + y[:, label].sum()) / (2 + len(y))
            hits = y[order, label].sum(axis=1)
            has, lacks = (np.bincount(hits[y[:, label] == value], minlength=k + 1) for value in (1, 0))
            yes = prior * (1 + has) / (k + 1 + has.sum())
            no = (1 - prior) * (1 + lacks) / (k + 1 + lacks.sum())
            result[:, label] = (yes / (yes + no))[y[tests, label].sum(axis=1)]
        return result

    def test_chances_and_choice(self):
        rows = 230
        X, y = several(rows + TEST, seed=2)
        fitted, held = np.arange(rows - 25), np.arange(rows - 25, rows)

        def judge(k):
            found = self.chances(X[fitted], y[fitted], k, X[held])
            return -np.mean([log_loss(y[held, label], found[:, label], labels=[0, 1]) for label in range(2)])

        k, _ = first_best((200, 100, 50, 20, 5), judge)
        found = work("baharoon-mlknn", X, y, val=25, names=("u", "v")).outcome
        assert found.chosen["k"] == k
        np.testing.assert_allclose(found.y_score, self.chances(X[:rows], y[:rows], k, X[rows:]), atol=1e-9)


class TestClipBenchmark:
    def search(self, table):
        """The published search, over a table of accuracies by place."""

        def find(places):
            best, most = 0, 0
            for place in places:
                if most < table[place]:
                    best, most = place, table[place]
            return best

        few = np.logspace(-6, 2, num=7).tolist()
        place = find([at for at, value in enumerate(np.logspace(-6, 2, num=97).tolist()) if value in few])
        span = 8
        while span > 0:
            place = find([max(place - span, 0), place, min(place + span, 96)])
            span //= 2
        return place

    def test_the_search_goes_from_coarse_to_fine(self):
        rng = np.random.default_rng(0)
        for levels in (1, 2, 4, 50):  # few levels: ties everywhere
            for _ in range(50):
                table = rng.integers(0, levels, 97) / max(levels, 2)
                assert coarse_to_fine(lambda at, t=table: [t[p] for p in at]) == self.search(table)
        np.testing.assert_allclose(DECAYS, np.logspace(-6, 2, 97))

    def test_the_layer_is_what_torchs_adamw_trains(self):
        X, y = data(100, seed=8)
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        decays = [1e-6, 0.3, 5.0]
        found = train(X, y, CLASSES, decays, seed=3)
        for decay, ours in zip(decays, found, strict=True):
            generator = np.random.default_rng([3, 0xADA])
            bound = 1 / np.sqrt(COLUMNS)
            start = torch.from_numpy(generator.uniform(-bound, bound, (COLUMNS + 1, CLASSES)))
            layer = torch.nn.Linear(COLUMNS, CLASSES).double()
            layer.weight.data, layer.bias.data = start[:-1].T.clone(), start[-1].clone()
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=decay)
            steps = 10 * 2
            for step in range(steps):
                if step % 2 == 0:
                    order = generator.permutation(100)
                chosen = order[:64] if step % 2 == 0 else order[64:]
                optimizer.param_groups[0]["lr"] = 0.5 * (1 + np.cos(np.pi * step / steps)) * 0.1
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(
                    layer(torch.from_numpy(X[chosen])), torch.from_numpy(y[chosen])
                )
                loss.backward()
                optimizer.step()
            np.testing.assert_allclose(ours.weight, layer.weight.detach().numpy().T, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(ours.bias, layer.bias.detach().numpy(), rtol=1e-6, atol=1e-9)

    def test_choice_and_refit(self):
        X, y = data(seed=9)
        found = work("clip-benchmark", X, y, val=40).outcome
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        fitted, held = np.arange(ROWS - 40), np.arange(ROWS - 40, ROWS)
        models = train(unit[fitted], y[fitted], CLASSES, DECAYS, seed=0)
        table = [
            (model.scores(unit[held]).argmax(1) == y[held]).mean() if model.finite else 0.0
            for model in models
        ]
        decay = DECAYS[self.search(table)]
        assert found.chosen["weight decay"] == decay
        (final,) = train(unit[:ROWS], y[:ROWS], CLASSES, [decay], seed=0)
        np.testing.assert_allclose(found.y_score, final.predict(unit[ROWS:]), atol=1e-9)


class TestHeads:
    @pytest.mark.parametrize("name", ["huang2024", "baharoon-linear", "dinov2-linear", "medmnistplus-linear"])
    def test_are_given_the_rows_of_their_rule(self, name, monkeypatch):
        recipe = find_recipe(name)
        quick = {"iterations": 30} if hasattr(recipe, "iterations") else {"epochs": 3}
        recipe = dataclasses.replace(recipe, **quick)
        monkeypatch.setattr("featprobe.stages.fitting.find_recipe", lambda _: recipe)
        X, y = data(seed=10)
        found = work(name, X, y)
        torch.manual_seed(1 if name == "huang2024" else 0)
        order = torch.randperm(ROWS).numpy()
        cut = int(0.8 * ROWS)
        held = order[cut:] if name == "huang2024" else order[: ROWS // 10]
        fitted = np.setdiff1d(np.arange(ROWS), held)
        expected = fit_head(
            recipe,
            {"cls": X.astype(np.float32)},
            y,
            train=fitted,
            val=np.sort(held),
            n_classes=CLASSES,
            task="classes",
            seed=0,
        ).predict({"cls": X[ROWS:]})
        np.testing.assert_allclose(found.outcome.y_score, expected, atol=1e-6)
        assert found.outcome.n_train == (ROWS if recipe.name == "baharoon-linear" else len(fitted))


def test_featprobe_1se():
    X, y = data(seed=11)
    found = work("featprobe-1se", X, y, val=40)
    folds = splitting.inner_folds(found.samples, np.arange(ROWS), folds=5, seed=0)
    grid = 10.0 ** np.arange(-6, 3.5, 0.5)
    losses = []
    for fitted, held in folds:
        scaler = StandardScaler().fit(X[fitted])
        inside, outside = scaler.transform(X[fitted]), scaler.transform(X[held])
        losses.append(
            [log_loss(y[held], logistic(inside, y[fitted], C).predict_proba(outside)) for C in grid]
        )
    table = np.array(losses)
    best = table.mean(axis=0).argmin()
    error = table[:, best].std(ddof=1) / np.sqrt(len(table))
    C = grid[table.mean(axis=0) <= table[:, best].mean() + error].min()
    assert grid[best] > C
    assert found.outcome.chosen["C"] == pytest.approx(C)
    scaler = StandardScaler().fit(X[:ROWS])
    expected = logistic(scaler.transform(X[:ROWS]), y[:ROWS], C).predict_proba(scaler.transform(X[ROWS:]))
    np.testing.assert_allclose(found.outcome.y_score, expected, atol=1e-6)
