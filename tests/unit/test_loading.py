from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from featprobe.datasets import open_dataset
from featprobe.datasets.base import FileDataset
from featprobe.datasets.stacks import SliceRule
from featprobe.errors import ConfigError, DataError
from featprobe.hashing import hash_images
from featprobe.loading import Batch, augment, batches, preprocess
from featprobe.records import Preprocessing, Samples

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = Preprocessing((24, 24), "crop", 28, "bicubic", MEAN, STD)
SQUASH = Preprocessing((16, 20), "squash", None, "bilinear", MEAN, STD)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def mixed(tmp_path: Path) -> FileDataset:
    """Eleven images of several sizes, three of them unreadable (rows 2, 5 and 6)."""
    names = [f"{row:02d}.{'jpg' if row % 2 else 'png'}" for row in range(11)]
    for row, name in enumerate(names):
        picture(30 + row, 50 - 3 * row, row).save(tmp_path / name)
    (tmp_path / names[2]).write_bytes(b"")
    (tmp_path / names[5]).write_bytes((tmp_path / names[5]).read_bytes()[:-200])
    (tmp_path / names[6]).write_text("a text file that is called .png")
    samples = Samples.build(path=names, label=[0, 1] * 5 + [0], label_names=("a", "b"))
    whole = np.full(len(names), -1, dtype=np.int64)
    return FileDataset("mixed", "manifest", samples, (), tmp_path, samples.path, whole, SliceRule())


def run(dataset: Any, rules: list[Preprocessing], size: int, workers: int = 0) -> list[Batch]:
    return list(batches(dataset, np.arange(len(dataset.samples)), rules, batch_size=size, workers=workers))


def joined(found: list[Batch]) -> tuple[Any, ...]:
    images = [torch.cat([batch.images[rule] for batch in found]) for rule in range(len(found[0].images))]
    return (
        np.concatenate([batch.rows for batch in found]).tolist(),
        [image.numpy().tobytes() for image in images],
        np.concatenate([batch.pixel_sha256 for batch in found]).tolist(),
        np.concatenate([batch.phash for batch in found]).tolist(),
        [entry for batch in found for entry in batch.quarantined],
    )


@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation"),
    [(224, 0.875, "bicubic"), (224, 0.875, "bilinear"), (64, 1.0, "bicubic"), (96, 0.95, "lanczos")],
)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 382), (333, 71), (28, 28), (40, 61)])
def test_crop_is_timms_own_transform_bit_for_bit(
    size: int, crop_pct: float, interpolation: str, height: int, width: int
) -> None:
    theirs = timm.data.create_transform(
        (3, size, size), interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop_pct, is_training=False
    )
    ours = Preprocessing((size, size), "crop", int(size / crop_pct), interpolation, MEAN, STD)
    image = picture(height, width)
    result = preprocess(image, ours)
    assert result.dtype == torch.float32
    assert torch.equal(result, theirs(image))


def plain(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(50, 100), (100, 50), (7, 7), (500, 3)])
def test_squash_and_pad_are_plain_pillow(height: int, width: int) -> None:
    image = picture(height, width)
    rule = Preprocessing((32, 48), "squash", None, "bicubic", MEAN, STD)
    squashed = image.resize((48, 32), Image.Resampling.BICUBIC)
    assert torch.equal(preprocess(image, rule), plain(squashed))

    rule = Preprocessing((40, 40), "pad", None, "bilinear", MEAN, STD, pad_value=9)
    long = max(height, width)
    inner = (max(round(width * 40 / long), 1), max(round(height * 40 / long), 1))
    canvas = Image.new("RGB", (40, 40), (9, 9, 9))
    corner = ((40 - inner[0]) // 2, (40 - inner[1]) // 2)
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
    assert torch.equal(preprocess(image, rule), plain(canvas))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": "bicubik"}, r"did you mean bicubic\?"),
        ({"fit": "stretch"}, "unknown fit 'stretch'.*crop, pad, squash"),
        ({"resize": None}, "no size to resize to"),
        ({"antialias": False}, "antialias"),
    ],
)
def test_a_preprocessing_that_can_not_be_done_is_refused(
    changes: dict[str, Any], words: str, mixed: FileDataset
) -> None:
    rule = dataclasses.replace(CROP, **changes)
    with pytest.raises(ConfigError, match=words):
        preprocess(picture(30, 30), rule)
    with pytest.raises(ConfigError, match=words):
        run(mixed, [rule], 4)


def test_a_batch_holds_what_one_image_at_a_time_gives(mixed: FileDataset) -> None:
    found = run(mixed, [CROP, SQUASH, CROP], 4)
    assert [batch.rows.tolist() for batch in found] == [[0, 1, 3], [4, 7], [8, 9, 10]]
    for batch in found:
        assert batch.rows.dtype == np.int64
        assert [tuple(image.shape) for image in batch.images] == [
            (len(batch.rows), 3, *rule.image_size) for rule in (CROP, SQUASH, CROP)
        ]
        for position, row in enumerate(batch.rows):
            image = Image.open(mixed.root / str(mixed.samples.path[row])).convert("RGB")
            assert torch.equal(batch.images[0][position], preprocess(image, CROP))
            assert torch.equal(batch.images[1][position], preprocess(image, SQUASH))
            assert torch.equal(batch.images[2][position], preprocess(image, CROP))
            header = f"{image.height}x{image.width}:".encode()
            assert batch.pixel_sha256[position] == hashlib.sha256(header + image.tobytes()).hexdigest()
            assert batch.phash[position] == str(imagehash.phash(image))


def test_unreadable_images_leave_their_batch_with_a_reason(mixed: FileDataset) -> None:
    reasons = dict(entry for batch in run(mixed, [CROP], 4) for entry in batch.quarantined)
    assert sorted(reasons) == [2, 5, 6]
    assert reasons[2] == "the file is empty"
    assert "truncated" in reasons[5]
    assert reasons[6] == "not an image that Pillow can identify"


def test_nothing_depends_on_batch_size_or_workers(mixed: FileDataset) -> None:
    expected = joined(run(mixed, [CROP, SQUASH], 11))
    for size, workers in [(1, 0), (3, 0), (4, 1), (2, 3)]:
        assert joined(run(mixed, [CROP, SQUASH], size, workers)) == expected


def test_a_batch_without_a_readable_image_is_empty(mixed: FileDataset) -> None:
    (batch,) = batches(mixed, np.array([6, 2]), [CROP], batch_size=2, workers=0)
    assert tuple(batch.images[0].shape) == (0, 3, 24, 24)
    assert (len(batch.rows), len(batch.phash), [row for row, _ in batch.quarantined]) == (0, 0, [6, 2])
    assert list(batches(mixed, np.array([], dtype=np.int64), [CROP], batch_size=2, workers=1)) == []


def test_only_the_rows_asked_for_are_loaded_in_their_order(mixed: FileDataset) -> None:
    found = batches(mixed, np.array([9, 0, 4]), [CROP], batch_size=2, workers=0)
    assert [batch.rows.tolist() for batch in found] == [[9, 0], [4]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_must_not_be_used_stops_with_its_name(mixed: FileDataset, workers: int) -> None:
    stream = io.BytesIO()
    pages = [Image.fromarray(np.full((8, 8), level, dtype=np.uint8)) for level in (40, 50)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    (mixed.root / "04.png").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match=r"^04\.png: .*pages") as caught:
        run(mixed, [CROP], 2, workers)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_has_gone_stops(mixed: FileDataset, workers: int) -> None:
    (mixed.root / "04.png").unlink()
    with pytest.raises(DataError, match=r"04\.png of mixed is no longer there"):
        run(mixed, [CROP], 2, workers)


def test_workers_end_when_the_reader_stops_early(mixed: FileDataset) -> None:
    stream = batches(mixed, np.arange(11), [CROP], batch_size=1, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def _lock_and_load(dataset: FileDataset, path: Path, started: Any) -> None:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        found = batches(dataset, np.arange(11), [CROP], batch_size=1, workers=1)
        next(found)
        started.set()
        time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers do not inherit open files")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_reader_leaves_no_worker_that_holds_its_lock(mixed: FileDataset, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, path = context.Event(), tmp_path / "lock"
    reader = context.Process(target=_lock_and_load, args=(mixed, path, started))
    reader.start()
    assert started.wait(30)
    reader.kill()
    reader.join()
    time.sleep(0.5)
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    reader.close()


def test_hashes_are_of_the_bytes_and_empty_where_there_are_none(
    mixed: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = FileDataset.read

    def failing(self: FileDataset, row: int) -> bytes:
        if row == 3:
            raise PermissionError(13, "Permission denied", "somewhere")
        return read(self, row)

    monkeypatch.setattr(FileDataset, "read", failing)
    expected = [hashlib.sha256((mixed.root / path).read_bytes()).hexdigest() for path in mixed.samples.path]
    expected[3] = ""
    for workers in (1, 3):
        assert hash_images(mixed, workers=workers, progress=False).tolist() == expected
    found = run(mixed, [CROP], 4)[0]
    assert (3, "Permission denied") in found.quarantined


def test_hashing_stops_at_a_file_that_has_gone(mixed: FileDataset) -> None:
    (mixed.root / "04.png").unlink()
    with pytest.raises(DataError, match="no longer there"):
        hash_images(mixed, workers=2, progress=False)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_augmentation_follows_its_generator(fit: str) -> None:
    rule = Preprocessing((20, 24), fit, 24, "bilinear", MEAN, STD)
    image = picture(60, 44)

    def views(seed: int, *, flip: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([augment(image, rule, generator, flip=flip) for _ in range(8)])

    first = views(0, flip=True)
    torch.manual_seed(99)
    assert torch.equal(first, views(0, flip=True))
    assert not torch.equal(first, views(1, flip=True))
    assert first.shape == (8, 3, 20, 24)
    assert first.dtype == torch.float32
    assert len({view.numpy().tobytes() for view in first}) == 8
    straight = views(0, flip=False)
    mirrored = sum(torch.equal(a.flip(-1), b) for a, b in zip(first, straight, strict=True))
    kept = sum(torch.equal(a, b) for a, b in zip(first, straight, strict=True))
    assert mirrored + kept == 8
    assert mirrored > 0
    assert kept > 0


def test_augmentation_keeps_most_of_the_image() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    rule = Preprocessing((64, 64), "crop", 64, "bilinear", (0.0,) * 3, (1.0,) * 3)
    generator = torch.Generator().manual_seed(0)
    spans = [augment(ramp, rule, generator, flip=False)[0, 32] for _ in range(50)]
    widths = torch.stack([span[-1] - span[0] for span in spans])
    # A crop of 75 % of the area is at least 0.75 of the width; contrast may take 10 % more, brightness 10 %.
    assert widths.min() > 0.75 * 0.9 * 0.9 * 0.95
    assert widths.std() > 0.02


@pytest.mark.shared
def test_real_images_load_alike_with_and_without_a_worker() -> None:
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not shared.is_dir():
        pytest.skip("the shared folder of real images is missing")
    data = open_dataset(str(shared / "fundus" / "labels.csv"))
    rows = np.arange(0, 600, 50)
    one, other = (list(batches(data, rows, [CROP], batch_size=5, workers=count)) for count in (0, 1))
    assert joined(one) == joined(other)
    assert sum(len(batch.rows) for batch in one) == 12


def test_turning_images_upside_down_or_round_happens_only_where_asked_for() -> None:
    rows = np.zeros((40, 40, 3), dtype=np.uint8)
    rows[:20] = 255  # an image with an up
    image, rule = Image.fromarray(rows), dataclasses.replace(SQUASH, image_size=(16, 16))

    def up(seed: int, **moves: float) -> float:
        view = augment(image, rule, torch.Generator().manual_seed(seed), flip=True, **moves)
        return float(view[:, :8].mean() - view[:, 8:].mean())

    assert all(up(seed) > 0 for seed in range(12))
    turned = [up(seed, vertical_flip=True) for seed in range(12)]
    assert min(turned) < 0 < max(turned)
    assert turned == [up(seed, vertical_flip=True) for seed in range(12)]
    plain, rotated = (
        augment(image, rule, torch.Generator().manual_seed(3), flip=False, rotate=degrees)
        for degrees in (0.0, 20.0)
    )
    assert not torch.equal(plain, rotated)
    assert torch.equal(plain, augment(image, rule, torch.Generator().manual_seed(3), flip=False))
