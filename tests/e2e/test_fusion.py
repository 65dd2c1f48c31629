"""Fused embeddings through the real command: named in every column, judged with the others, refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from featprobe.cache import Cache
from featprobe.records import sha256_json
from tests.conftest import draw_image

EXTRACT = ("--weights", "random", "--image-size", "32", "--offline")
PROBE = ("--probe", "centroid", "--folds", "2", "--resamples", "100", "--jobs", "1")


def estimates(tmp_path, out="results"):
    rows = pd.read_csv(tmp_path / out / "results.csv", keep_default_na=False)
    return rows[(rows.fold == "mean") & (rows.metric == "balanced_accuracy")]


def extract(command, manifest, *words):
    done = command("extract", "--data", manifest, *EXTRACT, *words)
    assert done.returncode == 0, done.stderr


def test_backbones_are_fused_and_stand_in_the_comparison(quick_featprobe, manifest, tmp_path):
    extract(quick_featprobe, manifest, "--backbone", "resnet18", "mobilenetv3_small_050")
    words = ("probe", *PROBE, "--fuse", "concat", "stack", "--canaries")
    done = quick_featprobe(*words)
    assert done.returncode == 0, done.stderr
    rows = estimates(tmp_path)
    frozen = rows[rows["mode"] == "frozen"]
    together = frozen[frozen.fusion != ""]
    assert set(together.fusion) == {f"{method} over backbone" for method in ("concat", "stack")}
    assert set(frozen.backbone) == {"resnet18", "mobilenetv3_small_050", "mobilenetv3_small_050+resnet18"}
    assert set(together.backbone) == {"mobilenetv3_small_050+resnet18"}
    assert set(together.weights) == {"random"}
    assert set(together.pooling) == {"gap"}
    assert set(together.inputs) == {""}
    parts = Cache(tmp_path / "cache").current()
    prints = {entry.recipe.backbone: entry.recipe.fingerprint for entry in parts}
    assert set(together.fingerprint) == {sha256_json([[prints[name], "gap"] for name in sorted(prints)])}
    assert "shuffled labels" in set(rows[rows.fusion == "stack over backbone"]["mode"])
    # The same images in the same folds as each part alone.
    predictions = pd.read_parquet(tmp_path / "results" / "predictions.parquet")
    tested = predictions[predictions["mode"] == "frozen"].groupby(["backbone", "fusion"])
    assert len({tuple(sorted(zip(part.id, part.fold, strict=True))) for _, part in tested}) == 1

    again = quick_featprobe(*words)
    assert "probe: 0 computed" in again.stdout
    assert quick_featprobe("compare", "results", "--resamples", "100", "--map", "none").returncode == 0
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "mobilenetv3_small_050+resnet18 (random) · frozen centroid · stack over backbone" in page
    assert "Wolpert" in page  # where the method comes from
    (table,) = (tmp_path / "results" / "tables").glob("*-comparisons.csv")
    pairs = pd.read_csv(table)
    assert pairs["a"].str.contains("over backbone").any()
    assert pairs["p_adjusted"].notna().all()

    run = json.loads((tmp_path / "results" / "run.json").read_text())
    stacks = [unit for unit in run["units"].values() if unit["key"]["fusion"] == "stack over backbone"]
    assert "C of the stack" in stacks[0]["chosen"]["0"]
    assert "temperature of resnet18" in stacks[0]["chosen"]["0"]


def test_another_part_is_another_system(quick_featprobe, manifest, tmp_path):
    extract(quick_featprobe, manifest, "--backbone", "resnet18", "mobilenetv3_small_050", "resnet10t")
    assert quick_featprobe("probe", *PROBE, "--fuse", "average").returncode == 0
    two = quick_featprobe(
        "probe", *PROBE, "--fuse", "average", "--backbone", "resnet18", "mobilenetv3_small_050"
    )
    assert "probe: 1 computed, 2 there already" in two.stdout
    fused = estimates(tmp_path).query("fusion != ''")
    assert sorted(fused.backbone) == [
        "mobilenetv3_small_050+resnet10t+resnet18",
        "mobilenetv3_small_050+resnet18",
    ]
    assert fused.fingerprint.nunique() == 2


def test_poolings_layers_and_views_of_one_backbone(quick_featprobe, manifest, tmp_path):
    vit = ("--backbone", "test_vit", "--pooling", "cls", "mean", "cls+mean", "--tta", "hflip", "--tta-keep")
    extract(quick_featprobe, manifest, *vit)
    for over in ("pooling", "view"):
        done = quick_featprobe("probe", *PROBE, "--fuse", "average", "--over", over)
        assert done.returncode == 0, done.stderr
    fused = estimates(tmp_path).query("fusion != ''")
    pooled = fused[fused.fusion == "average over pooling"]
    assert set(zip(pooled.layer, pooled.pooling, strict=True)) == {
        ("", "cls+mean"),
        ("@plain", "cls+mean"),
        ("@hflip", "cls+mean"),
    }
    viewed = fused[fused.fusion == "average over view"]
    assert set(zip(viewed.layer, viewed.pooling, strict=True)) == {
        ("@hflip+@plain", name) for name in ("cls", "mean", "cls+mean")
    }
    missing = quick_featprobe("probe", *PROBE, "--fuse", "average", "--over", "layer")
    assert missing.returncode == 2
    assert "there are no two layers to fuse" in missing.stderr
    assert missing.stderr.count("\n") == 1


def test_canaries_are_fused_only_when_named(quick_featprobe, manifest, tmp_path):
    done = quick_featprobe(
        *("extract", "--data", manifest, "--image-size", "32", "--offline", "--canaries"),
        *("--backbone", "efficientnet_lite0"),
    )
    assert done.returncode == 0, done.stderr
    alone = quick_featprobe("probe", *PROBE, "--fuse", "average")
    assert alone.returncode == 2
    assert "there are no two backbones to fuse; there is efficientnet_lite0;" in alone.stderr
    named = quick_featprobe(
        "probe", *PROBE, "--fuse", "average", "--backbone", "efficientnet_lite0", "image_stats"
    )
    assert named.returncode == 0, named.stderr
    fused = estimates(tmp_path).query("fusion != ''")
    assert fused[["backbone", "weights"]].to_numpy().tolist() == [
        ["efficientnet_lite0+image_stats", "pretrained+none"]
    ]


def test_modalities_of_a_case_are_stacked(quick_featprobe, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["path,label,patient,case,modality"]
    (tmp_path / "images").mkdir()
    for number in range(24):
        for modality in ("T1", "T2"):
            if (number, modality) == (3, "T2"):
                continue  # one case lacks one
            draw_image(rng, number % 2).save(tmp_path / "images" / f"{number}{modality}.png")
            lines.append(f"images/{number}{modality}.png,{'ab'[number % 2]},p{number},c{number},{modality}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    extract(quick_featprobe, tmp_path / "labels.csv", "--backbone", "resnet18")
    done = quick_featprobe("probe", *PROBE, "--fuse", "stack", "concat", "--over", "modality")
    assert done.returncode == 0, done.stderr
    rows = estimates(tmp_path)
    found = set(zip(rows.level, rows.inputs, rows.fusion, strict=True))
    assert {
        ("case", "T1+T2", "concat-mean"),  # --fusion is as it was
        ("case", "T1+T2", "stack over modality (mean of case)"),
        ("case", "T1+T2", "concat over modality (mean of case)"),
    } <= found
    assert quick_featprobe("compare", "results", "--resamples", "100", "--map", "none").returncode == 0
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "stack over modality (mean of case)" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fuse", "stak"), "unknown fusion 'stak'; did you mean stack"),
        (("--over", "pooling"), "--over pooling without --fuse"),
        (("--fuse", "stack", "--over", "modality"), "there are no modalities to fuse"),
        (("--fuse", "stack", "--protocol", "dinov2-knn"), "--fuse can't be used with --protocol dinov2-knn"),
    ],
)
def test_refusals(quick_featprobe, manifest, words, said):
    extract(quick_featprobe, manifest, "--backbone", "resnet10t", "resnet18")
    probe = PROBE[2:] if "--protocol" in words else PROBE
    done = quick_featprobe("probe", *probe, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_images_in_one_part_are_refused(quick_featprobe, manifest):
    extract(quick_featprobe, manifest, "--backbone", "resnet18")
    text = manifest.read_text(encoding="utf-8").splitlines()
    manifest.write_text("\n".join(text[:-2]) + "\n", encoding="utf-8")
    extract(quick_featprobe, manifest, "--backbone", "resnet10t")
    done = quick_featprobe("probe", *PROBE, "--fuse", "stack")
    assert done.returncode == 2
    assert "resnet10t and resnet18 were extracted from different states" in done.stderr
    assert "46 against 48 images" in done.stderr
