"""Embeddings, targets and numbers that no probe can learn from: refused by name, never filled in, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from featprobe.cache.sealing import seal

QUICK = ("--resamples", "50", "--jobs", "1")


@pytest.fixture
def stored(quick_featprobe, manifest, tmp_path) -> Path:
    """Image statistics of 48 images of 24 patients in two classes; returns the cache file."""
    done = quick_featprobe("extract", "--data", manifest, "--backbone", "image_stats")
    assert done.returncode == 0, done.stderr
    return next((tmp_path / "cache").rglob("*.h5"))


def put(stored: Path, row: int, value: float) -> str:
    """Write `value` into one embedding of every pooling; returns the image's id."""
    with h5py.File(stored, "r+") as file:
        for name in file["embeddings"]:
            file["embeddings"][name][row, 0] = value
        image = file["samples/id"].asstr()[row]
    seal(stored)
    return str(image)


def refused(result, *words: str) -> None:
    """One error line, with every word in it."""
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("featprobe: error: ")
    for word in words:
        assert word in line, f"{word!r} is not in {line!r}"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_named_and_never_filled_in(
    quick_featprobe, stored, tmp_path, value
):
    # NaN also stands for a modality that a case lacks, which is filled in: an image's own must not be.
    image = put(stored, 5, value)
    words = ("image_stats", "1 of 48 embeddings hold values that are not finite", image, "cache verify")
    for flags in (
        ("probe", "--probe", "lda"),
        ("probe", "--protocol", "sklearn-default"),
        ("probe", "--protocol", "huang2024"),
        ("probe", "--probe", "lda", "--level", "case"),
    ):
        refused(quick_featprobe(*flags, *QUICK), *words)
    refused(quick_featprobe("retrieve", "--resamples", "50"), *words)
    written = [file for file in (tmp_path / "results").rglob("*") if file.is_file() and file.name != ".lock"]
    assert not written


@pytest.mark.usefixtures("stored")
def test_what_can_not_be_fitted_says_whose_it_is(quick_featprobe, manifest):
    lines = manifest.read_text().splitlines()
    sides = (["split", "test"][n > 0] if n % 3 != 1 else "train" for n in range(len(lines)))
    ages = [
        f"{line},{n % 5 if n % 3 != 1 else 40},{side}"
        for n, (line, side) in enumerate(zip(lines, sides, strict=True))
    ]
    ages[0] = "path,label,patient_id,age,split"
    manifest.write_text("\n".join(ages) + "\n")
    number = ("--label-column", "age", "--group-column", "path", "--target", "continuous")
    assert (
        quick_featprobe("extract", "--data", manifest, "--backbone", "image_stats", *number).returncode == 0
    )
    refused(
        quick_featprobe("probe", "--probe", "ridge", *QUICK),
        "image_stats (none) · frozen · ridge, fold test: the ridge probe needs targets that differ",
    )


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("flag", ["--fraction", "--holdout"])
def test_not_a_number_is_within_no_bounds(quick_featprobe, flag):
    refused(quick_featprobe("probe", flag, "nan", *QUICK), f"{flag} is nan", "at least")


@pytest.mark.usefixtures("stored")
def test_a_probe_that_does_not_fit_is_left_out_aloud_where_others_do(quick_featprobe):
    done = quick_featprobe("probe", "--probe", "ordinal", "lda", "--fraction", "0.5", "1", "--models", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "--probe ordinal is left out here: it can't be fitted to a target of kind 'classes'" in done.stdout
    assert "--probe lda is left out" not in done.stdout
    # What has no file among models is said too, as it is no failure.
    assert "models: 1 in results/models" in done.stdout
    assert "models: 1 others have none: a file holds one probe" in done.stdout
