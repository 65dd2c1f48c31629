"""Patches are kept, listed and exported; probes and maps pass over them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from featprobe.cache import Cache
from featprobe.config import CompareConfig, ExportConfig, ProbeConfig
from featprobe.errors import CacheError, ConfigError
from featprobe.imaging import THUMBNAIL_SIDE
from featprobe.records import Preprocessing, Recipe, Samples, images_sha256, texts
from featprobe.stages import cache_care
from featprobe.stages.export import export
from featprobe.stages.maps import embedding_maps
from featprobe.stages.probe import probe
from featprobe.stages.protocols import asks, protocols_of
from featprobe.stages.tables import materials

RULE = Preprocessing((224, 224), "crop", 256, "bicubic", (0.5,) * 3, (0.5,) * 3)
DIMS = {"cls": 4, "last4/cls": 5, "last4@hflip/patches": (1, 2, 2), "patches": (2, 3, 4)}


def cache_of(root, dims, name="d"):
    samples = Samples.build(
        path=[f"{n}.png" for n in range(12)], label=[n % 2 for n in range(12)], label_names=("a", "b")
    ).replace(sha256=texts([f"{n:064x}" for n in range(12)]))
    recipe = Recipe(
        images=images_sha256(samples.sha256),
        backbone="vit",
        architecture="vit",
        weights="0",
        preprocessing=RULE,
    )
    cache = Cache(root)
    rng = np.random.default_rng(0)
    with cache.writer(
        name, recipe, samples, dims, batch_size=12, weights_label="pretrained", environment={}
    ) as writer:
        writer.append(
            np.arange(12),
            {key: rng.normal(size=(12, *np.atleast_1d(dim))) for key, dim in dims.items()},
            texts([f"{n:064x}" for n in range(12)]),
            texts([f"{n:016x}" for n in range(12)]),
            np.zeros((12, THUMBNAIL_SIDE**2), dtype=np.uint8),
            [],
            12,
        )
        writer.finish({})
    return cache


@pytest.fixture
def cache(tmp_path):
    return cache_of(tmp_path / "cache", DIMS)


def probed(cache, **options):
    (material,) = materials(cache, ProbeConfig(cache=cache.root, **options))
    return [table.pooling for table in material.tables]


def test_probes_are_fitted_on_what_is_a_vector(cache):
    assert probed(cache) == ["cls", "last4/cls"]
    assert probed(cache, pooling=("cls",)) == ["cls", "last4/cls"]


def test_a_data_set_with_patches_alone_beside_others_is_said_to_be_left_out(cache, capsys):
    cache_of(cache.root, {"patches": (2, 3, 4)}, name="dense")
    assert probed(cache) == ["cls", "last4/cls"]
    said = capsys.readouterr().out
    assert "dense: WARNING: left out, it has no embedding that a probe can be fitted on: patches" in said


def test_patches_that_are_asked_for_are_refused(cache, tmp_path):
    with pytest.raises(
        ConfigError, match=r"--pooling patches can't be probed.*cache export --pooling patches"
    ):
        probed(cache, pooling=("cls", "patches"))
    with pytest.raises(
        CacheError, match=r"of the pooling gap .*cls, last4/cls, last4@hflip/patches, patches"
    ):
        probed(cache, pooling=("gap",))
    with pytest.raises(CacheError, match="no embedding that a probe can be fitted on"):
        probed(cache_of(tmp_path / "other", {"patches": (2, 3, 4)}))


def test_the_list_shows_the_shape_of_patches(cache, capsys):
    cache_care.ls(cache.root, (), ())
    assert "cls+last4/cls+last4@hflip/patches 1x2x2+patches 2x3x4" in capsys.readouterr().out


def test_patches_are_exported_where_they_are_named(cache, tmp_path):
    (path,) = cache.files()
    export(ExportConfig(cache=cache.root, out=tmp_path / "all", format="parquet"))
    assert len(list((tmp_path / "all").rglob("*.parquet"))) == 2
    export(ExportConfig(cache=cache.root, out=tmp_path / "x.npz", pooling="patches"))
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["embeddings"], cache.read(path, "patches").embeddings)
        assert arrays["embeddings"].shape == (12, 2, 3, 4)
    export(ExportConfig(cache=cache.root, out=tmp_path / "y.npz", pooling="last4@hflip/patches"))
    with np.load(tmp_path / "y.npz") as arrays:
        assert str(arrays["layer"]) == "last4@hflip"
    with pytest.raises(ConfigError, match=r"a row of a Parquet table is a vector, and these are 2 x 3 x 4"):
        export(ExportConfig(cache=cache.root, out=tmp_path / "x.parquet", pooling="patches"))
    with pytest.raises(ConfigError, match="by case"):
        export(ExportConfig(cache=cache.root, out=tmp_path / "z.npz", pooling="patches", level="case"))
    assert not (tmp_path / "x.parquet").exists()


def test_a_pooling_stands_for_that_of_every_layer_where_the_last_has_none(tmp_path):
    cache = cache_of(tmp_path / "cache", {"last1/mean": 3, "last4/mean": 4, "cls": 2})
    export(ExportConfig(cache=cache.root, out=tmp_path / "out", pooling="mean"))
    names = sorted(path.name.partition("-last")[2] for path in (tmp_path / "out").rglob("*.npz"))
    assert names == ["1-mean.npz", "4-mean.npz"]


def test_maps_are_drawn_of_the_layers_that_were_probed(cache):
    (entry,) = cache.entries()
    about = {"dataset": "d", "fingerprint": entry.recipe.fingerprint, "mode": "frozen"}
    estimates = pd.DataFrame([{**about, "layer": "last4", "pooling": "cls"}])
    (drawn,) = embedding_maps(CompareConfig(cache=cache.root), [cache], estimates)
    assert drawn.title == "vit (pretrained), last4, cls"
    both = pd.DataFrame([{**about, "layer": layer, "pooling": "cls"} for layer in ("", "last4")])
    assert len(embedding_maps(CompareConfig(cache=cache.root), [cache], both)) == 2


class TestHeadsThatAttend:
    def test_patches_are_taken_where_a_protocol_attends_to_them(self, cache):
        assert "patches" in probed(cache, protocol=("featprobe-attentive",))
        assert probed(cache, protocol=("featprobe-attentive",), pooling=("patches",), layer=("last",)) == [
            "patches"
        ]

    def test_each_protocol_gets_its_own_kind(self, cache):
        config = ProbeConfig(
            cache=cache.root, protocol=("featprobe", "featprobe-mlp", "featprobe-attentive"), layer=("last",)
        )
        (material,) = materials(cache, config)
        found = {
            ask.protocol.name: [table.pooling for (table,) in ask.inputs] for ask in asks(config, material)
        }
        assert found == {"featprobe": ["cls"], "featprobe-mlp": ["cls"], "featprobe-attentive": ["patches"]}

    def test_a_backbone_without_patches_is_told_how_to_get_them(self, tmp_path):
        plain = cache_of(tmp_path / "plain", {"cls": 4})
        config = ProbeConfig(cache=plain.root, protocol=("featprobe-attentive",))
        (material,) = materials(plain, config)
        with pytest.raises(
            CacheError,
            match=r"takes patches of vit; .*extract .*--pooling patches, or --backbone with others$",
        ):
            asks(config, material)

    def test_a_head_is_no_probe(self, cache):
        with pytest.raises(ConfigError, match="type --protocol featprobe-mlp, and leave --probe out"):
            protocols_of(ProbeConfig(cache=cache.root, probe=("mlp",)))

    def test_whole(self, cache, tmp_path):
        out = tmp_path / "results"
        names = ("featprobe-mlp", "featprobe-attentive")
        probe(
            ProbeConfig(
                cache=cache.root, out=out, protocol=names, layer=("last",), holdout=0.5, resamples=50, jobs=1
            )
        )
        table = pd.read_csv(out / "results.csv").drop_duplicates(["pooling", "probe"])
        assert set(zip(table.pooling, table.probe, strict=True)) == {("cls", "mlp"), ("patches", "attentive")}
        # One part of five is chosen on and not trained on.
        rows = pd.read_parquet(out / "predictions.parquet")
        assert (table.n_train < 12 - len(set(rows.id))).all()
