"""The backbone as the rest of featprobe sees it: images in, embeddings out, and everything a recipe needs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from featprobe.backbones.core.features import Key, embed
from featprobe.backbones.core.info import DENSE, BackboneInfo
from featprobe.backbones.core.rules import resolve_rule
from featprobe.backbones.core.survey import Survey, check_image_size, row_shape, size_text, survey_layer
from featprobe.errors import BackboneError, nearest
from featprobe.records import Preprocessing

Resize = Callable[[Any, tuple[int, int]], None]


class Backbone(nn.Module):
    """A backbone with its weights.

    `weights_sha256` covers the given tensors that some pooling reads, before any adaptation to an image
    size. `weights_label`: "pretrained", "random" or the file's name without folder and suffix; `weights_origin`: the
    name of the user's own file that a weights folder gave for the pretrained weights, else "". `missing`
    and `unexpected`: tensors that the architecture has and the weights lack, and the reverse. `numerics`
    is raised when the family's reference values change. `poolings` are those whose tensors are all there.
    """

    def __init__(
        self,
        model: Any,
        *,
        info: BackboneInfo,
        survey: Survey,
        resize: Resize,
        weights_sha256: str,
        weights_label: str,
        numerics: int,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        notes: Sequence[str] = (),
        weights_origin: str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.info, self.name, self.architecture = info, info.name, info.architecture
        self.weights_sha256, self.weights_label, self.numerics = weights_sha256, weights_label, numerics
        self.weights_origin = weights_origin
        self.missing, self.unexpected, self.notes = tuple(missing), tuple(unexpected), tuple(notes)
        absent = frozenset(self.missing)
        self.poolings = tuple(p for p in info.poolings if not survey.reads[p] & absent)
        self.image_size = survey.image_size
        self._survey, self._resize = survey, resize
        self._wanted_size: int | None = None
        self._native: dict[str, torch.Tensor] = {}
        self._trained = False
        hooks: Any = self
        hooks.register_load_state_dict_post_hook(_mark_trained)

    def prepare(self, image_size: int | None) -> None:
        """Make `image_size` (pixels; None: the default rule's) the size that `preprocessing` gives."""
        self._wanted_size = image_size
        self.set_image_size(self.preprocessing().image_size)

    def preprocessing(
        self, rule: str | None = None, *, image_size: int | None = None, fit: str | None = None
    ) -> Preprocessing:
        """What an image must become: `rule` ("native", "authors" where published, "common"; None: the default).

        `image_size` (pixels; None: what `load` was given, else the rule's) and `fit` ("crop", "pad",
        "squash") are put on top. BackboneError for a size that the architecture can't take.
        """
        size = self._wanted_size if image_size is None else image_size
        resolved = resolve_rule(self.info, rule, image_size=size, fit=fit)
        check_image_size(self.name, self.architecture, resolved.image_size)
        return resolved

    @property
    def patch(self) -> int:
        """Side in pixels of what an image size must be a multiple of; 1 where any goes."""
        return self._survey.patch

    def check_image_size(self, size: tuple[int, int]) -> None:
        """BackboneError unless images of `size` (height, width) can be taken."""
        check_image_size(self.name, self.architecture, size)

    def dim(self, key: str) -> int:
        """D of the embeddings under `key`, a POOLING or LAYER/POOLING."""
        self._check_keys((key,))
        return self._layer(key)[0] if Key.parse(key).layer else self._survey.dims[key]

    def row_shape(self, key: str, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one image's embedding at `size` (height, width): (D,), or (h, w, D) for patches."""
        if Key.parse(key).pooling != DENSE:
            return (self.dim(key),)
        self._check_keys((key,))
        return row_shape(self.architecture, key, size)

    def canonical(self, key: str) -> str:
        """The name under which `key` is stored: `mean` of a feature map is `gap`, "last" and "last1" say nothing new."""
        parsed = Key.parse(key)
        layer = "" if parsed.layer in {"last", "last1"} else parsed.layer
        self._check_keys((f"{layer}/{parsed.pooling}" if layer else parsed.pooling,))
        mapped = not layer and parsed.pooling == "mean" and "gap" in self.info.poolings
        pooling = "gap" if mapped else parsed.pooling
        return f"{layer}/{pooling}" if layer else pooling

    def forward(
        self, images: torch.Tensor, keys: Sequence[str], sizes: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Key -> float32 [B, D] ([B, h, w, D] for patches) for `images` [B, 3, H, W], from one pass; differentiable.

        A key is POOLING or LAYER/POOLING, see `featprobe.backbones.core.features.Key`. The model adapts itself to
        the images' size where it is built for one (see `set_image_size`). `sizes`: int64 [B, 2], height and
        width of the images before preprocessing; only the image-statistics baseline looks at them.
        """
        self._check_keys(keys)
        if self._survey.fixed:
            self._trained = self._trained or (torch.is_grad_enabled() and self._learns())
            self.set_image_size((int(images.shape[2]), int(images.shape[3])))
        return embed(self.model, self._survey.layout, images, keys, sizes)

    def set_image_size(self, size: tuple[int, int]) -> None:
        """Adapt position embeddings and windows to images of `size` (height, width), from the loaded weights.

        Each size is derived on the CPU from what was loaded, never from an earlier adaptation, so neither
        the order of sizes nor the device leaves a trace. Refused once trained weights are in: they belong to
        the size they were trained at.
        """
        if not self._survey.fixed or size == self.image_size:
            return
        check_image_size(self.name, self.architecture, size)
        if self._trained:
            raise BackboneError(
                f"{self.name} was trained at {size_text(self.image_size)} pixels and is given {size_text(size)}",
                "its positions are fitted to a size before training, not after it began",
                f"use one image size: --image-size {self.image_size[0]}",
            )
        device = next(self.model.parameters()).device
        self.model.cpu()
        self._adapt(size)
        self.model.to(device)

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.model.parameters())

    def _adapt(self, size: tuple[int, int]) -> None:
        native = self._survey.image_size
        # Tensors made in inference mode could never be trained, and autocast would round the positions.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            if self.image_size != native:
                self.model.set_input_size(img_size=native)
                self.model.load_state_dict(self._native, strict=False)
            if size != native:
                before = self.model.state_dict(keep_vars=True)
                self._resize(self.model, size)
                after = self.model.state_dict(keep_vars=True)
                self._native = {
                    name: value.detach().clone() for name, value in before.items() if after[name] is not value
                }
        self.image_size = size

    def _check_keys(self, keys: Sequence[str]) -> None:
        check_poolings(self.info, [key for key in keys if not Key.parse(key).layer])
        for key in keys:
            lacking = sorted(self.reads(key) & frozenset(self.missing))
            if lacking:
                raise BackboneError(
                    f"the weights of {self.name} don't reach {key!r}",
                    f"they lack {len(lacking)} tensors of it, such as {lacking[0]}",
                    f"type --pooling {self.poolings[0]}, or give weights that hold them",
                )

    def reads(self, key: str) -> frozenset[str]:
        """Names of the tensors that `key` reads."""
        return self._layer(key)[1] if Key.parse(key).layer else self._survey.reads[key]

    def _layer(self, key: str) -> tuple[int, frozenset[str]]:
        """`survey_layer` of this backbone; BackboneError that names it, and the layer."""
        try:
            return survey_layer(self.architecture, key)
        except BackboneError as error:
            wrong = error.wrong.replace("these features have", f"the layer {Key.parse(key).layer!r} has")
            step = error.next_step.replace("show NAME", f"show {self.name}")
            if step.startswith("type --layer"):
                step = f"{step}, in a call of its own where other backbones have that layer"
            raise BackboneError(f"{self.name}: {wrong}", error.known, step) from error


def _mark_trained(backbone: Backbone, _keys: object) -> None:
    backbone._trained = True  # noqa: SLF001 - the hook is this class's own


def check_poolings(info: BackboneInfo, poolings: Sequence[str]) -> None:
    """BackboneError that names the poolings of `info` unless all of `poolings` are among them."""
    for pooling in poolings:
        if pooling not in info.poolings:
            hint = nearest(pooling, info.poolings)
            raise BackboneError(
                f"{info.name} has no pooling {pooling!r}",
                f"it has {', '.join(info.poolings)}{'; ' + hint if hint else ''}",
                f"type --pooling {info.default_pooling}, or --pooling {info.name}={info.default_pooling} beside "
                "other backbones",
            )


class Pooled(nn.Module):
    """A backbone with one pooling: images [B, 3, H, W] -> embeddings float32 [B, D], for training heads on it."""

    def __init__(self, backbone: Backbone, pooling: str) -> None:
        super().__init__()
        self.backbone, self.pooling = backbone, pooling
        self.dim = backbone.dim(pooling)

    @property
    def unread(self) -> frozenset[str]:
        """Names of the parameters of this module that its embedding does not depend on."""
        read = self.backbone.reads(self.pooling)
        names = (name for name, _ in self.backbone.model.named_parameters())
        return frozenset(f"backbone.model.{name}" for name in names if name not in read)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, D]."""
        embeddings: dict[str, torch.Tensor] = self.backbone(images, (self.pooling,))
        return embeddings[self.pooling]
