"""The study's own shape, through the real command: three modalities per case, each alone beside their fusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featprobe.cache import Cache

STUDY = """
[[extract]]
data = "pseudo=manifest.csv"
image-size = 32
slices = "central:2"

[[export]]
level = "case"
fusion = "concat"
out = "embeddings/fused.parquet"

[[probe]]
probe = "logistic"
folds = 2
resamples = 200

[compare]
resamples = 200
map = "none"
"""


def derive(volumes: pd.DataFrame, root: Path, out: Path) -> Path:
    """A manifest with three volumes per case, derived from the one there is: pseudo-modalities, named as such.

    "pseudo-original" is the volume, "pseudo-smooth" a Gaussian of 1.5 voxels, "pseudo-gradient" the magnitude of
    the Gaussian gradient. They carry no more than the original does: they test the path, not medicine.
    """
    import nibabel
    from scipy import ndimage

    rows = []
    for row in volumes.itertuples():
        image = nibabel.load(root / row.path)
        values = image.get_fdata()
        kinds = {
            "pseudo-original": values,
            "pseudo-smooth": ndimage.gaussian_filter(values, 1.5),
            "pseudo-gradient": ndimage.gaussian_gradient_magnitude(values, 1.0),
        }
        for kind, volume in kinds.items():
            path = out / "volumes" / f"{row.patient_id}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), image.affine), path)
            rows.append([f"volumes/{path.name}", row.label, row.patient_id, row.patient_id, kind])
    manifest = out / "manifest.csv"
    pd.DataFrame(rows, columns=["path", "label", "patient", "case", "modality"]).to_csv(manifest, index=False)
    return manifest


@pytest.mark.shared
def test_each_modality_alone_stands_beside_the_fusion(quick_featprobe, shared, tmp_path):
    root = shared / "data" / "hippocampus_volumes"
    volumes = pd.read_csv(root / "labels.csv")
    derive(volumes.groupby("label").head(6), root, tmp_path)
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    done = quick_featprobe("run", "study.toml")
    assert done.returncode == 0, done.stderr

    rows = pd.read_csv(tmp_path / "results" / "study" / "results.csv", keep_default_na=False)
    rows = rows[(rows.weights == "pretrained") & (rows["mode"] == "frozen")]
    mean = rows[(rows.fold == "mean") & (rows.metric == "balanced_accuracy")]
    kinds = ["pseudo-gradient", "pseudo-original", "pseudo-smooth"]
    together = "+".join(kinds)
    assert set(zip(mean.level, mean.inputs, mean.fusion, strict=True)) == {
        ("image", "", ""),
        *(("image", kind, "") for kind in kinds),
        *(("case", kind, "mean") for kind in kinds),
        ("case", together, "concat-mean"),
    }
    assert set(mean.n_groups) == {12}
    assert dict(zip(mean.level + mean.inputs, mean.n_test, strict=True)) == {
        "image": 72,
        **{f"image{kind}": 24 for kind in kinds},
        **{f"case{kind}": 12 for kind in [*kinds, together]},
    }
    predictions = pd.read_parquet(tmp_path / "results" / "study" / "predictions.parquet")
    # A patient is tested in the same fold at both levels and by every model.
    assert len(predictions[["group", "fold"]].drop_duplicates()) == 12

    fused = pd.read_parquet(tmp_path / "results" / "study" / "embeddings" / "fused.parquet")
    assert fused.shape[0] == 12
    assert sum(name.startswith("e") and name[1:].isdigit() for name in fused.columns) == 3 * 1280
    page = (tmp_path / "results" / "study" / "report.html").read_text(encoding="utf-8")
    assert "pseudo, by case" in page
    assert "pseudo-smooth alone" in page
    again = quick_featprobe("run", "study.toml")
    assert "nothing to compute" in again.stdout


def test_a_rule_for_grey_levels_names_another_cache_file(quick_featprobe, manifest, tmp_path):
    quick = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")
    for rule in ("auto", "range:0:64", "range:0:64.0"):
        done = quick_featprobe("extract", "--data", manifest, *quick, "--intensity", rule)
        assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "cache").glob("*/*.h5"))
    assert len(files) == 2  # two spellings of one rule are one rule
    tables = [Cache(tmp_path / "cache").read(file, "gap") for file in files]
    assert {table.recipe.preprocessing.intensity for table in tables} == {"auto", "range:0:64"}
    assert np.abs(tables[0].embeddings - tables[1].embeddings).max() > 1e-3
    assert tables[0].samples.phash.tolist() == tables[1].samples.phash.tolist()
