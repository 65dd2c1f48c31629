"""TorchXRayVision's networks: the library's features and logits, its pixel scale, and nothing of its side effects."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featprobe import backbones
from featprobe.backbones.core.create import create
from featprobe.backbones.core.survey import survey
from featprobe.backbones.xrayvision import _ENTRIES, FINDINGS, conversion, library_models
from featprobe.errors import BackboneError, MissingExtraError
from featprobe.registry import BACKBONES

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None, reason="the extra xrayvision is not installed"
)

BOUND = 1e-6
NAMES = BACKBONES.get("xrayvision").names()
DENSENET, RESNET = "xrv_densenet121_all", "xrv_resnet50_all"


@pytest.fixture(scope="module")
def models() -> Any:
    return library_models()


def busy(network: torch.nn.Module) -> torch.nn.Module:
    """`network` with batch norms that do something, as after training."""
    generator = torch.Generator().manual_seed(8)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def radiographs(side: int) -> torch.Tensor:
    """[2, 1, side, side] on the library's scale of -1024 to 1024."""
    return (torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1) * 1024


def assert_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert wanted.norm() > 0
    assert (found - wanted).norm() <= BOUND * wanted.norm()


def test_densenet_gives_the_librarys_features_and_logits(
    models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = busy(models.DenseNet())
    theirs.input_resolution = 224
    torch.save({**theirs.state_dict(), "op_threshs": torch.zeros(18)}, tmp_path / "state.pth")
    ours = backbones.load(DENSENET, weights=str(tmp_path / "state.pth"), poolings=("gap", "logits"))
    grey = radiographs(224)
    keys = ("gap", "pre_logits", "logits", "patches")
    with torch.inference_mode():
        found = ours(grey.expand(-1, 3, -1, -1), keys)
        assert not capsys.readouterr().out
        assert_equal(found["gap"], theirs.features2(grey))
        assert_equal(found["pre_logits"], theirs.features2(grey))
        assert_equal(found["logits"], theirs(grey))
        wanted = theirs.features(grey).relu()
    assert_equal(found["patches"], wanted.permute(0, 2, 3, 1))
    assert ours.missing == ours.unexpected == ()


def test_resnet_gives_the_librarys_features_and_logits(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(weights: str, cache_dir: str | None) -> str:
        del weights, cache_dir
        from torchvision.models import resnet50

        network = resnet50(num_classes=18, weights=None)
        network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        torch.save(busy(network).state_dict(), tmp_path / "state.pt")
        return str(tmp_path / "state.pt")

    monkeypatch.setattr(models, "get_weights", published)
    theirs = models.ResNet(weights="resnet50-res512-all")
    theirs.op_threshs = None
    torch.save(theirs.state_dict(), tmp_path / "class.pth")
    grey = radiographs(512)[:1]
    ours = backbones.load(RESNET, weights=str(tmp_path / "state.pt"), poolings=("gap", "logits"))
    with torch.inference_mode():
        found = ours(grey.expand(-1, 3, -1, -1), ("gap", "logits"))
        assert_equal(found["gap"], theirs.features(grey))
        assert_equal(found["logits"], theirs(grey))
    again = backbones.load(RESNET, weights=str(tmp_path / "class.pth"), poolings=("gap", "logits"))
    assert again.weights_sha256 == ours.weights_sha256


def test_colours_are_averaged_as_the_library_reads_them() -> None:
    backbone = backbones.load(DENSENET, weights="random", image_size=64)
    colour = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(6)) * 300
    grey = colour.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert_equal(backbone(colour, ("gap",))["gap"], backbone(grey, ("gap",))["gap"])


def test_pixels_are_on_the_librarys_scale(models: Any) -> None:
    levels = np.arange(256)
    wanted = models.utils.normalize(levels, 255)
    for name in NAMES:
        rule = backbones.describe(name).rules["native"]
        assert np.allclose((levels / 255 - rule.mean[0]) / rule.std[0], wanted, atol=1e-3)
        assert rule == backbones.describe(name).rules["authors"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_is_what_the_library_says(name: str, models: Any) -> None:
    entry, info = _ENTRIES[name], backbones.describe(name)
    theirs = models.model_urls[entry.theirs]
    place = info.files[0].places[0]
    assert (place.kind, place.where, place.folder) == ("url", theirs["weights_url"], "xrv")
    assert tuple(models.DenseNet.targets) == FINDINGS
    assert {label for label in theirs["labels"] if label} == entry.trained
    assert info.rules["native"].image_size == (theirs["input_resolution"],) * 2
    facts = survey(info.architecture)
    assert info.poolings == facts.poolings
    assert facts.dims["logits"] == len(FINDINGS)
    assert all(pooling in info.poolings for pooling in ("gap", "gem", "patches"))
    assert "resnet" in name or conversion(name) in " ".join(info.notes)


def home_with(file: Any, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """`file` where the library would have downloaded the weights of `name`."""
    monkeypatch.setenv("HOME", str(home))
    folder = home / ".torchxrayvision" / "models_data"
    folder.mkdir(parents=True)
    torch.save(file, folder / _ENTRIES[name].file, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_pickled_densenet_is_refused_and_converted(
    zipped: bool, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "xrv_densenet121_rsna"
    theirs = busy(models.DenseNet())
    home_with(theirs, name, tmp_path, monkeypatch, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BackboneError, match=r"is refused.*torch\.save\(xrv\.models\.DenseNet") as caught:
        backbones.load(name, offline=True)
    assert conversion(name) in caught.value.next_step
    assert f"--weights {name}={name}.pth" in caught.value.next_step

    asked = []
    monkeypatch.setattr(models, "DenseNet", lambda weights: asked.append(weights) or theirs)
    monkeypatch.chdir(tmp_path)
    python, flag, code = shlex.split(conversion(name))
    assert (python, flag) == ("python", "-c")
    exec(compile(code, "conversion", "exec"), {})  # noqa: S102 - the command that users are told to type
    assert asked == ["densenet121-res224-rsna"]
    monkeypatch.undo()
    loaded = backbones.load(name, weights=str(tmp_path / f"{name}.pth"), image_size=64)
    assert torch.equal(loaded.model.state_dict()["features.conv0.weight"], theirs.features.conv0.weight)


def test_the_published_resnet_is_found_where_the_library_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = create("xrv:resnet50").state_dict()
    home_with(state, RESNET, tmp_path, monkeypatch)
    loaded = backbones.load(RESNET, offline=True, image_size=64)
    assert loaded.weights_label == "pretrained"
    assert torch.equal(loaded.model.state_dict()["fc.weight"], state["fc.weight"])


def test_warnings_stay_as_they_were() -> None:
    code = (
        "import warnings, torch, timm; from featprobe import backbones\n"
        "before = list(warnings.filters)\n"
        f"backbones.load({DENSENET!r}, weights='random', image_size=64)\n"
        "import sys; assert 'torchxrayvision' in sys.modules\n"
        "print(warnings.filters == before)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "True"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    survey.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchxrayvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    for name in NAMES:
        assert backbones.describe(name).family == "xrayvision"
    asked: tuple[Any, ...] = (
        lambda: backbones.describe(DENSENET, deep=True),
        lambda: backbones.load(DENSENET, weights="random"),
    )
    for ask in asked:
        with pytest.raises(MissingExtraError, match=r"torchxrayvision.*featprobe\[xrayvision\]"):
            ask()
    # The library's class of the ResNet is torchvision's network, which is always there.
    assert backbones.describe(RESNET, deep=True).dims["gap"] == 2048
    with pytest.raises(BackboneError, match="none of the known networks"):
        create("xrv:resnet101")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(create("xrv:resnet50").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(BackboneError, match="does not fit xrv_densenet121_nih"):
        backbones.load("xrv_densenet121_nih", weights=str(tmp_path / "resnet.pth"))
