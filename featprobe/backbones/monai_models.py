"""3-D backbones for whole volumes, built by MONAI: MedicalNet's residual networks and Swin UNETR's encoder.

Chen, Ma and Zheng, Med3D, 2019 (arXiv 1904.00625), and the code published with it; Tang et al., Self-Supervised
Pre-Training of Swin Transformers for 3D Medical Image Analysis, CVPR 2022 (arXiv 2111.14791).

A volume comes as [depth, height, width]: of NIfTI files from inferior to superior, anterior to posterior and the
patient's right to left.
"""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import DENSE, MAP_POOLINGS, BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.errors import BackboneError, MissingExtraError
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.assemble import Tensors
    from featprobe.backbones.core.model import Backbone
    from featprobe.backbones.core.trunk import Trunk

PREFIX: Final = "monai"

_GREY: Final = "one, grey"
_SWINVIT: Final = "swinunetr_swinvit"
_SWINVIT_FILE: Final = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/model_swinvit.pt"
)
_SWIN_WIDTH: Final = 48

# Depth -> kind of shortcut, a tensor that tells it apart and that tensor's shape. What MONAI says of the published files.
_RESNETS: Final = {
    10: ("B", "layer4.0.downsample.0.weight", (512, 256, 1, 1, 1)),
    18: ("A", "layer4.1.conv2.weight", (512, 512, 3, 3, 3)),
    34: ("A", "layer3.5.conv2.weight", (256, 256, 3, 3, 3)),
    50: ("B", "layer4.2.conv3.weight", (2048, 512, 1, 1, 1)),
}
_RESNET_NAMES: Final = {f"medicalnet_resnet{depth}": depth for depth in _RESNETS}
_DILATIONS: Final = {"layer3": 2, "layer4": 4}
_RESNET_NOTES: Final = (
    "takes whole volumes: --slices volume",
    "as in its authors' code, layers 3 and 4 are dilated instead of strided (MONAI's own ResNet strides)",
    "its authors feed z-scores of the voxels that are not 0: --intensity zscore-nonzero:3 gives them, cut at 3",
    "its authors replace voxels of value 0 by noise, and resize to the nearest voxel; featprobe does neither",
)
_SWIN_NOTES: Final = (
    "takes whole volumes: --slices volume",
    "its authors scale -1000 to 1000 HU to 0 to 1: --intensity range:-1000:1000 does so",
    "trained on cubes of 96 voxels of 1.5 x 1.5 x 2 mm; featprobe scales the whole volume to such a cube",
    "the volume is turned into its authors' frame (right, anterior, superior), which wants --axis axial",
)


def _rule(depth: int, side: int, mean: float, std: float) -> Preprocessing:
    """Every axis resized to its side of the input."""
    return Preprocessing(
        image_size=(side, side),
        fit="squash",
        resize=None,
        interpolation="trilinear",
        mean=(mean,),
        std=(std,),
        channels=_GREY,
        depth=depth,
    )


class Monai(Curated):
    """MedicalNet's ResNets and the self-supervised encoder of Swin UNETR."""

    numerics = 1
    prefix = PREFIX

    def names(self) -> tuple[str, ...]:
        """The registered names."""
        return (*_RESNET_NAMES, _SWINVIT)

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Name -> a tensor that tells it apart from the others."""
        tells: dict[str, dict[str, tuple[int, ...]]] = {
            name: {_RESNETS[depth][1]: _RESNETS[depth][2]} for name, depth in _RESNET_NAMES.items()
        }
        return {**tells, _SWINVIT: {"layers4.0.downsample.reduction.weight": (768, 3072)}}

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        return _swinvit() if name == _SWINVIT else _medicalnet(name)

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights; MissingExtraError without MONAI."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        info = self.describe(name)
        rename = monai_names if info.name == _SWINVIT else None
        return assemble(Blueprint(info=info, numerics=self.numerics, rename=rename), request)


def _medicalnet(name: str) -> BackboneInfo:
    depth = _RESNET_NAMES[name]
    repository = f"TencentMedicalNet/MedicalNet-Resnet{depth}"
    place = Place(kind="hub", where=repository, files=(f"resnet_{depth}_23dataset.pth",))
    return _info(
        name,
        licence="MIT",
        citation="Chen, Ma and Zheng, Med3D: Transfer Learning for 3D Medical Image Analysis, 2019 (arXiv 1904.00625)",
        source=f"hub: {repository} (segmentation of 23 medical data sets)",
        native=_rule(56, 448, 0.5, 1 / 6),
        place=place,
        notes=_RESNET_NOTES,
    )


def _swinvit() -> BackboneInfo:
    return _info(
        _SWINVIT,
        licence="Apache-2.0",
        citation="Tang et al., Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis, CVPR 2022 "
        "(arXiv 2111.14791)",
        source="MONAI's release 0.8.1 of extra test data at github.com (5,050 CT volumes)",
        native=_rule(96, 96, 0.0, 1.0),
        place=Place(kind="url", where=_SWINVIT_FILE),
        notes=_SWIN_NOTES,
    )


def _info(
    name: str,
    *,
    licence: str,
    citation: str,
    source: str,
    native: Preprocessing,
    place: Place,
    notes: tuple[str, ...],
) -> BackboneInfo:
    return BackboneInfo(
        name=name,
        family="monai",
        architecture=f"{PREFIX}:{name}",
        licence=licence,
        citation=citation,
        weights_source=source,
        poolings=tuple(pooling for pooling in MAP_POOLINGS if pooling != DENSE),
        default_pooling="gap",
        # One geometry for every 3-D backbone; mean and std stay the weights' own.
        rules={
            "native": native,
            "authors": native,
            "common": _rule(96, 96, native.mean[0], native.std[0]),
        },
        notes=notes,
        files=(WeightsFile(places=(place,)),),
    )


def monai_names(tensors: Tensors) -> Tensors:
    """The published file's key names as MONAI's: it calls the layers of a block's MLP linear1 and linear2."""
    return {re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name): value for name, value in tensors.items()}


@creator(PREFIX)
def build_trunk(name: str) -> Trunk:
    """The network `name` behind the names that featprobe uses. MissingExtraError without MONAI."""
    if name == _SWINVIT:
        return _swin_trunk()
    if name in _RESNET_NAMES:
        return _resnet_trunk(_RESNET_NAMES[name])
    raise BackboneError(
        f"MONAI's {name!r} is none of the known 3-D backbones",
        f"known: {', '.join(Monai().names())}",
        "see featprobe backbones ls",
    )


def _resnet_trunk(depth: int) -> Trunk:
    """MONAI's layers in the authors' geometry: stride 8, dilated by 2 and 4 in layers 3 and 4."""
    try:
        from monai.networks.nets import resnet
    except ImportError as error:
        raise MissingExtraError("MedicalNet", "monai", "monai") from error
    from featprobe.backbones.core.trunk import Trunk

    class MedicalNet(Trunk):
        """[B, 1, D, H, W] -> [B, C, D/8, H/8, W/8]."""

        feature_info = tuple({"module": f"layer{number}"} for number in range(1, 5))

        def __init__(self) -> None:
            super().__init__((1, 56, 448, 448), fixed=False)
            kind = _RESNETS[depth][0]
            net = getattr(resnet, f"resnet{depth}")(
                spatial_dims=3,
                n_input_channels=1,
                feed_forward=False,
                conv1_t_stride=2,
                shortcut_type=kind,
                bias_downsample=kind == "A",
            )
            for layer, dilation in _DILATIONS.items():
                _dilate(getattr(net, layer), dilation)
            for child in ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"):
                self.add_module(child, getattr(net, child))
            self.num_features = int(net.in_planes)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            values = images
            for child in self.children():
                values = child(values)
            return values

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return _mean(features, pre_logits=pre_logits)

    return MedicalNet()


def _dilate(layer: Any, dilation: int) -> None:
    """Take the stride out of a stage and dilate its convolutions of 3 x 3 x 3 voxels instead."""
    for module in layer.modules():
        if getattr(module, "kernel_size", ()) == (3, 3, 3):
            module.dilation = module.padding = (dilation,) * 3
        if hasattr(module, "kernel_size"):
            module.stride = (1, 1, 1)
    shortcut = layer[0].downsample
    if isinstance(shortcut, functools.partial):
        layer[0].downsample = functools.partial(shortcut.func, **{**shortcut.keywords, "stride": 1})


def _swin_trunk() -> Trunk:
    """The encoder of Swin UNETR as its self-supervised training had it."""
    try:
        from monai.networks.nets.swin_unetr import SwinTransformer
    except ImportError as error:
        raise MissingExtraError("the encoder of Swin UNETR", "monai", "monai") from error
    if find_spec("einops") is None:  # MONAI asks for it when the network runs
        raise MissingExtraError("the encoder of Swin UNETR", "einops", "monai")
    import torch

    from featprobe.backbones.core.trunk import Trunk

    class SwinViT(Trunk):
        """[B, 1, D, H, W] -> [B, 768, D/32, H/32, W/32], normalised over the channels."""

        num_features = 16 * _SWIN_WIDTH
        feature_info = tuple({"module": f"layers{number}.0"} for number in range(1, 5))

        def __init__(self) -> None:
            super().__init__((1, 96, 96, 96), fixed=False)
            wanted = torch.get_default_device()
            with torch.device("cpu"):  # MONAI reads numbers while it builds, and the meta device has none
                net = SwinTransformer(
                    in_chans=1,
                    embed_dim=_SWIN_WIDTH,
                    window_size=(7, 7, 7),
                    patch_size=(2, 2, 2),
                    depths=(2, 2, 2, 2),
                    num_heads=(3, 6, 12, 24),
                )
            for name, child in net.to(wanted).named_children():
                self.add_module(name, child)

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            values = self.get_submodule("patch_embed")(_right_anterior_superior(images))
            for number in range(1, 5):
                values = self.get_submodule(f"layers{number}.0")(values.contiguous())
            values = torch.nn.functional.layer_norm(values.movedim(1, -1), [self.num_features])
            return _as_slices(values.movedim(-1, 1))

        def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
            return _mean(features, pre_logits=pre_logits)

    return SwinViT()


def _right_anterior_superior(volumes: torch.Tensor) -> torch.Tensor:
    """Volumes as featprobe has them, [B, C, up, back, left], as [B, C, right, front, up]."""
    return volumes.permute(0, 1, 4, 3, 2).flip(2, 3).contiguous()


def _as_slices(volumes: torch.Tensor) -> torch.Tensor:
    """The inverse of `_right_anterior_superior`."""
    return volumes.flip(2, 3).permute(0, 1, 4, 3, 2).contiguous()


def _mean(features: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
    """The mean of a map [B, C, D, H, W] over the volume: [B, C]."""
    if not pre_logits:
        raise NotImplementedError("there is no classifier")
    return features.mean(dim=(2, 3, 4))


BACKBONES.register("monai")(Monai())
