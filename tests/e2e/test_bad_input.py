"""Each bad input ends in one line with what was wrong and what to type next, status 2, and nothing damaged."""

from __future__ import annotations

import hashlib
import resource
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")


def refused(result: subprocess.CompletedProcess[str], *words: str) -> str:
    """The error line, after checking its form: one line, status 2, no traceback, and every word in it."""
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("featprobe: error: ")
    assert lines[0].count(";") >= 1, "an error says what was wrong and what is known or to type next"
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    return lines[0]


def contents(folder: Path) -> dict[str, str]:
    """Hash of every finished file below `folder`."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix not in {".lock", ".part"})
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def cached(quick_featprobe, manifest, tmp_path) -> Path:
    """A cache with one finished file; returns that file."""
    result = quick_featprobe("extract", "--data", manifest, *QUICK)
    assert result.returncode == 0, result.stderr
    return next((tmp_path / "cache").rglob("*.h5"))


def test_missing_data_path(quick_featprobe, tmp_path):
    refused(quick_featprobe("extract", "--data", "no/such/folder", *QUICK), "no/such/folder", "mend the path")
    assert not list((tmp_path / "cache").rglob("*.h5*"))


def test_empty_folder(quick_featprobe, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(quick_featprobe("extract", "--data", "empty", *QUICK), "empty")


def test_manifest_without_the_label_column(quick_featprobe, manifest):
    manifest.write_text(manifest.read_text().replace("path,label,", "path,diagnosis,"))
    refused(quick_featprobe("extract", "--data", manifest, *QUICK), "label", "diagnosis", "--label-column")


def test_manifest_with_a_missing_file(quick_featprobe, manifest):
    manifest.write_text(manifest.read_text() + "images/benign/lost.png,benign,p99\n")
    refused(quick_featprobe("extract", "--data", manifest, *QUICK), "images/benign/lost.png")


def test_manifest_with_an_unknown_split(quick_featprobe, manifest):
    lines = manifest.read_text().splitlines()
    split = [f"{line},{'split' if number == 0 else 'trian'}" for number, line in enumerate(lines)]
    manifest.write_text("\n".join(split) + "\n")
    refused(quick_featprobe("extract", "--data", manifest, *QUICK), "trian", "train")


def test_manifest_with_one_class_only(quick_featprobe, manifest):
    manifest.write_text(manifest.read_text().replace(",malignant,", ",benign,"))
    refused(quick_featprobe("extract", "--data", manifest, *QUICK), "one class", "benign")


def test_fewer_groups_of_a_class_than_folds(quick_featprobe, manifest):
    lines = manifest.read_text().splitlines()
    rare = [
        "path,label,patient_id",
        *(line.replace(",benign,", ",rare,") if n <= 4 else line for n, line in enumerate(lines[1:], 1)),
    ]
    manifest.write_text("\n".join(rare) + "\n")
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    refused(quick_featprobe("probe", "--probe", "logistic"), "rare", "2", "--min-groups")
    mended = quick_featprobe("probe", "--probe", "logistic", "--min-groups", "5", "--resamples", "50")
    assert mended.returncode == 0, mended.stderr
    assert "rare" in mended.stdout, "what --min-groups drops must be reported"


def test_unknown_backbone_names_the_nearest(quick_featprobe, manifest):
    refused(
        quick_featprobe("extract", "--data", manifest, "--backbone", "dinov2_vitb41"),
        "dinov2_vitb41",
        "dinov2_vitb14",
    )


def test_unknown_flag_names_the_nearest(quick_featprobe):
    refused(quick_featprobe("extract", "--bakcbone", "resnet18"), "--bakcbone", "--backbone")


def test_weights_of_another_architecture(quick_featprobe, manifest, tmp_path):
    from safetensors.torch import save_file
    from timm import create_model

    save_file(create_model("resnet26").state_dict(), tmp_path / "resnet26.safetensors")
    result = quick_featprobe(
        "extract", "--data", manifest, "--backbone", "resnet18", "--weights", "resnet26.safetensors"
    )
    refused(result, "resnet26.safetensors", "resnet18")
    assert not list((tmp_path / "cache").rglob("*.h5*"))


def test_weights_that_need_unpickling_of_code(quick_featprobe, manifest, tmp_path):
    import torch

    torch.save({"state_dict": print}, tmp_path / "evil.pth")
    refused(
        quick_featprobe("extract", "--data", manifest, "--backbone", "resnet18", "--weights", "evil.pth"),
        "evil.pth",
    )


def test_truncated_cache(quick_featprobe, cached):
    cached.write_bytes(cached.read_bytes()[:3000])
    before = contents(cached.parent)
    refused(quick_featprobe("probe"), cached.name)
    assert contents(cached.parent) == before


def test_cache_of_another_schema(quick_featprobe, cached):
    with h5py.File(cached, "r+") as file:
        file.attrs["schema"] = 999
    refused(quick_featprobe("probe"), "999", cached.name)


def test_incomplete_cache(quick_featprobe, cached):
    cached.rename(cached.with_name(cached.name + ".part"))
    refused(quick_featprobe("probe"), ".part", "extract")


@pytest.mark.usefixtures("cached")
def test_output_directory_not_writable(quick_featprobe, tmp_path):
    # A file where a folder should be: refused for every user, root included.
    (tmp_path / "taken").write_text("not a folder")
    refused(quick_featprobe("probe", "--out", "taken/results"), "taken/results", "--out")
    refused(quick_featprobe("extract", "--cache", "taken/cache", *QUICK), "taken/cache")


@pytest.mark.usefixtures("cached")
def test_disk_full_while_extracting(featprobe, manifest, tmp_path):
    before = contents(tmp_path / "cache")

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = ("extract", "--data", manifest, *QUICK[:-1], "64")
    refused(featprobe(*command, preexec_fn=small_disk), "disk", "type")
    assert contents(tmp_path / "cache") == before, "a good file was damaged"
    resumed = featprobe(*command)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.usefixtures("cached")
def test_disk_full_while_writing_results(featprobe, tmp_path):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

    refused(featprobe("probe", "--probe", "logistic", "--resamples", "50", preexec_fn=small_disk), "type")
    assert not list((tmp_path / "results").glob("*.csv"))


def test_leaks_stop_at_the_gate(quick_featprobe, manifest):
    lines = manifest.read_text().splitlines()
    # The views of each patient stand on both sides.
    split = [
        lines[0] + ",split",
        *(f"{line},{'train' if n % 2 else 'test'}" for n, line in enumerate(lines[1:])),
    ]
    manifest.write_text("\n".join(split) + "\n")
    assert quick_featprobe("extract", "--data", manifest, *QUICK).returncode == 0
    refused(quick_featprobe("probe"), "24", "group", "--resplit", "--drop-leaks", "--allow-leaks")
    refused(quick_featprobe("finetune", "--data", manifest, *QUICK, "--epochs", "1"), "group", "--resplit")
    checked = quick_featprobe("inspect", "--data", manifest, "--out", "checked")
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert len((manifest.parent / "checked" / "leaks.csv").read_text().splitlines()) > 24
    allowed = quick_featprobe("probe", "--allow-leaks", "group", "--probe", "logistic", "--resamples", "50")
    assert allowed.returncode == 0, allowed.stderr


def test_refused_images_leave_nothing_behind(quick_featprobe, image_folder, tmp_path):
    pages = [Image.fromarray(np.full((8, 8), level, dtype=np.uint8)) for level in (40, 50)]
    stacked = image_folder / "benign" / "stack.png"  # pages under a name that promises one image
    pages[0].save(stacked, "TIFF", save_all=True, append_images=pages[1:])
    refused(quick_featprobe("extract", "--data", image_folder, *QUICK), "stack.png", "pages")
    assert not list((tmp_path / "cache").rglob("*"))


def test_unlabelled_data_are_extracted_but_not_probed(quick_featprobe, image_folder):
    assert quick_featprobe("extract", "--data", image_folder, "--label", "none", *QUICK).returncode == 0
    refused(quick_featprobe("probe"), "no labels", "extract")


def test_nothing_cached(quick_featprobe):
    refused(quick_featprobe("probe", "--cache", "nowhere"), "nowhere", "featprobe extract")


def test_nothing_to_compare(quick_featprobe):
    refused(quick_featprobe("compare", "nowhere"), "nowhere", "featprobe")


def test_unknown_key_in_a_study(quick_featprobe, tmp_path):
    (tmp_path / "study.toml").write_text('[[extract]]\nbackbnoe = "resnet18"\n')
    refused(quick_featprobe("run", "study.toml"), "backbnoe", "backbone")


def test_unreachable_hub_names_three_ways_on(featprobe, manifest, tmp_path):
    result = featprobe(
        "extract",
        "--data",
        manifest,
        "--backbone",
        "dinov2_vits14",
        env={"HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "th")},
    )
    refused(result, "--weights", "efficientnet_lite0", "fetch")
