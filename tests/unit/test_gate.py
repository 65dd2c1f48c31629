"""The gate stops on every kind of leak, names it, and lets through what the user allows or drops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from featprobe.errors import ConfigError, LeakError
from featprobe.imaging import print_of
from featprobe.records import Samples
from featprobe.splitting import LEAK_KINDS, find_leaks, gate


def picture(seed):
    rng = np.random.default_rng(seed)
    field = np.asarray(
        Image.fromarray(rng.normal(size=(12, 12)).astype(np.float32)).resize(
            (64, 64), Image.Resampling.BICUBIC
        )
    )
    return Image.fromarray((128 + 45 * field).clip(0, 255).astype(np.uint8)).convert("RGB")


def leaking():
    """One leak of each kind between train and test: rows 2 k and 2 k + 1."""
    images = [
        *(picture(n) for n in (1, 2)),  # one group
        *(picture(n) for n in (3, 4)),  # one case
        *(picture(n) for n in (5, 5)),  # equal bytes
        *(picture(n) for n in (6, 6)),  # equal pixels
        picture(7),
        ImageOps.mirror(picture(7)),  # near copies
        picture(8),
        picture(8).resize((40, 40)),  # near copies with two labels
    ]
    prints = [print_of(image) for image in images]
    groups = ["p", "p", *(f"q{n}" for n in range(10))]
    return Samples.build(
        path=[f"i{n:02d}" for n in range(12)],
        label=[0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1],
        label_names=("n", "y"),
        group=groups,
        case=["a", "b", "c", "c", *(f"d{n}" for n in range(8))],
        split=["train", "test"] * 6,
    ).replace(
        sha256=np.array([f"h{n // 2 if n in {4, 5} else n + 50}" for n in range(12)]),
        pixel_sha256=np.array([one.pixel_sha256 for one in prints]),
        phash=np.array([one.phash for one in prints]),
        thumbnail=np.stack([one.thumbnail for one in prints]),
    )


def test_every_kind_stops_and_is_counted():
    with pytest.raises(LeakError) as caught:
        gate(leaking(), resplit=False)
    text = str(caught.value)
    assert (
        "1 group, 1 case, 1 image (same bytes), 1 image (same pixels), 2 near copies, 1 image with two labels"
        in text
    )
    assert f"--allow-leaks {' '.join(LEAK_KINDS)}" in text
    assert "\n" not in text


@pytest.mark.parametrize("kind", LEAK_KINDS)
def test_one_kind_that_is_not_allowed_stops(kind):
    with pytest.raises(LeakError) as caught:
        gate(leaking(), resplit=False, allow=[other for other in LEAK_KINDS if other != kind])
    assert f"--allow-leaks {kind}" in str(caught.value)


def test_all_allowed_keeps_every_row_and_says_so():
    kept, notes = gate(leaking(), resplit=False, allow=LEAK_KINDS)
    assert len(kept) == 12
    assert "leaks allowed on request: 1 group, 1 case" in notes[0]
    assert "too optimistic" in notes[0]


def test_dropping_removes_the_training_copies_of_every_kind():
    kept, notes = gate(leaking(), resplit=False, drop=True)
    assert kept.split.tolist() == ["test"] * 6
    assert "2 near copies" in notes[0]
    assert "6 images removed" in notes[0]
    assert not find_leaks(kept)


def test_what_is_allowed_is_not_dropped():
    kept, notes = gate(leaking(), resplit=False, allow=["near", "label-conflict"], drop=True)
    assert kept.id.tolist() == ["i01", "i03", "i05", "i07", "i08", "i09", "i10", "i11"]
    assert len(notes) == 2


def test_resplit_warns_of_conflicts_and_hands_on_the_twins():
    kept, notes = gate(leaking(), resplit=True)
    assert notes == ("1 image with two labels: featprobe inspect names them",)
    assert kept.twin.tolist() == [""] * 8 + ["i08", "i08", "i10", "i10"]
    units = kept.units()
    assert units[8] == units[9]


def test_rows_without_any_target_take_no_part_for_every_task():
    samples = leaking()
    for task, label in (
        ("multilabel", np.full((12, 2), -1)),
        ("continuous", np.full(12, np.nan)),
        ("ordinal", np.full(12, -1)),
    ):
        names = ("age",) if task == "continuous" else samples.label_names
        unknown = samples.replace(task=task, label=label, label_names=names)
        assert gate(unknown, resplit=False)[1] == ()


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean near"):
        gate(leaking(), resplit=False, allow=["nearby"])
