from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featprobe.cache import donors, export, packing, verify
from featprobe.errors import CacheError, ConfigError
from featprobe.records import POOLINGS

PATCHES = {"cls": 8, "patches": (4, 3, 5)}
KEYS = st.dictionaries(
    st.tuples(
        st.text("abcXYZ0189._@:+- ü", max_size=9).filter(lambda layer: layer not in {".", "..", *POOLINGS}),
        st.sampled_from(POOLINGS),
    ).map(lambda parts: "/".join(filter(None, parts))),
    st.one_of(st.integers(1, 6), st.tuples(*[st.integers(1, 4)] * 3)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEYS, st.integers(1, 12), st.integers(1, 5), st.frozensets(st.integers(1, 11), max_size=3))
@example(
    {
        "patches": (4, 4, 4),
        "last4@hflip/patches": (1, 1, 1),
        "blocks.5/cls": 2,
        "@crop:tl/cls": 1,
        "0/cls": 1,
    },
    9,
    2,
    frozenset({3}),
)
def test_rows_of_any_shape_come_back_under_any_key(
    bench: Any, dims: dict[str, Any], count: int, batch_size: int, bad: frozenset[int]
) -> None:
    samples = bench.samples(count)
    kept = np.array([row for row in range(count) if row not in bad])
    full = {key: bench.values(samples, slice(None), dim).astype("f4") for key, dim in dims.items()}
    with tempfile.TemporaryDirectory() as folder:
        here = type(bench)(Path(folder))
        # First half of the keys, then the rest beside them: what is there already is left alone.
        for part in (list(dims)[: len(dims) // 2 + 1], list(dims)):
            path = here.write(
                samples, bad=bad, batch_size=batch_size, poolings={key: dims[key] for key in part}
            )
        assert verify(path) == []
        (entry,) = here.cache.entries()
        assert entry.dims == dims
        assert set(entry.flat) == {key for key, dim in dims.items() if isinstance(dim, int)}
        for key, values in full.items():
            table = here.cache.read(path, key)
            assert np.array_equal(table.embeddings, values[kept])
            assert "/".join(filter(None, [table.layer, table.pooling])) == key
            some = here.cache.read(path, key, rows=np.arange(len(kept))[::-2])
            assert np.array_equal(some.embeddings, values[kept][::-2])
            assert some.samples.id.tolist() == samples.id[kept][::-2].tolist()
            with h5py.File(path) as file:
                stored = file[f"embeddings/{key}"]
                assert stored.shape == (len(kept), *values.shape[1:])
                assert stored.fletcher32
                assert stored.ndim == 2 or stored.chunks == (1, *values.shape[1:])
        donated = here.cache.donated_rows("digits", here.recipe(bench.samples(count + 1)), list(dims))
        assert set(donated) == set(samples.sha256[kept].tolist())
        path.unlink()  # patches are read from the file that was found, whatever becomes of its name
        for row in kept:
            given_row = donated[str(samples.sha256[row])]
            assert all(np.array_equal(given_row[key], values[row]) for key, values in full.items())


def test_patches_are_written_and_checked_in_several_blocks(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(packing, "BLOCK_BYTES", 2 * 4 * 3 * 5 * 4)
    samples = bench.samples(9)
    path = bench.write(samples, bad=(4,), poolings=PATCHES)
    with h5py.File(path) as file:
        assert packing.block_rows(file["embeddings/patches"]) == 2
        assert packing.block_rows(file["embeddings/cls"]) == packing.BLOCK_ROWS
    assert verify(path) == []
    expected = bench.values(samples, [row for row in range(9) if row != 4], (4, 3, 5)).astype("f4")
    assert np.array_equal(bench.cache.read(path, "patches").embeddings, expected)


def test_room_is_made_sure_of_for_dense_rows_however_small(bench: Any) -> None:
    samples = bench.samples(1500)
    for dims in ({"patches": (1, 1, 1)}, {"patches": (4, 4, 8), "cls": 8}):
        path = bench.write(samples, poolings=dims, batch_size=500)
        with h5py.File(path) as file:
            sets = {key: file[f"embeddings/{key}"] for key in dims}
            index = sets["patches"].id.get_storage_size() - 4 * len(samples) - sets["patches"].size * 4
        assert index == 0  # the values and a checksum for each chunk: the index of the chunks is apart
        metadata = bench.cache.read(path, "patches").samples
        assert path.stat().st_size <= packing.packed_size(_metadata(bench, metadata), dims)
        path.unlink()


def _metadata(bench: Any, samples: Any) -> Any:
    from featprobe.cache.layout import Header, Metadata
    from featprobe.records import Quarantine

    header = Header("digits", bench.recipe(samples), "pretrained", len(samples), {})
    return Metadata(header, samples, Quarantine.empty())


def test_an_interrupted_file_with_patches_is_gone_on_with(bench: Any) -> None:
    samples = bench.samples(20)
    with bench.writer(samples, poolings=PATCHES) as writer:
        bench.fill(writer, samples, until=8, dims=PATCHES)
    with bench.writer(samples, poolings={"patches": [4, 3, 5], "cls": np.int64(8)}) as writer:
        assert writer.position == 8
        assert writer.notes == ()
        bench.fill(writer, samples, dims=PATCHES)
        path = writer.finish({})
    expected = bench.values(samples, slice(None), (4, 3, 5)).astype("f4")
    assert np.array_equal(bench.cache.read(path, "patches").embeddings, expected)


def test_patches_of_another_shape_begin_the_file_anew(bench: Any) -> None:
    samples = bench.samples(8)
    with bench.writer(samples, poolings=PATCHES) as writer:
        bench.fill(writer, samples, until=4, dims=PATCHES)
    with bench.writer(samples, poolings={**PATCHES, "patches": (2, 6, 5)}) as writer:
        assert writer.position == 0
        assert "begun anew" in writer.notes[0]


def test_patches_that_overflow_float16_are_refused_with_their_image(bench: Any) -> None:
    samples = bench.samples(4)
    dims = {"patches": (1, 2, 2)}
    with bench.writer(samples, poolings=dims, recipe=bench.recipe(samples, storage="float16")) as writer:
        original = bench.values
        bench.values = lambda *arguments: (
            original(*arguments) + 1e5 * (np.arange(4) == 2)[:, None, None, None]
        )
        with pytest.raises(CacheError, match=r"1 embeddings are not finite.*a/2\.png"):
            bench.fill(writer, samples, dims=dims)


@pytest.mark.parametrize(
    ("poolings", "problem"),
    [
        ({"patches": (4, 4)}, "an embedding is"),
        ({"patches": (4, 0, 4)}, "an embedding is"),
        ({"a/b/cls": 4}, "neither POOLING nor LAYER/POOLING"),
        ({"./cls": 4}, "neither POOLING nor LAYER/POOLING"),
        ({"/cls": 4}, "neither POOLING nor LAYER/POOLING"),
        ({"mean/cls": 4}, "name of a pooling"),
    ],
)
def test_keys_and_shapes_that_can_not_be_stored_are_refused(
    bench: Any, poolings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        bench.writer(bench.samples(3), poolings=poolings)
    assert bench.cache.parts() == []


def test_a_layer_that_is_missing_is_asked_for_by_its_flag(bench: Any) -> None:
    path = bench.write(bench.samples(3), poolings={"last4/cls": 8})
    with pytest.raises(CacheError, match="--layer last1 --pooling cls"):
        bench.cache.read(path, "last1/cls")


def test_patches_are_exported_to_numpy_alone(bench: Any, tmp_path: Path) -> None:
    samples = bench.samples(5)
    path = bench.write(samples, poolings=PATCHES)
    with np.load(export(path, "patches", tmp_path / "x.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(
            arrays["embeddings"], bench.values(samples, slice(None), (4, 3, 5)).astype("f4")
        )
    with pytest.raises(ConfigError, match=r"patches can't be written .* 4 x 3 x 5"):
        export(path, "patches", tmp_path / "x.parquet")
    assert bench.names_in(tmp_path) == ["cache", "x.npz"]


def test_a_file_whose_patches_were_replaced_meanwhile_is_no_donor(bench: Any) -> None:
    path = bench.write(bench.samples(4), poolings={"patches": (1, 1, 2)})
    with pytest.raises(CacheError, match="was replaced"):
        donors._opened_again(path, "patches", "0" * 64)
