"""One embedding table for other tools: NumPy or Parquet, readable without featprobe and without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featprobe.cache.disk import output_error
from featprobe.cache.packing import TEMPORARY
from featprobe.cache.store import Cache
from featprobe.errors import ConfigError
from featprobe.records import EmbeddingTable, Samples, texts


def export(path: Path, pooling: str, target: Path, *, layer: str = "") -> Path:
    """`export_table` of one pooling of the cache file at `path`."""
    table = Cache(path.parent.parent).read(path, pooling, layer=layer, thumbnails=False)
    return export_table(table, target)


def export_table(table: EmbeddingTable, target: Path) -> Path:
    """Write the embeddings [N, D], or [N, h, w, D], and what is known of each row to `target`, .npz or .parquet.

    .npz: embeddings, id, path, label (as in `Samples`), label_names, group, case, split, sha256 and, as single
    texts, task, dataset, pooling, layer, recipe, fingerprint. .parquet: one row each with id, path, label
    and label_name (one column label_NAME for each of several labels, label alone for a quantity), group, case,
    split, e0 ... e(D-1), no patches. Raises ConfigError on another suffix or patches for .parquet, OutputError.
    """
    writers = {".npz": _write_npz, ".parquet": _write_parquet}
    if target.suffix not in writers:
        raise ConfigError(
            f"{target} has the suffix {target.suffix!r}",
            f"embeddings are exported to {' or '.join(writers)}",
            f"type: featprobe cache export --out {target.with_suffix('.npz')}",
        )
    if table.embeddings.ndim != 2 and target.suffix == ".parquet":
        raise ConfigError(
            f"{table.pooling} can't be written to {target}",
            f"a row of a Parquet table is a vector, and these are {' x '.join(map(str, table.embeddings.shape[1:]))}",
            f"type featprobe cache export --pooling {table.pooling} --out {target.with_suffix('.npz')}",
        )
    temporary = target.with_name(target.name + TEMPORARY)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writers[target.suffix](temporary, table)
        temporary.replace(target)
    except OSError as error:
        raise output_error(target, error.strerror or str(error), 2 * table.embeddings.nbytes) from error
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{error.object!r} is no Unicode text", "Parquet holds nothing else", "export to .npz"
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()
    return target


def _write_npz(target: Path, table: EmbeddingTable) -> None:
    samples = table.samples
    with target.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            embeddings=table.embeddings,
            id=samples.id,
            path=samples.path,
            label=samples.label,
            label_names=texts(samples.label_names),
            group=samples.group,
            case=samples.case,
            split=samples.split,
            sha256=samples.sha256,
            task=np.str_(samples.task),
            dataset=np.str_(table.dataset),
            pooling=np.str_(table.pooling),
            layer=np.str_(table.layer),
            recipe=np.str_(table.recipe.to_json()),
            fingerprint=np.str_(table.fingerprint),
        )


def _write_parquet(target: Path, table: EmbeddingTable) -> None:
    samples = table.samples
    known = pd.DataFrame(
        {
            "id": samples.id.tolist(),
            "path": samples.path.tolist(),
            **_label_columns(samples),
            "group": samples.group.tolist(),
            "case": samples.case.tolist(),
            "split": samples.split.tolist(),
        }
    )
    columns = [f"e{number}" for number in range(table.embeddings.shape[1])]
    values = pd.DataFrame(table.embeddings, columns=pd.Index(columns))
    pd.concat([known, values], axis=1).to_parquet(target, index=False)


def _label_columns(samples: Samples) -> dict[str, Any]:
    if samples.task == "multilabel":
        return {f"label_{name}": samples.label[:, index] for index, name in enumerate(samples.label_names)}
    if samples.task == "continuous":
        return {"label": samples.label}
    return {"label": samples.label, "label_name": samples.label_texts().tolist()}
