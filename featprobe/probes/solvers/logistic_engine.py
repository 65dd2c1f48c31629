"""Many regressions on the same rows, walked together: their skinny products with the data become one wide one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from featprobe.probes.solvers import logistic_descent as descent
from featprobe.probes.solvers.logistic_certificate import Certificate, best_intercept, certificate
from featprobe.probes.solvers.logistic_curvature import Curvature, Rows, Shelf
from featprobe.probes.solvers.logistic_descent import Descent
from featprobe.probes.solvers.logistic_losses import Loss, Sigmoids
from featprobe.records import AnyArray, FloatArray

CHUNK: Final = 16 << 20
"""Bytes of logits that are held at a time while solutions are judged."""


TRIES: Final = 4
"""Descents in double precision at one C that was not brought within its gap."""


@dataclass(slots=True, eq=False)
class Task:
    """One regression of many: its loss over all rows (weight 0 where a row is not its own), and its columns' scale.

    `scale` [D]: what each column is divided by before the penalty is felt (1 for none); `centre` is free, as the
    intercept is. `solved`: what is found for each C.
    """

    loss: Loss
    scale: FloatArray
    start: FloatArray
    solved: list[Certificate] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)


Seen = Callable[[int, int, FloatArray], None]
"""(task, C's number, logits [k, n] of all rows in double precision)."""


def solve(
    rows: Rows,
    tasks: Sequence[Task],
    Cs: Sequence[float],
    *,
    gap: float,
    jobs: int = 1,
    threads: int = 1,
    seen: Seen | None = None,
    pauses: Sequence[int] = (),
    enough: Callable[[int], bool] | None = None,
) -> int:
    """Fill `solved` of every task for `Cs`, which rise; how many of them were walked.

    Every solution is judged in double precision; one that is not within `gap` is gone over there. `seen` is told
    each solution's logits. `jobs` tasks run at a time, each with `threads` for its products. After `pauses` (numbers of values) of C, `enough` may end the walk.
    """
    shared = rows.curvature()
    jobs = max(1, min(jobs, len(tasks)))
    parts = [
        _Walkers(rows, tasks, range(start, len(tasks), jobs), Cs, gap, shared, pauses)
        for start in range(jobs)
    ]
    ends = [*sorted({end for end in pauses if 0 < end < len(Cs)}), len(Cs)]
    with (
        threadpool_limits(limits=threads, user_api="blas"),
        Parallel(n_jobs=jobs, backend="threading") as pool,
    ):
        for end in ends:
            if jobs == 1:
                parts[0].advance(end, seen)
            else:
                pool(delayed(part.advance)(end, seen) for part in parts)
            if enough is not None and enough(end):
                break
    return end


@dataclass(slots=True, eq=False)
class _Walkers:
    """The tasks that one thread walks, `numbers` of all."""

    rows: Rows
    tasks: Sequence[Task]
    numbers: Sequence[int]
    Cs: Sequence[float]
    gap: float
    shared: Curvature
    pauses: Sequence[int]
    walks: list[Descent] = field(init=False)
    running: list[tuple[Task, Any, Any]] = field(init=False)

    def __post_init__(self) -> None:
        pauses = frozenset(self.pauses)
        own = [self.tasks[number] for number in self.numbers]
        # Half the gap: single precision's own account of it is not exact.
        more = {"pauses": pauses, "shelf": Shelf()}
        self.walks = [_descent(self.rows, task, self.Cs, self.gap / 2, self.shared, **more) for task in own]
        self.running = [(task, walk.walk(), _FIRST) for task, walk in zip(own, self.walks, strict=True)]

    def advance(self, end: int, seen: Seen | None) -> None:
        """Walk on to the pause after `end` values, judge what is new."""
        self.running = drive(self.rows, self.running)
        for number, walk in zip(self.numbers, self.walks, strict=True):
            task = self.tasks[number]
            first = len(task.solved)
            task.iterations = walk.iterations
            judged = judge(
                self.rows, task, self.Cs[first:end], walk.solutions[first:end], _told(seen, number, first)
            )
            task.solved.extend(judged)
            again = _mend(self.rows, task, self.Cs, self.gap, walk, first)
            if seen is not None:
                for place in again:
                    found = task.solved[place]
                    seen(
                        number,
                        place,
                        self.rows.logits(found.w * (self.rows.scale / task.scale)) + found.b[:, None],
                    )


_FIRST: Final = object()
"""What a walk is woken with for the first time."""


def _told(seen: Seen | None, number: int, first: int) -> Callable[[int, FloatArray], None] | None:
    if seen is None:
        return None
    return lambda place, logits: seen(number, first + place, logits)


def _descent(
    rows: Rows, task: Task, Cs: Sequence[float], gap: float, curvature: Curvature, **more: Any
) -> Descent:
    return Descent(
        rows=len(rows.X),
        loss=task.loss,
        Cs=Cs,
        gap=gap,
        curvature=curvature,
        columns=rows.X.shape[1],
        **{"start": task.start, **more},
    )


def _mend(rows: Rows, task: Task, Cs: Sequence[float], gap: float, walk: Descent, first: int) -> list[int]:
    """Solve again, in double precision and from where it stands, what is not within `gap`; the places that changed."""
    changed = []
    for place in range(first, len(task.solved)):
        if task.solved[place].relative > gap:
            task.iterations[place] += _finish(rows, task, place, Cs[place], gap, walk.curvature)
            changed.append(place)
    return changed


def _finish(rows: Rows, task: Task, place: int, C: float, gap: float, curvature: Curvature) -> int:
    """Bring one solution within `gap` in double precision, or as near as it comes; iterations that it took.

    Of several labels each one goes alone: a step length for all of them would suit none.
    """
    loss, found = task.loss, task.solved[place]
    if not isinstance(loss, Sigmoids) or loss.width == 1:
        task.solved[place], steps = _finished(rows, task, found, C, gap, curvature)
        return steps
    parts, steps = found.parts(), 0
    for row, part in enumerate(parts):
        if part.relative > gap:
            alone = Task(loss.only(row), task.scale, task.start)
            parts[row], taken = _finished(rows, alone, part, C, gap, curvature)
            steps += taken
    task.solved[place] = Certificate.joined(parts)
    return steps


def _finished(
    rows: Rows, task: Task, best: Certificate, C: float, gap: float, curvature: Curvature
) -> tuple[Certificate, int]:
    """The best solution that some descents from `best` come to, and their iterations."""
    aim, steps, vain, found = gap / 2, 0, 0, best
    for _ in range(TRIES):
        if best.relative <= gap:
            break
        again = _descent(
            rows,
            task,
            [C],
            aim,
            curvature,
            start=np.concatenate([found.w.reshape(-1), found.b]),
            single=False,
            exact=True,
        )
        drive(rows, [(task, again.walk(), _FIRST)])
        steps += again.iterations[0]
        # A step may lower the objective and not its gap: from there the next try goes on all the same.
        found, aim = next(judge(rows, task, [C], again.solutions)), aim / 10
        if found.relative < best.relative:
            best, vain = found, 0
        elif vain or not again.iterations[0]:
            break
        else:
            vain += 1
    return best, steps


def polish(rows: Rows, task: Task, place: int, C: float, *, gap: float) -> Certificate:
    """The solution at `place`, brought within `gap` (or as near as double precision comes) and returned."""
    if task.solved[place].relative > gap:
        # The rows' own weights: near the optimum they are what the loss bends by.
        found = task.solved[place]
        logits = rows.logits(found.w * (rows.scale / task.scale)) + found.b[:, None]
        weight = task.loss.bends(task.loss.value(logits)[1]).sum(axis=0)
        with threadpool_limits(limits=1, user_api="blas"):
            _finish(rows, task, place, C, gap, rows.curvature(weight))
    return task.solved[place]


def judge(
    rows: Rows,
    task: Task,
    Cs: Sequence[float],
    solutions: Sequence[FloatArray],
    seen: Callable[[int, FloatArray], None] | None = None,
) -> Iterator[Certificate]:
    """The certificate of each solution, many to a product with the data; `seen` is told each one's logits."""
    width, columns = task.loss.width, rows.X.shape[1]
    ratio = rows.scale / task.scale
    step = max(1, CHUNK // (8 * width * len(rows.X)))
    for first in range(0, len(solutions), step):
        some = solutions[first : first + step]
        weights = np.stack([vector[: width * columns].reshape(width, columns) for vector in some])
        logits = rows.logits((weights * ratio).reshape(-1, columns)).reshape(len(some), width, -1)
        found = []
        for place, (one, vector) in enumerate(zip(logits, some, strict=True)):
            b = vector[width * columns :]
            stands = one + b[:, None]
            shift, losses, residual = best_intercept(task.loss, stands)
            if seen is not None:
                seen(first + place, stands + shift[:, None])
            found.append((b + shift, losses, residual.sum(axis=1)))
            logits[place] = residual
        slopes = rows.slopes(logits.reshape(-1, logits.shape[2])).reshape(weights.shape) * ratio
        own = zip(Cs[first : first + step], weights, found, slopes, strict=True)
        for C, w, (b, losses, left), slope in own:
            yield certificate(task.loss, C, w, b, losses, left, slope)


def drive(rows: Rows, running: Sequence[tuple[Task, Any, Any]]) -> list[tuple[Task, Any, Any]]:
    """Run walks to their ends or pauses in step, every product with the data made once for all who ask for it.

    `running`: (task, its walk, what it is woken with). Returns those that pause, to be run on later.
    """
    paused: list[tuple[Task, Any, Any]] = []
    while running:
        asked = []
        for task, walk, answer in running:
            try:
                request = next(walk) if answer is _FIRST else walk.send(answer)
            except StopIteration:
                continue
            if request[0] == descent.PAUSE:
                paused.append((task, walk, None))
            else:
                asked.append((task, walk, request))
        answers: list[Any] = [None] * len(asked)
        for kind, members in _together(asked).items():
            payloads = [asked[place][2][1] for place in members]
            own = [asked[place][0] for place in members]
            for place, answer in zip(members, _answer(rows, kind, own, payloads), strict=True):
                answers[place] = answer
        running = [(task, walk, answer) for (task, walk, _), answer in zip(asked, answers, strict=True)]
    return paused


def _together(asked: Sequence[tuple[Task, Any, tuple[str, Any]]]) -> dict[tuple[Any, ...], list[int]]:
    """The places of the requests that one product answers."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, (_, _, (kind, payload)) in enumerate(asked):
        if kind in {descent.FORWARD, descent.BACKWARD}:
            key: tuple[Any, ...] = (kind, payload.dtype)
        elif kind in {descent.MEASURE, descent.FACTOR}:
            key = (kind, place)
        else:
            key = (kind, id(payload[1]))
        found.setdefault(key, []).append(place)
    return found


def _answer(rows: Rows, key: tuple[Any, ...], tasks: Sequence[Task], payloads: Sequence[Any]) -> list[Any]:
    kind = key[0]
    if kind == descent.MEASURE:
        return [rows.curvature(payloads[0])]
    if kind == descent.FACTOR:
        return [rows.factors(*payloads[0])]
    if kind in {descent.TURN, descent.TURN_BACK}:
        vectors = payloads[0][1].vectors
        stacked = np.concatenate([payload[0] for payload in payloads])
        made = stacked @ (vectors if kind == descent.TURN else vectors.T)
        return _split(made, [len(payload[0]) for payload in payloads])
    widths = [task.loss.width for task in tasks]
    ratios = [rows.scale / task.scale for task in tasks]
    D = rows.X.shape[1]
    if kind == descent.FORWARD:
        own = [
            p[: k * D].reshape(k, D) * r.astype(p.dtype)
            for p, k, r in zip(payloads, widths, ratios, strict=True)
        ]
        stacked = np.concatenate(own)
        # The data come first: a library packs the small factor then, and streams the large one.
        made = (
            np.ascontiguousarray((rows.single @ stacked.T).T)
            if key[1] == np.float32
            else rows.logits(stacked)
        )
        parts = _split(made, widths)
        return [part + p[k * D :, None] for part, p, k in zip(parts, payloads, widths, strict=True)]
    stacked = np.concatenate(payloads)
    made = stacked @ rows.single if key[1] == np.float32 else rows.slopes(stacked)
    left = stacked.sum(axis=1, dtype=np.float64)
    return [
        np.concatenate([(part * ratio).reshape(-1), rest])
        for part, ratio, rest in zip(_split(made, widths), ratios, _split(left, widths), strict=True)
    ]


def _split(stacked: AnyArray, widths: Sequence[int]) -> list[AnyArray]:
    return np.split(stacked, np.cumsum(widths)[:-1])
