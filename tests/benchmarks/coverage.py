"""What intervals and tests are worth, by simulation: `python -m tests.benchmarks.coverage [SIMULATIONS [FILE.md]]`.

Prints Markdown tables (and writes them to FILE, anew after every block of simulations): how often each 95 % interval
holds the truth, how often each paired test finds a difference where there is none and where there is one, and how often
the best set holds the true best.

n counts groups, the independent units. "clusters": 1 to 10 rows each, which share half of their error, with both classes
in some groups; "single": one row each; "rare class": one row each, 8 of them positive. Resamples are drawn by
featprobe's own code, once per scenario, and serve all its simulations.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from featprobe.metrics.auroc import binary_auroc
from featprobe.records import AnyArray, FloatArray, IntArray
from featprobe.significance.as_reported import RESAMPLES as STUDY
from featprobe.significance.bca import acceleration, bca_interval
from featprobe.significance.delong import Areas, clustered_delong, contributions, delong, difference_test
from featprobe.significance.freedom import satterthwaite, widening
from featprobe.significance.mcnemar import mcnemar
from featprobe.significance.percentile import percentile_interval
from featprobe.significance.ranks import beats, leads, mcb, rank_intervals
from featprobe.significance.resampled_t import corrected_resampled_t
from featprobe.significance.scales import Scale
from featprobe.significance.sign_flip import sign_flip
from featprobe.significance.wilson import wilson_interval
from tests.benchmarks.simulated import (
    EFFECT,
    KINDS,
    POSITIVES,
    RESAMPLES,
    WEAKER,
    World,
    draw,
    inside,
    truth,
    weights_of,
)

SIZES = (50, 200, 1000)
BLOCK = 100
"""Simulations of every scenario between two writings of the file."""
UNIT_SCALE = Scale(0.0, 1.0)


def normal(value: float, error: float) -> tuple[float, float]:
    """The plain interval of a normal estimate."""
    return value - 1.96 * error, value + 1.96 * error


def areas_under(positive: AnyArray, scores: FloatArray, weights: FloatArray, unit: IntArray) -> FloatArray:
    """Areas of systems [S, N] under weights of groups [B, G], [S, B]; by few resamples, which stay in the cache."""
    found = []
    for own in np.array_split(weights, max(1, len(weights) // 50)):
        rows = np.take(own, unit, axis=1)
        found.append([binary_auroc(positive, score, rows) for score in scores])
    return np.concatenate(found, axis=1)


def strata_freedom(influence: FloatArray) -> tuple[float, float]:
    """Degrees of freedom of system 0's area and of differences, where the first groups are a stratum of their own."""
    sizes = [POSITIVES - 1, influence.shape[1] - POSITIVES - 1]
    pairs = np.stack([influence[0] - influence[1], influence[0] - influence[2], influence[1] - influence[2]])
    found = []
    for own in (influence[:1], pairs):
        squares = np.stack([(part**2).sum(axis=1) for part in np.split(own, [POSITIVES], axis=1)])
        if not squares.sum():
            return float(sum(sizes)), float(sum(sizes))
        found.append(satterthwaite((squares / squares.sum(axis=0)).mean(axis=1).tolist(), sizes))
    return found[0], found[1]


class Scenario:
    """Every interval and test for one number and kind of groups, counted over simulations."""

    def __init__(self, groups: int, kind: str) -> None:
        self.groups, self.kind = groups, kind
        self.fair, self.whole = (weights_of(groups, kind, whole=whole) for whole in (False, True))
        self.freedom = float(groups - 1)
        self.held: Counter[tuple[str, str]] = Counter()
        self.found: Counter[tuple[str, str, str]] = Counter()
        self.parts: dict[tuple[str, str], list[FloatArray]] = {}
        self.rng = np.random.default_rng([groups, KINDS.index(kind)])

    def run(self, simulations: int) -> None:
        """Count over so many further test sets."""
        for _ in range(simulations):
            world = draw(self.rng, self.groups, self.kind, [EFFECT, EFFECT, WEAKER[self.groups]])
            if self.kind != "rare class":
                self.shares(world)
            self.areas(world)
        for (metric, setting), parts in self.parts.items():
            p_values, _ = sign_flip(np.array(parts), flips=RESAMPLES, seed=self.groups)
            self.found[metric, "sign-flip by group", setting] += int((p_values <= 0.05).sum())
        self.parts.clear()

    def count(self, metric: str, name: str, interval: tuple[float, float]) -> None:
        """One more simulation in which the interval of system 0 holds the truth, or does not."""
        self.held[metric, name] += inside(interval, truth(EFFECT)[metric])

    def tested(self, metric: str, name: str, p_values: Sequence[float]) -> None:
        """P-values of the two pairs: equal systems, and a better one against a worse one."""
        for setting, p in zip(("null", "power"), p_values, strict=True):
            self.found[metric, name, setting] += p <= 0.05

    def resampled(
        self,
        metric: str,
        values: FloatArray,
        fair: FloatArray,
        whole: FloatArray,
        skew: float,
        degrees: tuple[float, float],
    ) -> None:
        """The bootstrap's intervals and test from values [S] and draws [S, B] (`whole` [B], of system 0).

        `degrees` of freedom of the value, and of differences.
        """
        error = float(fair[0].std(ddof=1))
        self.count(metric, "t, by group", UNIT_SCALE.interval(float(values[0]), error, degrees[0], 0.95))
        wide = widening(degrees[1], 0.95) if self.kind == "rare class" else 1.0
        self.count(metric, "percentile, by group", percentile_interval(whole))
        self.count(metric, "BCa, by group", bca_interval(float(values[0]), whole, skew))
        p_values = []
        for other in (1, 2):
            gap = values[0] - values[other]
            spread = wide * np.abs(fair[0] - fair[other] - gap)
            p_values.append((1 + (spread >= abs(gap) - 1e-12).sum()) / (1 + len(spread)))
        self.tested(metric, "bootstrap by group", p_values)

    def shares(self, world: World) -> None:
        """Accuracy: sums over groups are all that its resamples need."""
        right, rows = world.right, len(world.y)
        sums = np.stack([np.bincount(world.unit, weights=own, minlength=self.groups) for own in right])
        size = np.bincount(world.unit, minlength=self.groups).astype(float)
        values = right.mean(axis=1)
        fair = (self.fair @ sums.T / (self.fair @ size)[:, None]).T
        whole = self.whole @ sums[0] / (self.whole @ size)
        without = (sums[0].sum() - sums[0]) / (rows - size)
        skew = acceleration([(without, self.groups)])
        self.resampled("accuracy", values, fair, whole, skew, (self.freedom, self.freedom))
        naive = "Wilson" if self.kind == "single" else "Wilson over rows (refused)"
        self.count("accuracy", naive, wilson_interval(float(right[0].sum()), rows))
        of_rows = float(np.sqrt(values[0] * (1 - values[0]) / rows))
        self.count("accuracy", "bootstrap over rows (naive)", normal(values[0], of_rows))
        self.count("accuracy", "as Huang et al. 2024 coded", normal(values[0], of_rows / np.sqrt(STUDY)))
        alone = [(int((right[0] & ~right[k]).sum()), int((right[k] & ~right[0]).sum())) for k in (1, 2)]
        refused = "" if self.kind == "single" else " over rows (refused)"
        for mid in (False, True):
            name = f"McNemar {'mid-p' if mid else 'exact'}{refused}"
            self.tested("accuracy", name, [mcnemar(*pair, mid=mid) for pair in alone])
        for setting, other in (("null", 1), ("power", 2)):
            self.parts.setdefault(("accuracy", setting), []).append((sums[0] - sums[other]) / rows)

    def areas(self, world: World) -> None:
        """AUROC."""
        positive, unit = world.y == 1, world.unit
        values = np.array([binary_auroc(positive, own, np.ones((1, len(own))))[0] for own in world.scores])
        fair = areas_under(positive, world.scores, self.fair, unit)
        whole = areas_under(positive, world.scores[:1], self.whole, unit)[0]
        influence = contributions(positive, world.scores, unit)
        squares = float((influence[0] ** 2).sum())
        skew = float((influence[0] ** 3).sum()) / (6 * squares**1.5) if squares else np.nan
        defined = np.isfinite(fair).all(axis=0)
        rare = self.kind == "rare class"
        degrees = strata_freedom(influence) if rare else (self.freedom, self.freedom)
        self.resampled("AUROC", values, fair[:, defined], whole[np.isfinite(whole)], skew, degrees)
        self.delong(clustered_delong(positive, world.scores, unit), "clustered DeLong")
        naive = "DeLong over rows (refused)" if self.kind == "clusters" else "DeLong"
        self.delong(delong(positive, world.scores), naive)
        share = values / self.groups
        for setting, other in (("null", 1), ("power", 2)):
            own = influence[0] + share[0] - influence[other] - share[other]
            self.parts.setdefault(("AUROC", setting), []).append(own)

    def delong(self, areas: Areas, name: str) -> None:
        """DeLong's interval, on the logit scale as `--interval delong` has it, and paired test."""
        variance, freedom = areas.variance(np.array([1.0, 0.0, 0.0]))
        own = UNIT_SCALE.interval(float(areas.value[0]), float(np.sqrt(variance)), freedom, 0.95)
        self.count("AUROC", name, own)
        self.tested("AUROC", name, [difference_test(areas, 0, other)[2] for other in (1, 2)])


class Procedure:
    """The accuracy of a procedure over repeated cross-validation: corrected and plain t.

    The procedure: the nearer of two class means, in 10 dimensions, of which one tells the classes apart.
    """

    rows, folds, repeats = 100, 5, 2

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.true: list[float] = []
        self.values: list[FloatArray] = []

    def run(self, simulations: int) -> None:
        """So many further samples, each cross-validated."""
        y = np.arange(self.rows) % 2
        for _ in range(simulations):
            x = self.rng.standard_normal((self.rows, 10))
            x[:, 0] += 1.2 * (y - 0.5)
            values = []
            for _ in range(self.repeats):
                for test in np.array_split(self.rng.permutation(self.rows), self.folds):
                    train = np.ones(self.rows, dtype=bool)
                    train[test] = False
                    means = [x[train & (y == c)].mean(axis=0) for c in (0, 1)]
                    axis, middle = means[1] - means[0], (means[0] + means[1]) / 2
                    values.append(float((((x[test] - middle) @ axis > 0) == (y[test] == 1)).mean()))
                    # The fitted rule's true accuracy is known, as the classes are normal.
                    shift, offset = np.array([0.6 * axis[0], middle @ axis]) / np.linalg.norm(axis)
                    self.true.append(float(ndtr([shift - offset, shift + offset]).mean()))
            self.values.append(np.array(values))

    def coverage(self) -> dict[str, float]:
        """Share of intervals that hold the mean true accuracy."""
        target = float(np.mean(self.true))
        ways = {"corrected resampled t": 1 / (self.folds - 1), "t over folds and seeds (naive)": 0.0}
        found = {
            name: [corrected_resampled_t(own, share) for own in self.values] for name, share in ways.items()
        }
        return {
            name: float(np.mean([inside((own.low, own.high), target) for own in own_way]))
            for name, own_way in found.items()
        }


class BestSets:
    """How often the sets hold every truly best of several systems (accuracy, clusters), and how large they are."""

    def __init__(self, groups: int, effects: Sequence[float]) -> None:
        self.groups, self.effects = groups, effects
        self.rng = np.random.default_rng([groups, len(effects)])
        self.weights = weights_of(groups, "clusters", whole=False)
        values = np.array([truth(effect)["accuracy"] for effect in effects])
        self.low = 1 + (values[None, :] > values[:, None] + 1e-12).sum(axis=1)
        self.high = (values[None, :] >= values[:, None] - 1e-12).sum(axis=1)
        self.behind = values - np.array([np.delete(values, i).max() for i in range(len(values))])
        self.counts: Counter[str] = Counter()

    def run(self, simulations: int) -> None:
        """Count over so many further test sets."""
        best, counts = self.low == 1, self.counts
        for _ in range(simulations):
            world = draw(self.rng, self.groups, "clusters", self.effects)
            sums = np.stack(
                [np.bincount(world.unit, weights=own, minlength=self.groups) for own in world.right]
            )
            size = np.bincount(world.unit, minlength=self.groups).astype(float)
            draws = (self.weights @ sums.T / (self.weights @ size)[:, None]).T
            found = leads(world.right.mean(axis=1), draws)
            ahead_of = beats(found, 0.95, enough=True)
            low, high = rank_intervals(ahead_of)
            least, most = mcb(found, 0.95)
            first = ~ahead_of.any(axis=0)
            held = (least <= self.behind + 1e-12) & (self.behind - 1e-12 <= most)
            counts["best set holds all true best"] += bool(first[best].all())
            counts["size of the best set"] += int(first.sum())
            counts["all ranks inside their intervals"] += bool(
                ((low <= self.low) & (self.high <= high)).all()
            )
            counts["Hsu's set holds a true best"] += bool((most > 0)[best].any())
            counts["size of Hsu's set"] += int((most > 0).sum())
            counts["all of Hsu's intervals hold"] += bool(held.all())


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table under its title."""
    yield from (f"## {title}", "", f"| {' | '.join(heads)} |", f"|:--{'|--:' * (len(heads) - 1)}|")
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def percent(share: float) -> str:
    """`94.9`."""
    return f"{100 * share:.1f}"


class Study:
    """Everything that is simulated, block by block."""

    def __init__(self, sizes: Sequence[int] = SIZES, kinds: Sequence[str] = KINDS) -> None:
        self.done = 0
        self.scenarios = {(kind, size): Scenario(size, kind) for kind in kinds for size in sizes}
        self.procedure = Procedure()
        settings = {"5 equal": [EFFECT] * 5, "2 equal best of 5": [EFFECT, EFFECT, 1.4, 1.2, 0.8]}
        small = [size for size in sizes if size < 1000]
        self.best = {(name, n): BestSets(n, e) for name, e in settings.items() for n in small}

    def run(self, simulations: int) -> None:
        """So many further simulations of each."""
        for part in (*self.scenarios.values(), self.procedure, *self.best.values()):
            part.run(simulations)
        self.done += simulations

    def text(self) -> str:
        """The document."""
        head = [
            "# What featprobe's intervals and tests are worth",
            "",
            f"Made by `python -m tests.benchmarks.coverage {self.done}`: {self.done:,} simulations per cell.",
            *(__doc__ or "").splitlines()[6:],
            "",
            _remarks(self.done),
            "",
        ]
        return "\n".join([*head, *self._tables()]).rstrip() + "\n"

    def _tables(self) -> Iterator[str]:
        heads = [f"{kind}, n = {size}" for kind, size in self.scenarios]
        names = sorted({key for own in self.scenarios.values() for key in own.held})
        rows = [[f"{metric}: {name}", *self._cells("held", (metric, name))] for metric, name in names]
        yield from table("Coverage of 95 % intervals, %", ["interval", *heads], rows)
        tests = sorted({key[:2] for own in self.scenarios.values() for key in own.found})
        titles = {
            "null": "False positives of paired tests at 5 %, %",
            "power": "Power of paired tests at 5 %, %",
        }
        for setting, title in titles.items():
            rows = [
                [f"{metric}: {name}", *self._cells("found", (metric, name, setting))]
                for metric, name in tests
            ]
            yield from table(title, ["test", *heads], rows)
        rows = [[name, percent(share)] for name, share in self.procedure.coverage().items()]
        title = "Coverage of the procedure's accuracy (100 rows, 5 folds x 2 seeds), %"
        yield from table(title, ["interval", "coverage"], rows)
        if self.best:
            found = [own.counts for own in self.best.values()]
            rows = [[name, *(self._share(name, own[name]) for own in found)] for name in found[0]]
            heads = [f"{name}, n = {n}" for name, n in self.best]
            yield from table("The best of five systems (accuracy, clusters)", ["", *heads], rows)

    def _cells(self, counter: str, key: tuple[str, ...]) -> list[str]:
        found = [getattr(own, counter) for own in self.scenarios.values()]
        return [percent(own[key] / self.done) if key in own else "" for own in found]

    def _share(self, name: str, count: int) -> str:
        return f"{count / self.done:.2f}" if name.startswith("size") else percent(count / self.done)


def _remarks(simulations: int) -> str:
    effects = ", ".join(f"{WEAKER[n]:g} (n = {n})" for n in SIZES)
    return (
        f"Every simulation has {RESAMPLES:,} resamples. The standard error of a coverage of 95 % is {100 * np.sqrt(0.0475 / simulations):.1f} points. Power is against "
        f"effects of {effects} instead of {EFFECT:g}. Methods marked as naive or refused are shown for their failure: "
        "featprobe refuses them where a group has several rows, or never uses them; it also refuses sign flips of AUROC "
        "where a class is rare. BCa's acceleration for AUROC and the "
        "degrees of freedom of a rare class are by placements here, by jackknife and resamples in the command. Where an "
        "interval does not exist (perfect separation), it counts as missing the truth."
    )


def main(words: Sequence[str]) -> None:
    """Print, and write where a file is named, anew after every block."""
    simulations = int(words[0]) if words else 2000
    study = Study()
    while study.done < simulations:
        began = time.process_time()
        study.run(min(BLOCK, simulations - study.done))
        print(
            f"{study.done} simulations: {time.process_time() - began:.0f} s more", file=sys.stderr, flush=True
        )
        if len(words) > 1:
            Path(words[1]).write_text(study.text())
    print(study.text())


if __name__ == "__main__":
    main(sys.argv[1:])
