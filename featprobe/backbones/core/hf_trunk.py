"""The vision encoders of transformers behind the few names that featprobe uses, and their files' names as theirs."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from featprobe.backbones.core.hf_config import Kind, Plan
from featprobe.backbones.core.trunk import Trunk
from featprobe.errors import BackboneError, MissingExtraError

# Where the types of `KINDS` keep their blocks and their final norm.
_BLOCKS: Final = ("layers", "model.layer", "encoder.layer", "encoder.layers")
_NORMS: Final = ("layernorm", "post_layernorm", "norm")
_CLASSIFIER: Final = re.compile(r"(?:.*\.)?classifier\.(?:1\.)?(weight|bias)")
# Text towers, what joins them to images, decoders and heads of the training: no image embedding needs them.
_IDLE: Final = re.compile(
    r"(?:.*\.)?(?:text_model|text_projection|visual_projection|logit_scale|logit_bias|decoder|lm_head|classifier"
    r"|distillation_classifier|cls_classifier|pooler|mask_token|position_ids|relative_position_index)(?:\..*)?"
)

Tensors = dict[str, torch.Tensor]


@contextmanager
def library() -> Iterator[Any]:
    """Transformers, silent while it is used; MissingExtraError where it is not installed."""
    with warnings.catch_warnings():
        # Its deprecations are for those who write against it.
        warnings.simplefilter("ignore")
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError(
                "a vision encoder of Hugging Face", "transformers", "huggingface"
            ) from error
        said: Any = transformers.logging
        level, bars = said.get_verbosity(), said.is_progress_bar_enabled()
        said.set_verbosity_error()
        said.disable_progress_bar()
        try:
            yield transformers
        finally:
            said.set_verbosity(level)
            if bars:
                said.enable_progress_bar()


def trunk_of(plan: Plan) -> Trunk:
    """The encoder of `plan` with weights drawn from the global generator.

    BackboneError where the installed transformers does not know the model type or refuses the configuration.
    """
    with library() as transformers:
        net, config = _built(transformers, plan)
    net.eval()
    if plan.kind is None:
        return Stranger(net, config)
    trunk: type[Encoder] = Resizable if plan.kind.sizes in {"asked", "always", "rotary"} else Encoder
    return trunk(net, config, plan.kind, plan.labels)


def _configured(transformers: Any, plan: Plan) -> tuple[Any, dict[str, Any]]:
    """(the configuration object, arguments of the model's class)."""
    kind = plan.kind
    values = json.loads(plan.config)
    built_as = (kind and kind.built_as) or plan.model_type
    try:
        config = transformers.AutoConfig.for_model(built_as, **values)
    except Exception as error:  # its own checks raise what the libraries below it do
        raise _refused(transformers, plan, error) from error
    pooler = kind is not None and kind.pooled == "pooler" and built_as != "beit"
    bare = bool(kind and kind.built_as) or (pooler and plan.labels > 0)
    return config, {"add_pooling_layer": False} if bare else {}


def _built(transformers: Any, plan: Plan) -> tuple[Any, Any]:
    if plan.folder is not None:
        options = {"trust_remote_code": True, "local_files_only": True}
        config = transformers.AutoConfig.from_pretrained(str(plan.folder), **options)
        return transformers.AutoModel.from_config(config, trust_remote_code=True), config
    config, options = _configured(transformers, plan)
    try:
        return transformers.AutoModel.from_config(config, **options), config
    except Exception as error:
        raise _refused(transformers, plan, error) from error


def _refused(transformers: Any, plan: Plan, error: Exception) -> BackboneError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BackboneError(
        f"transformers {transformers.__version__} can't build {plan.source} ({plan.model_type})",
        f"it says: {first[:200]}",
        "type: pip install --upgrade 'featprobe[huggingface]', or look at its config.json",
    )


class Encoder(Trunk):
    """A model of transformers, its parts under their own names: what its checkpoints call them."""

    def __init__(self, net: Any, config: Any, kind: Kind, labels: int) -> None:
        side = _pair(getattr(config, "image_size", None) or 224)
        channels = int(getattr(config, "num_channels", 3))
        classifier = ("classifier",) if labels else ()
        super().__init__((channels, *side), fixed=kind.sizes != "any", classifier=classifier)
        self._kind, self._native = kind, side
        for name, child in net.named_children():
            self._modules[name] = child  # some are called as methods of a Trunk are
        if self._modules.get(kind.pooled) is not None:
            # Run on demand alone, so that weights without it serve what does not need it.
            setattr(net, kind.pooled, nn.Identity())
        _index_positions(net)
        # A tuple hides it from PyTorch: its parts are registered above, once.
        self._held = (net,)
        self.num_features = int(getattr(net, "num_features", 0) or 0) or _width(config)
        self.num_classes = labels
        self._strides = 1
        if kind.tokens:
            self.has_class_token = kind.extra > 0
            registers = int(getattr(config, "num_register_tokens", 0) or 0)
            self.num_prefix_tokens = kind.extra + registers
            self.patch_size = _pair(config.patch_size)[0]
        elif kind.sizes != "any":
            self._strides = _pair(config.patch_size)[0] * 2 ** (len(config.depths) - 1)
        if labels:
            width = 2 if kind.logits == "cls+mean" else 1
            self.classifier = nn.Linear(width * self.num_features, labels)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, () of a network without."""
        return tuple(self._first(_BLOCKS)) if self._kind.tokens else ()

    @property
    def fc_norm(self) -> nn.Module | None:
        """The norm after averaging of BEiT, whose tokens have none of their own then."""
        return getattr(self._modules.get("pooler"), "layernorm", None)

    def norm(self, tokens: torch.Tensor) -> torch.Tensor:
        """The final norm of tokens [B, N, D]."""
        normed: torch.Tensor = self._first(_NORMS)(tokens)
        return normed

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] after the final norm, or a map [B, D, H, W]."""
        asked = self._kind.sizes == "asked" and tuple(images.shape[2:]) != self._native
        options = {"interpolate_pos_encoding": True} if asked else {}
        features: torch.Tensor = self._held[0](pixel_values=images, **options).last_hidden_state
        if self._kind.late_norm:
            return self.norm(features)
        if self._strides > 1:
            grid = (images.shape[2] // self._strides, images.shape[3] // self._strides)
            return features.transpose(1, 2).reshape(len(features), -1, *grid)
        return features

    def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        """What transformers calls the pooler's output, else the logits of its image classifier; [B, D]."""
        if pre_logits:
            return self._pooled(features, self._kind.pooled)
        if not self.num_classes:
            raise NotImplementedError("there is no classifier")
        parts = ("cls", "mean") if self._kind.logits == "cls+mean" else (self._kind.logits,)
        pooled = [self._pooled(features, self._kind.pooled if p == "pooled" else p) for p in parts]
        logits: torch.Tensor = self.classifier(torch.cat(pooled, dim=1))
        return logits

    def _pooled(self, features: torch.Tensor, how: str) -> torch.Tensor:
        if how == "mean":
            return (
                features[:, self.num_prefix_tokens :].mean(dim=1) if features.ndim == 3 else _mean(features)
            )
        layer = None if how == "cls" else self._modules.get(how)
        if layer is None:
            return features[:, 0]
        pooled: torch.Tensor = layer(features if features.ndim == 3 else _mean(features))
        return pooled

    def _first(self, paths: Sequence[str]) -> Any:
        parts = dict(self.named_modules())
        return next(parts[path] for path in paths if path in parts)


class Resizable(Encoder):
    """One that takes other image sizes, as transformers lets it: by interpolated or rotary positions."""

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Nothing to do before the images come: transformers interpolates in its forward pass."""


class Stranger(Trunk):
    """A model of code of its own, of which only its output is known: `last_hidden_state`, and a pooler's where it has one.

    What stands before the patches (more tokens than the image has patches) is left out of the mean, and not called
    a class token: only its authors know what it is.
    """

    def __init__(self, net: Any, config: Any) -> None:
        side = _pair(getattr(config, "image_size", None) or 224)
        super().__init__((int(getattr(config, "num_channels", 3)), *side), fixed=True)
        self._held = (net,)
        for name, child in net.named_children():
            self._modules[name] = child
        for name, parameter in net.named_parameters(recurse=False):
            self._parameters[name] = parameter
        self.num_features = _width(config)
        patch = getattr(config, "patch_size", None)
        if patch:
            self.patch_size = _pair(patch)[0]
            with torch.device("meta"), torch.no_grad():
                tokens = side[0] // self.patch_size * (side[1] // self.patch_size)
            self._patches = tokens

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Its `last_hidden_state`, with what it pooled beside it."""
        output = self._held[0](pixel_values=images)
        features: torch.Tensor = output.last_hidden_state
        if features.ndim == 3 and self.patch_size > 1:
            self.num_prefix_tokens = max(features.shape[1] - self._patches, 0)
        pooled = getattr(output, "pooler_output", None)
        self._pooled = (features, pooled)
        return features

    def forward_head(self, features: torch.Tensor, *, pre_logits: bool = False) -> torch.Tensor:
        """What its pooler gave for these features, else their mean; it has no classifier here."""
        if not pre_logits:
            raise NotImplementedError("there is no classifier")
        seen, pooled = self._pooled
        if seen is features and pooled is not None:
            vector: torch.Tensor = pooled.flatten(1)
            return vector
        return features[:, self.num_prefix_tokens :].mean(dim=1) if features.ndim == 3 else _mean(features)


def _index_positions(net: Any) -> None:
    """Fill BEiT's table of relative positions, which is kept for the whole process, with numbers.

    The dry run would keep it on the meta device, which has none, and every later model would read anything.
    """
    for module in net.modules():
        if hasattr(module, "generate_relative_position_index"):
            with torch.device("cpu"):
                module.generate_relative_position_index(module.window_size)


def _mean(features: torch.Tensor) -> torch.Tensor:
    return features.mean(dim=(2, 3))


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height), int(width)


def _width(config: Any) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else config.hidden_size)


def renamed(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> tuple[Tensors, tuple[str, ...]]:
    """(`tensors` under the names of the encoder of `plan`, names of those that no image embedding needs).

    Which name became which is transformers' own knowledge: its versions renamed and fused layers.
    """
    if plan.folder is not None:
        return dict(tensors), ()
    with library() as transformers, torch.random.fork_rng(devices=[]):
        config, options = _configured(transformers, plan)
        kind = type(_meta(transformers, config, options))
        net, told = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **options,
        )
    reshaped = {name: tuple(given) for name, given, _ in told["mismatched_keys"]}
    absent = {*told["missing_keys"], *reshaped}
    found = {name: tensor for name, tensor in net.state_dict().items() if name not in absent}
    found |= {name: torch.empty(shape, device="meta") for name, shape in reshaped.items()}
    strangers = sorted(told["unexpected_keys"])
    idle = tuple(name for name in strangers if _IDLE.fullmatch(name))
    found |= {name: tensors.get(name, torch.empty(0)) for name in strangers if name not in idle}
    if plan.labels:
        found |= classifier_of(tensors)
        idle = tuple(name for name in idle if not _CLASSIFIER.fullmatch(name))
    return found, idle


def classifier_of(tensors: Mapping[str, Any]) -> Tensors:
    """The weight and bias of the image classifier among `tensors`, as float32; {} where there is none."""
    return {
        f"classifier.{match[1]}": tensor.float()
        for name, tensor in tensors.items()
        if (match := _CLASSIFIER.fullmatch(name)) and isinstance(tensor, torch.Tensor)
    }


def _meta(transformers: Any, config: Any, options: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config, **options)
