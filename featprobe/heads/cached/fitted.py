"""Predicts with a head that was trained on cached embeddings, and keeps it as plain arrays: numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.special import expit, softmax

from featprobe.errors import ProbeError
from featprobe.heads.cached.recipes import EpochTraining, HeadRecipe
from featprobe.heads.cached.targets import Link
from featprobe.records import AnyArray, FloatArray, IntArray, canonical_json

SCHEMA: Final = 1
_META: Final = "featprobe"
_BLOCK: Final = 1 << 21
"""Numbers of an embedding that are computed on at once (16 MiB as float64)."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedCachedHead:
    """A trained head that is ready to predict.

    `input`: key of the embedding it takes, `width` its last axis. `tensors`: float32 weights by name. `link`,
    `classes`, `mean`, `scale`: as in `Target`. `chosen`: what the validation part chose; its "candidate" is a
    key of `scores`, candidate -> validation score, higher is better. `notes`: what the report must say.
    """

    recipe: HeadRecipe
    task: str
    n_classes: int
    input: str
    width: int
    link: Link
    classes: IntArray
    mean: float
    scale: float
    tensors: Mapping[str, AnyArray]
    chosen: Mapping[str, float | str]
    scores: Mapping[str, float]
    notes: tuple[str, ...]

    def predict(self, X: Mapping[str, AnyArray]) -> FloatArray:
        """Probabilities float64 [M, n_classes], or values [M, 1] of a continuous target.

        `X`: embeddings by key, of which `input` is read: [M, D], or [M, h, w, D] (or [M, T, D]) for attentive
        pooling. Probabilities are 0 for classes that training had not. Raises ProbeError where the embedding is
        missing, has another shape, or holds values that are not finite.
        """
        scores = self.decision(X)
        result = np.zeros((len(scores), self.n_classes))
        if self.link == "number":
            result[:, self.classes] = scores * self.scale + self.mean
        elif self.link == "softmax":
            result[:, self.classes] = softmax(scores, axis=1) if len(scores) else scores
        elif len(self.classes) == self.tensors["out.bias"].size:
            result[:, self.classes] = expit(scores)
        else:  # one output for two classes
            result[:, self.classes] = np.hstack([expit(-scores), expit(scores)])
        return result

    def decision(self, X: Mapping[str, AnyArray]) -> FloatArray:
        """The head's outputs before softmax, sigmoid or scaling, float64 [M, outputs]."""
        if self.input not in X:
            raise ProbeError(
                f"the head {self.recipe.name} needs the embedding {self.input!r}",
                f"given: {', '.join(X) or 'none'}",
                f"extract with --pooling {self.input}",
            )
        table = np.asanyarray(X[self.input])
        dense = isinstance(self.recipe, EpochTraining) and self.recipe.model == "attentive"
        if table.ndim not in ((3, 4) if dense else (2,)) or table.shape[-1] != self.width:
            shape = "[N, h, w, D]" if dense else "[N, D]"
            raise ProbeError(
                f"embeddings {table.shape} where the head takes {shape} with D = {self.width}",
                "it was trained on another embedding",
            )
        check_finite(table, np.arange(len(table)), "test")
        outputs = [
            forward(self.recipe, self.tensors, np.asarray(table[rows], dtype=np.float64))
            for rows in blocks(table)
        ]
        return np.concatenate(outputs) if outputs else np.zeros((0, self.tensors["out.bias"].size))

    def state(self) -> dict[str, AnyArray]:
        """Everything as plain arrays, for npz or safetensors; text is UTF-8 JSON in a uint8 array."""
        meta = {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.sha256,
            **{name: getattr(self, name) for name in _PLAIN},
            "classes": self.classes.tolist(),
            "chosen": dict(self.chosen),
            "scores": list(self.scores.items()),  # JSON sorts the keys of an object
            "notes": list(self.notes),
        }
        text = np.frombuffer(canonical_json(meta).encode(), dtype=np.uint8).copy()
        return {_META: text, **{name: value.copy() for name, value in self.tensors.items()}}

    @classmethod
    def from_state(cls, recipe: HeadRecipe, state: Mapping[str, AnyArray]) -> FittedCachedHead:
        """The inverse of `state`; ProbeError where it is none, or of another recipe or version."""
        try:
            meta: dict[str, Any] = json.loads(np.asarray(state[_META], dtype=np.uint8).tobytes())
            schema, made_by = meta["schema"], (meta["recipe"], meta["recipe_sha256"])
        except (KeyError, ValueError, TypeError) as error:
            raise ProbeError("these arrays are no head that featprobe saved", str(error)) from error
        if schema != SCHEMA or made_by != (recipe.name, recipe.sha256):
            raise ProbeError(
                f"the head was saved under the recipe {made_by[0]} ({made_by[1][:12]}), schema {schema}",
                f"this version reads {recipe.name} ({recipe.sha256[:12]}), schema {SCHEMA}",
                "train it again with this version",
            )
        return cls(
            recipe=recipe,
            **{name: meta[name] for name in _PLAIN},
            classes=np.array(meta["classes"], dtype=np.int64),
            chosen=meta["chosen"],
            scores=dict(meta["scores"]),
            notes=tuple(meta["notes"]),
            tensors={name: np.array(value) for name, value in state.items() if name != _META},
        )


_PLAIN: Final = ("task", "n_classes", "input", "width", "link", "mean", "scale")


def forward(recipe: HeadRecipe, tensors: Mapping[str, AnyArray], x: FloatArray) -> FloatArray:
    """Outputs float64 [M, outputs] of embeddings `x` float64 [M, D] or [M, ..., D]."""
    exact = {name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()}
    if "standard.mean" in exact:
        x = (x - exact["standard.mean"]) * exact["standard.scale"]
    model = recipe.model if isinstance(recipe, EpochTraining) else "linear"
    if model == "mlp":
        x = np.maximum(x @ exact["hidden.weight"].T + exact["hidden.bias"], 0)
    elif model == "attentive":
        x = _attend(exact, x.reshape(len(x), -1, x.shape[-1]))
    scores: FloatArray = x @ exact["out.weight"].T + exact["out.bias"]
    return scores


def _attend(exact: Mapping[str, FloatArray], tokens: FloatArray) -> FloatArray:
    """What the query gathers from `tokens` [M, T, D]: [M, D]. See `featprobe.heads.cached.models.Attentive`."""
    query = exact["query"]
    heads, width = query.shape
    keys = exact["key.weight"].reshape(heads, width, -1)
    probe = np.einsum("hw,hwd->hd", query, keys) / np.sqrt(width)
    attention = softmax(tokens @ probe.T, axis=1)
    gathered = attention.transpose(0, 2, 1) @ tokens
    values = exact["value.weight"].reshape(heads, width, -1)
    pooled: FloatArray = np.einsum("mhd,hwd->mhw", gathered, values).reshape(len(tokens), -1)
    return pooled


def blocks(table: AnyArray, rows: int | None = None) -> Iterator[slice]:
    """Slices of the rows of `table` (or of `rows` rows like its own) that fit into memory at once."""
    count = len(table) if rows is None else rows
    step = max(1, _BLOCK // max(1, int(np.prod(table.shape[1:]))))
    return (slice(start, start + step) for start in range(0, count, step))


def check_finite(table: AnyArray, rows: IntArray, what: str) -> None:
    """ProbeError that counts the `rows` of `table` [N, ...] with values that are not finite."""
    bad: list[int] = []
    for part in blocks(table, len(rows)):
        finite = np.isfinite(table[rows[part]]).reshape(len(rows[part]), -1).all(axis=1)
        bad += rows[part][~finite].tolist()
    if bad:
        raise ProbeError(
            f"{len(bad)} of {len(rows)} {what} embeddings hold values that are not finite",
            f"the first is row {min(bad)}",
            "type: featprobe cache verify, or extract again with --precision fp32",
        )
