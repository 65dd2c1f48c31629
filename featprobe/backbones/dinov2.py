"""DINOv2 as its authors run it: their names, their 256 -> 224 evaluation, their interpolation of positions.

Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024 (arXiv 2304.07193);
the models with registers: Darcet et al., ICLR 2024 (arXiv 2309.16588).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.create import creator
from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import TOKEN_POOLINGS, BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.rules import crop, with_common
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.model import Backbone

_HOST: Final = "https://dl.fbaipublicfiles.com/dinov2"
_CLASSES: Final = 1000
_BLOCKS: Final = 4
_SIZES: Final = {"s": ("small", 384), "b": ("base", 768), "l": ("large", 1024), "g": ("giant", 1536)}
_REGISTERS: Final = "_reg"
_CLASSIFIER: Final = "_lc"
_LC_NOTE: Final = "logits: 1,000 ImageNet classes from the class tokens of the last four blocks and the patch mean, one linear layer"
_GRID: Final = 37
_OFFSET: Final = 0.1


class DinoV2(Curated):
    """`dinov2_vit{s,b,l,g}14`, the same with `_reg`, and both with `_lc`, the classifier of ImageNet's classes."""

    numerics = 1

    def names(self) -> tuple[str, ...]:
        """The sixteen names of the authors' hub."""
        return tuple(
            f"dinov2_vit{size}14{registers}{classifier}"
            for classifier in ("", _CLASSIFIER)
            for registers in ("", _REGISTERS)
            for size in _SIZES
        )

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Name -> tensors that tell it apart: positions with the class token's, without it, and the authors' registers."""
        tells: dict[str, dict[str, tuple[int, ...]]] = {}
        for size, (_, width) in _SIZES.items():
            tells[f"dinov2_vit{size}14"] = {"pos_embed": (1, _GRID**2 + 1, width)}
            tells[f"dinov2_vit{size}14_reg"] = {
                "reg_token": (1, 4, width),
                "register_tokens": (1, 4, width),
            }
        return tells

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`."""
        size, registers, classifier = _parsed(name)
        kind = "reg4_" if registers else ""
        architecture = f"vit_{_SIZES[size][0]}_patch14_{kind}dinov2.lvd142m"
        return BackboneInfo(
            name=name,
            family="dinov2",
            architecture=f"dinov2_lc:{architecture}" if classifier else architecture,
            licence="Apache-2.0",
            citation=(
                "Darcet et al., Vision Transformers Need Registers, ICLR 2024 (arXiv 2309.16588)"
                if registers
                else "Oquab et al., DINOv2, TMLR 2024 (arXiv 2304.07193)"
            ),
            weights_source=f"hub: timm/{architecture} (LVD-142M, by Meta AI)"
            + (f"; classifier: {_HOST}" if classifier else ""),
            poolings=("logits", *TOKEN_POOLINGS) if classifier else TOKEN_POOLINGS,
            default_pooling="logits" if classifier else "cls",
            rules=with_common({"native": crop(518, 518), "authors": crop(256, 224)}),
            default_rule="authors",
            notes=("positions are interpolated as in the authors' code, once per image size",)
            + ((_LC_NOTE,) if classifier else ()),
            files=_files(size, architecture, registers=registers, classifier=classifier),
        )

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The backbone with its weights; takes timm's files and the authors' own `.pth`."""
        from featprobe.backbones.core.assemble import Blueprint, assemble

        _, registers, classifier = _parsed(name)
        blueprint = Blueprint(
            info=self.describe(name),
            numerics=self.numerics,
            resize=_resize_registers if registers else _resize_plain,
            rename=_timm_names,
            join=_joined_head if classifier else None,
        )
        return assemble(blueprint, request)


def _files(size: str, architecture: str, *, registers: bool, classifier: bool) -> tuple[WeightsFile, ...]:
    """Timm's copy on the hub, or the authors' own file where torch.hub has downloaded it; and the classifier's."""
    base, full = f"dinov2_vit{size}14", f"dinov2_vit{size}14{'_reg4' if registers else ''}"
    trunk = WeightsFile(
        places=(
            Place(kind="hub", where=f"timm/{architecture}", files=("model.safetensors", "pytorch_model.bin")),
            Place(kind="url", where=f"{_HOST}/{base}/{full}_pretrain.pth"),
        )
    )
    head = WeightsFile(
        places=(Place(kind="url", where=f"{_HOST}/{base}/{full}_linear{_BLOCKS}_head.pth"),), part="head"
    )
    return (trunk, head) if classifier else (trunk,)


def _joined_head(_part: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """The classifier's file under the names that it has inside the authors' whole model."""
    return {f"linear_head.{name.removeprefix('linear_head.')}": value for name, value in tensors.items()}


def _timm_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """The authors' names as timm's; timm's own stay. With registers timm keeps the class token's position in the token."""
    renamed = {
        name.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): tensor
        for name, tensor in tensors.items()
        if name != "mask_token"
    }
    if "register_tokens" in renamed and "pos_embed" in renamed and "cls_token" in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
        positions = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


@creator("dinov2_lc")
def _with_classifier(architecture: str) -> Any:
    """Timm's model with the authors' linear layer over four class tokens and the patch mean."""
    import timm
    from torch import nn

    model: Any = timm.create_model(architecture, pretrained=False)
    model.head_key = f"last{_BLOCKS}/cls+mean"
    model.linear_head = nn.Linear((_BLOCKS + 1) * model.num_features, _CLASSES)
    model.num_classes = _CLASSES
    return model


def _parsed(name: str) -> tuple[str, bool, bool]:
    """(size, with registers, with classifier)."""
    match = re.fullmatch(rf"dinov2_vit([{''.join(_SIZES)}])14({_REGISTERS})?({_CLASSIFIER})?", name)
    assert match is not None
    return match.group(1), match.group(2) is not None, match.group(3) is not None


def resample_positions(
    positions: torch.Tensor, grid: tuple[int, int], *, prefix: int, antialias: bool, offset: float
) -> torch.Tensor:
    """`positions` [1, prefix + G * G, D] for another patch grid: [1, prefix + h * w, D], float32, bicubic.

    As `interpolate_pos_encoding` of the authors' code (facebookresearch/dinov2). The plain models were
    evaluated with `offset` 0.1, which enters the scale factor ((h + 0.1) / G) and shifts every sample by a
    fraction of a patch, and without antialiasing; the models with registers with antialiasing and the
    target size alone. A grid equal to the stored one is returned as it is.
    """
    import torch

    fixed, patches = positions[:, :prefix].float(), positions[:, prefix:].float()
    side = round(patches.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    image = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    target: dict[str, Any] = {"size": grid}
    if offset:
        target = {"scale_factor": tuple((cells + offset) / side for cells in grid)}
    scaled = torch.nn.functional.interpolate(image, mode="bicubic", antialias=antialias, **target)
    assert scaled.shape[2:] == grid
    return torch.cat([fixed, scaled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _resize_plain(model: Any, size: tuple[int, int]) -> None:
    _resize(model, size, antialias=False, offset=_OFFSET)


def _resize_registers(model: Any, size: tuple[int, int]) -> None:
    _resize(model, size, antialias=True, offset=0.0)


def _resize(model: Any, size: tuple[int, int], *, antialias: bool, offset: float) -> None:
    import torch

    stored = model.pos_embed.detach()
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    model.set_input_size(img_size=size)
    resampled = resample_positions(
        stored, tuple(model.patch_embed.grid_size), prefix=prefix, antialias=antialias, offset=offset
    )
    model.pos_embed = torch.nn.Parameter(resampled, requires_grad=model.pos_embed.requires_grad)


BACKBONES.register("dinov2")(DinoV2())
