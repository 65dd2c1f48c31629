"""What fine-tuning does not do is refused in one line that names it, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from featprobe.config import FinetuneConfig
from featprobe.errors import ConfigError
from featprobe.options import from_mapping

SMALL = ("--data", "images", "--out", "out", "--epochs", "1", "--folds", "2", "--resamples", "50")
ViT = ("--backbone", "vit_tiny_patch16_224", "--weights", "random")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--layer", "last4"), "finetune has no --layer; it trains the backbone's last features alone"),
        (("--tta", "hflip"), "finetune has no --tta; a trained model judges the plain view alone"),
        (("--image-size", "32", "48"), "--image-size 32 48: fine-tuning takes one image size"),
        (
            ("--slices", "volume"),
            "efficientnet_lite0 takes flat images, and --slices volume gives whole volumes",
        ),
        (("--backbone", "medicalnet_resnet10"), "medicalnet_resnet10 takes whole volumes"),
        ((*ViT, "--image-size", "40"), "can't take images of 40 x 40 pixels"),
    ],
)
def test_what_it_does_not_do_is_named(
    flags: tuple[str, ...], said: str, quick_featprobe, image_folder: Path, tmp_path: Path
) -> None:
    done = quick_featprobe("finetune", *SMALL, *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert not list(tmp_path.rglob("checkpoints"))
    assert image_folder.is_dir()


def test_a_study_says_the_same() -> None:
    with pytest.raises(ConfigError, match="finetune has no --tta"):
        from_mapping(FinetuneConfig, {"tta": ["hflip"]}, "[finetune]")
    with pytest.raises(ConfigError, match="it takes one value, int"):
        from_mapping(FinetuneConfig, {"image-size": [32, 48]}, "[finetune]")


def test_another_image_size_is_trained_from_random_weights(quick_featprobe, image_folder: Path) -> None:
    done = quick_featprobe("finetune", *SMALL, *ViT, "--image-size", "32", "--mode", "full")
    assert done.returncode == 0, done.stderr
    assert image_folder.is_dir()


def test_training_that_fails_leaves_no_empty_folder(
    quick_featprobe, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, checkpoint_dir: Path, **__: object) -> None:
        checkpoint_dir.mkdir(parents=True)
        raise ConfigError("a setting that can't be followed")

    monkeypatch.setattr("featprobe.heads.training.train_fold", failing)
    done = quick_featprobe("finetune", *SMALL, *ViT, "--image-size", "32")
    assert done.returncode == 2
    assert not list(tmp_path.rglob("checkpoints"))
    assert (tmp_path / "out").is_dir()
    assert image_folder.is_dir()
