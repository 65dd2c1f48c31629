"""Near copies: what is found, what is not, and that a crowd neither explodes nor falls apart."""

from __future__ import annotations

import time

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps

from featprobe.imaging import print_of
from featprobe.records import Samples
from featprobe.splitting import NEAR_DISTANCE, near_copies, thumbnails, with_twins
from featprobe.splitting.near import distances


def picture(seed, size=(96, 80), contrast=45.0):
    """A smooth random picture: every seed is another patient."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(14, 12))
    field = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray((128 + contrast * field).clip(0, 255).astype(np.uint8)).convert("RGB")


def made(pictures, **columns):
    prints = [print_of(image) for image in pictures]
    return Samples.build(
        path=[f"i{n:05d}" for n in range(len(prints))],
        label=np.zeros(len(prints), dtype=int),
        label_names=("a",),
        **columns,
    ).replace(
        pixel_sha256=np.array([one.pixel_sha256 for one in prints]),
        phash=np.array([one.phash for one in prints]),
        thumbnail=np.stack([one.thumbnail for one in prints]),
    )


def drawn(thumbnail):
    """Samples straight from thumbnails."""
    count = len(thumbnail)
    return Samples.build(
        path=[f"i{n:06d}" for n in range(count)], label=np.zeros(count, dtype=int), label_names=("a",)
    ).replace(phash=np.full(count, "0"), thumbnail=thumbnail)


def levels(image, factor, offset):
    return Image.fromarray(
        (np.asarray(image, dtype=float) * factor + offset).round().clip(0, 255).astype(np.uint8)
    )


COPIES = {
    "resized": lambda image: image.resize((48, 40)),
    "mirrored": ImageOps.mirror,
    "darker": lambda image: levels(image, 0.8, 0),
    "brighter until it clips": lambda image: levels(image, 1.2, 20),
    "mirrored and darker": lambda image: levels(ImageOps.mirror(image), 0.85, 0),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_found_among_strangers(change):
    samples = made([picture(0), *(picture(n) for n in range(2, 30)), change(picture(0))])
    found = near_copies(samples)
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [(0, 29)]
    assert 0 <= found.distance[0] < NEAR_DISTANCE


def test_strangers_are_none():
    assert not len(near_copies(made([picture(n) for n in range(60)])).left)


@pytest.mark.parametrize("turned", [lambda image: image.rotate(180), ImageOps.flip, ImageOps.invert])
def test_upside_down_and_negative_are_other_images(turned):
    assert not len(near_copies(made([picture(1), turned(picture(1))])).left)


def test_rows_of_one_unit_are_no_pair():
    images = [picture(1), COPIES["resized"](picture(1)), COPIES["mirrored"](picture(1))]
    assert not len(near_copies(made(images, group=["p", "p", "p"])).left)
    found = near_copies(made(images, group=["p", "p", "q"]))
    assert sorted(found.right.tolist()) == [2, 2]
    assert len(near_copies(made([picture(1), picture(1)])).left) == 0, "equal pixels are no near copies"


def test_images_of_low_content_take_no_part():
    faint = [picture(1, contrast=1.0), levels(picture(1, contrast=1.0), 1, 1)]
    assert not len(near_copies(made(faint)).left)
    blank = made([picture(1), COPIES["resized"](picture(1))])
    assert not len(near_copies(blank.replace(phash=np.array(["", ""]))).left)


def test_without_thumbnails_nothing_is_found_and_nothing_fails():
    bare = Samples.build(path=["a", "b"], label=[0, 0], label_names=("x",))
    assert not len(near_copies(bare).left)
    assert with_twins(bare).twin.tolist() == ["", ""]
    assert len(near_copies(bare.take([])).left) == 0


def test_twins_carry_the_first_id_of_all_that_are_linked():
    images = [
        picture(3),
        picture(1),
        COPIES["mirrored"](picture(1)),
        COPIES["darker"](picture(1)),
        picture(2),
    ]
    assert with_twins(made(images)).twin.tolist() == ["", "i00001", "i00001", "i00001", ""]
    units = with_twins(made(images)).units()
    assert len(set(units[[1, 2, 3]].tolist())) == 1
    assert len(set(units.tolist())) == 3


def test_the_hash_is_imagehash_s_own_also_of_the_mirror_image():
    for seed in range(30):
        image = picture(seed)
        signs = thumbnails.Signs.of(print_of(image).thumbnail[None])
        assert f"{signs.phash[0]:016x}" == str(imagehash.phash(image)) == print_of(image).phash
        assert f"{signs.phash_mirrored[0]:016x}" == str(imagehash.phash(ImageOps.mirror(image)))


def test_the_bits_of_detail_turn_with_the_image():
    thumbnail = np.stack([print_of(picture(seed)).thumbnail for seed in range(20)])
    straight = thumbnails.Signs.of(thumbnail).detail
    turned = thumbnails.Signs.of(thumbnails.mirrored(thumbnail)).detail
    assert np.bitwise_count(straight ^ turned ^ thumbnails.ODD_BITS).sum(axis=1).max() <= 2, (
        "but for rounding"
    )


def test_correlation_ignores_affine_changes_and_clipped_pixels():
    image = print_of(picture(5)).thumbnail.astype(float)
    changed = np.stack([image * 0.5 + 40, image * 1.2, image - 60]).round().clip(0, 255).astype(np.uint8)
    original = np.repeat(print_of(picture(5)).thumbnail[None], 3, axis=0)
    assert thumbnails.correlation(original, changed).min() > 0.95
    assert thumbnails.correlation(original, original) == pytest.approx(1)
    black = np.zeros_like(original)
    assert thumbnails.correlation(original, black).tolist() == [0, 0, 0]


def test_distances_take_the_nearer_handedness():
    samples = made([picture(1), COPIES["mirrored"](picture(1)), picture(2)])
    near, far = distances(samples, np.array([0, 0]), np.array([1, 2])).tolist()
    assert near < 0.01
    assert far > 0.5


def test_a_crowd_of_copies_is_joined_without_listing_all_pairs():
    rng = np.random.default_rng(0)
    one = print_of(picture(1)).thumbnail.astype(int)
    crowd = (one + rng.integers(-2, 3, size=(3000, len(one)))).clip(0, 255).astype(np.uint8)
    began = time.perf_counter()
    found = near_copies(drawn(crowd))
    assert time.perf_counter() - began < 60
    assert len(found.left) < 20 * len(crowd)
    assert len(set(with_twins(drawn(crowd)).twin.tolist())) == 1


def test_equal_thumbnails_of_other_pixels_are_linked_once():
    thumbnail = np.repeat(print_of(picture(1)).thumbnail[None], 500, axis=0)
    found = near_copies(drawn(thumbnail))
    assert len(found.left) == 499
    assert found.distance.max() == 0
