"""TorchXRayVision's chest X-ray classifiers: DenseNet-121 on seven sets of images and ResNet-50 on five together.

Cohen et al., TorchXRayVision: A library of chest X-ray datasets and models, MIDL 2022 (arXiv 2111.00595); weights and
pixel scale as in its code (github.com/mlmed/torchxrayvision).
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import (
    MAP_POOLINGS,
    PRETRAINED,
    BackboneInfo,
    LoadRequest,
    Place,
    WeightsFile,
)
from featprobe.backbones.core.places import unusable
from featprobe.backbones.core.rules import HALF, crop, with_common
from featprobe.errors import BackboneError, MissingExtraError
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.assemble import Tensors
    from featprobe.backbones.core.model import Backbone
    from featprobe.backbones.core.trunk import Trunk

PREFIX: Final = "xrv"
FINDINGS: Final = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis"),
    *("Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia"),
    *("Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
)
"""What the logits are of, in their order."""

_RELEASE: Final = "https://github.com/mlmed/torchxrayvision/releases/download/v1"
_DENSENET_FILE: Final = "densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
# Grey values of 0 to 1 become -1024 to 1024, the scale of the library's `normalize`.
_STD: Final = (1 / 2048,) * 3
_CHEXPERT: Final = frozenset(FINDINGS) - {
    *("Infiltration", "Emphysema", "Fibrosis", "Pleural_Thickening", "Nodule", "Mass", "Hernia"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """`theirs`: the library's name of the weights; `trained`: the findings that the weights were trained for."""

    architecture: str
    theirs: str
    file: str
    data: str
    size: int = 224
    trained: frozenset[str] = frozenset(FINDINGS)


def _densenet(theirs: str, file: str, data: str, trained: frozenset[str] = frozenset(FINDINGS)) -> _Entry:
    return _Entry(
        architecture="densenet121",
        theirs=f"densenet121-res224-{theirs}",
        file=f"{file}-{_DENSENET_FILE}",
        data=data,
        trained=trained,
    )


_ENTRIES: Final = {
    "xrv_densenet121_all": _densenet(
        "all",
        "nih-pc-chex-mimic_ch-google-openi-kaggle",
        "NIH, PadChest, CheXpert, MIMIC-CXR, Google, OpenI and RSNA",
    ),
    "xrv_densenet121_nih": _densenet(
        "nih", "nih", "NIH ChestX-ray14", frozenset(FINDINGS[: FINDINGS.index("Lung Lesion")])
    ),
    "xrv_densenet121_pc": _densenet(
        "pc",
        "pc",
        "PadChest",
        frozenset(FINDINGS) - {"Lung Lesion", "Lung Opacity", "Enlarged Cardiomediastinum"},
    ),
    "xrv_densenet121_chex": _densenet("chex", "chex", "CheXpert", _CHEXPERT),
    "xrv_densenet121_mimic_nb": _densenet("mimic_nb", "mimic_nb", "MIMIC-CXR, labels by NegBio", _CHEXPERT),
    "xrv_densenet121_mimic_ch": _densenet(
        "mimic_ch", "mimic_ch", "MIMIC-CXR, labels by CheXpert's labeller", _CHEXPERT
    ),
    "xrv_densenet121_rsna": _densenet(
        "rsna", "kaggle", "the RSNA Pneumonia Challenge", frozenset({"Pneumonia", "Lung Opacity"})
    ),
    "xrv_resnet50_all": _Entry(
        architecture="resnet50",
        theirs="resnet50-res512-all",
        file="pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
        data="PadChest, NIH, RSNA, SIIM-ACR and VinDr-CXR",
        size=512,
    ),
}


class XRayVision(Curated):
    """`xrv_densenet121_{all,nih,pc,chex,mimic_nb,mimic_ch,rsna}` and `xrv_resnet50_all`."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The registered names."""
        return tuple(_ENTRIES)

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The first layer takes one channel; what the seven DenseNets were trained on can't be told from shapes."""
        return {
            "xrv_densenet121_all": {"features.conv0.weight": (64, 1, 7, 7)},
            "xrv_resnet50_all": {"conv1.weight": (64, 1, 7, 7)},
        }

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        entry = _ENTRIES[name]
        native = crop(entry.size, entry.size, interpolation="bilinear", mean=HALF, std=_STD)
        place = Place(kind="url", where=f"{_RELEASE}/{entry.file}", folder="xrv")
        return BackboneInfo(
            name=name,
            family="xrayvision",
            architecture=f"{PREFIX}:{entry.architecture}",
            licence="Apache-2.0; the sets of images that it was trained on have terms of their own",
            citation="Cohen et al., TorchXRayVision: A library of chest X-ray datasets and models, MIDL 2022 "
            "(arXiv 2111.00595)",
            weights_source=f"{_RELEASE}/{entry.file} ({entry.data})",
            poolings=(*MAP_POOLINGS, "logits"),
            default_pooling="gap",
            # The library's XRayCenterCrop and XRayResizer: the central square, resized.
            rules=with_common({"native": native, "authors": native}),
            notes=_notes(name, entry),
            files=(WeightsFile(places=(place,)),),
            conversion=conversion(name) if entry.architecture == "densenet121" else "",
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights; MissingExtraError for a DenseNet without torchxrayvision."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        blueprint = Blueprint(info=self.describe(name), numerics=self.numerics, rename=without_thresholds)
        try:
            return assemble(blueprint, request)
        except BackboneError as error:
            if " is refused: " in error.wrong and _ENTRIES[name].architecture == "densenet121":
                where = f"{name}={name}.pth" if request.weights == PRETRAINED else f"{name}=FILE"
                step = (
                    f"where its source is trusted, type once: {conversion(name)}, and then --weights {where}"
                )
                raise BackboneError(error.wrong, error.known, step) from error
            if error.wrong.endswith("are not on this machine") and self.info(name).conversion:
                raise unusable(self.info(name), error.wrong) from error
            raise


def conversion(name: str) -> str:
    """The command that turns the published file of a DenseNet, a pickled program, into a state dict NAME.pth."""
    model = f"xrv.models.DenseNet(weights='{_ENTRIES[name].theirs}')"
    return (
        f"python -c \"import torch, torchxrayvision as xrv; torch.save({model}.state_dict(), '{name}.pth')\""
    )


def _notes(name: str, entry: _Entry) -> tuple[str, ...]:
    trained = [finding for finding in FINDINGS if finding in entry.trained]
    whole = len(trained) == len(FINDINGS)
    notes = [
        "takes one channel: the mean of the three, from -1024 to 1024",
        f"logits: {len(FINDINGS)} findings ({', '.join(FINDINGS)}), neither sigmoid nor thresholds"
        + ("" if whole else f"; trained for {', '.join(trained)} alone"),
        f"the library brings every image to {entry.size} pixels with scikit-image; here Pillow's bilinear filter does",
    ]
    if entry.architecture == "densenet121":
        notes.append(
            "the published file is a pickled program and is refused; convert it once on a machine where it is trusted: "
            f"{conversion(name)}, and then --weights {name}={name}.pth"
        )
    return tuple(notes)


def without_thresholds(tensors: Tensors) -> Tensors:
    """`tensors` without the operating points, which calibrate probabilities and belong to no embedding."""
    return {name: tensor for name, tensor in tensors.items() if name != "op_threshs"}


@creator(PREFIX)
def build_trunk(name: str) -> Trunk:
    """The network `name` behind the names that featprobe uses. MissingExtraError without torchxrayvision."""
    builders = {"densenet121": _densenet_trunk, "resnet50": _resnet_trunk}
    if name not in builders:
        raise BackboneError(
            f"TorchXRayVision's {name!r} is none of the known networks",
            f"known: {', '.join(builders)}",
            "see featprobe backbones ls",
        )
    return builders[name]()


def library_models() -> Any:
    """`torchxrayvision.models`, imported so that it can't switch Python's warnings off for the whole process."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchxrayvision import models
    except ImportError as error:
        raise MissingExtraError("TorchXRayVision's DenseNet", "torchxrayvision", "xrayvision") from error
    return models


def _densenet_trunk() -> Trunk:
    """The library's DenseNet without its resizing, its printed warnings and its sigmoid."""
    models = library_models()
    from torch.nn import functional

    from featprobe.backbones.core.trunk import Trunk

    class DenseNet(Trunk):
        """[B, 3, H, W] -> [B, 1024, H/32, W/32]."""

        num_features = 1024
        num_classes = len(FINDINGS)
        feature_info = tuple({"module": f"features.denseblock{number}"} for number in range(1, 5))

        def __init__(self) -> None:
            super().__init__((3, 224, 224), fixed=False, classifier=("classifier",))
            net = models.DenseNet(num_classes=len(FINDINGS), in_channels=1)
            self.features, self.classifier = net.features, net.classifier

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return functional.relu(self.features(images.mean(dim=1, keepdim=True)))

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            pooled = features.mean(dim=(2, 3))
            logits: torch.Tensor = pooled if pre_logits else self.classifier(pooled)
            return logits

    return DenseNet()


def _resnet_trunk() -> Trunk:
    """Torchvision's ResNet-50 of one channel, as the library's class makes it after downloading its weights."""
    from torch import nn
    from torchvision.models import resnet50

    from featprobe.backbones.core.trunk import Trunk

    class ResNet(Trunk):
        """[B, 3, H, W] -> [B, 2048, H/32, W/32]."""

        num_features = 2048
        num_classes = len(FINDINGS)
        feature_info = tuple({"module": f"layer{number}"} for number in range(1, 5))

        def __init__(self) -> None:
            super().__init__((3, 512, 512), fixed=False, classifier=("fc",))
            net = resnet50(num_classes=len(FINDINGS), weights=None)
            net.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
            self.stages = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
            for child in (*self.stages, "fc"):
                self.add_module(child, getattr(net, child))

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            values = images.mean(dim=1, keepdim=True)
            for stage in self.stages:
                values = self.get_submodule(stage)(values)
            return values

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            pooled = features.mean(dim=(2, 3))
            logits: torch.Tensor = pooled if pre_logits else self.get_submodule("fc")(pooled)
            return logits

    return ResNet()


BACKBONES.register("xrayvision")(XRayVision())
