"""Vision encoders of the Hugging Face hub through transformers: RAD-DINO, MedSigLIP, Phikon, and hf:OWNER/NAME.

The registered names carry their configuration; of all others config.json and preprocessor_config.json are read, from
the weights folder, the hub's cache, a folder laid out as a repository, or the hub where downloads are allowed. Code
that comes with a model does not run unless it was asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core import hf_config
from featprobe.backbones.core.create import creator
from featprobe.backbones.core.hf_config import KINDS, PREFIX, Json, Plan
from featprobe.backbones.core.hf_files import (
    FILES,
    FOLDER,
    REPOSITORY,
    hub_files,
    hub_place,
    located,
    own_code,
    own_weights,
    raw_tensors,
    shown_name,
)
from featprobe.backbones.core.info import (
    PRETRAINED,
    TOKEN_POOLINGS,
    BackboneInfo,
    LoadRequest,
    WeightsFile,
)
from featprobe.backbones.core.rules import HALF, IMAGENET_MEAN, IMAGENET_STD, crop, with_common
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    import torch

    from featprobe.backbones.core.model import Backbone

_LISTED: Final = 6

_DINOV2_NOTE: Final = (
    "at other image sizes positions are interpolated as transformers does it (bicubic, to the grid itself), not with "
    "the offset of 0.1 that Meta's code adds for DINOv2"
)
_POSITIONS_NOTE: Final = "at other image sizes positions are interpolated as transformers does it (bicubic)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    repository: str
    config: Json
    native: Preprocessing
    licence: str
    citation: str
    poolings: tuple[str, ...] = TOKEN_POOLINGS
    terms: str = ""
    notes: tuple[str, ...] = ()


_BASE: Final = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_ENTRIES: Final = {
    "rad_dino": _Entry(
        repository="microsoft/rad-dino",
        config={
            "model_type": "dinov2",
            **_BASE,
            "image_size": 518,
            "patch_size": 14,
            "mlp_ratio": 4,
            "layer_norm_eps": 1e-6,
        },
        native=crop(518, 518, mean=(0.5307,) * 3, std=(0.2583,) * 3),
        licence="MIT (formerly MSRLA); shared for research, not for clinical practice",
        citation="Perez-Garcia et al., Exploring scalable medical image encoders beyond text supervision, Nature "
        "Machine Intelligence (arXiv 2401.10815)",
        notes=(_DINOV2_NOTE, "chest X-rays; continued from DINOv2 ViT-B/14"),
    ),
    "medsiglip": _Entry(
        repository="google/medsiglip-448",
        config={
            "model_type": "siglip",
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "image_size": 448,
                "patch_size": 14,
                "hidden_act": "gelu_pytorch_tanh",
                "layer_norm_eps": 1e-6,
            },
        },
        native=Preprocessing(
            image_size=(448, 448), fit="squash", resize=None, interpolation="bicubic", mean=HALF, std=HALF
        ),
        licence="Health AI Developer Foundations terms of use",
        citation="Sellergren et al., MedGemma Technical Report, 2025 (arXiv 2507.05201)",
        poolings=("pre_logits", "mean", "patches"),
        terms="these weights are under Google's Health AI Developer Foundations terms of use, which whoever uses or "
        "passes them on accepts: https://developers.google.com/health-ai-developer-foundations/terms (gated: accept "
        "them at https://huggingface.co/google/medsiglip-448)",
        notes=(_POSITIONS_NOTE, "pre_logits is the attention pooling that its image embedding is"),
    ),
    "phikon": _Entry(
        repository="owkin/phikon",
        config={
            "model_type": "vit",
            **_BASE,
            "intermediate_size": 3072,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
        },
        native=Preprocessing(
            image_size=(224, 224),
            fit="squash",
            resize=None,
            interpolation="bilinear",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        licence="Owkin non-commercial licence",
        citation="Filiot et al., Scaling Self-Supervised Learning for Histopathology with Masked Image Modeling, "
        "medRxiv 2023",
        terms="these weights are under the Owkin non-commercial licence: read it at "
        "https://github.com/owkin/HistoSSLscaling/blob/main/LICENSE.txt",
        notes=(_POSITIONS_NOTE, "histology; iBOT's ViT-B/16"),
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What the files of a repository or folder said."""

    plan: Plan
    native: Preprocessing
    notes: tuple[str, ...]


def _registered(name: str) -> _Known:
    entry = _ENTRIES[name]
    plan = hf_config.keep(hf_config.plan_of(entry.config, name=name, source=name))
    return _Known(plan, entry.native, entry.notes)


class HuggingFace:
    """The registered names, `hf:OWNER/NAME[@REVISION]` of the hub, and `hf:FOLDER` laid out as a repository."""

    numerics = 1
    prefix = PREFIX

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {name: _registered(name) for name in _ENTRIES}

    def names(self) -> tuple[str, ...]:
        """The registered names."""
        return tuple(_ENTRIES)

    def accepts(self, name: str) -> bool:
        """Whether `name` is registered, OWNER/NAME[@REVISION], or a folder (/..., ./..., ../... or ~...)."""
        return name in _ENTRIES or name.startswith(FOLDER) or bool(REPOSITORY.fullmatch(name))

    def candidates(self) -> Iterable[str]:
        """Every name that an error may suggest."""
        return self.names()

    def describe(self, name: str, *, deep: bool = False) -> BackboneInfo:
        """What is known about `name`; all but the registered names need the extra, and so does `deep`.

        The network is never asked: of a repository that is not on this machine `learn` must have read the files
        first, else BackboneError.
        """
        known = self._known.get(name)
        if known is None or name.startswith(FOLDER):
            # Code that was allowed to run when the folder was read may still; it was announced then.
            allowed = known is not None and bool(known.plan.code)
            self.learn(name, LoadRequest(offline=True, remote_code=allowed, announce=_silent))
        info = self._info(name)
        if not deep:
            return info
        from featprobe.backbones.core.assemble import deepened

        return dataclasses.replace(info, **deepened(info))

    def learn(self, name: str, request: LoadRequest) -> None:
        """Read config.json and preprocessor_config.json of `name`, downloaded where `request` allows it.

        BackboneError where they can't be had, or say what featprobe can't build or can't take over.
        """
        if name in _ENTRIES:
            return
        shown = shown_name(name)
        config_file, processor_file = located(name, request)
        config = hf_config.read_json(config_file, shown)
        folder, code, notes = None, "", []
        if hf_config.needs_own_code(config) and request.remote_code:
            folder = config_file.parent
            code = own_code(config, folder, shown, request)
            notes.append(f"built by code of its own (SHA-256 {code[:12]})")
        elif config.get("auto_map"):
            notes.append("built by transformers itself; the code that comes with it was not run")
        source = name.rstrip("/").rpartition("/")[2] if name.startswith(FOLDER) else name
        plan = hf_config.plan_of(config, name=shown, source=source, folder=folder, code=code)
        kind = KINDS.get(plan.model_type)
        if kind and kind.sizes in {"asked", "always"}:
            notes.append(_DINOV2_NOTE if plan.model_type == "dinov2" else _POSITIONS_NOTE)
        processor = hf_config.read_json(processor_file, shown)
        native = hf_config.native(processor, model_type=str(config.get("model_type", "")), name=shown)
        self._known[name] = _Known(hf_config.keep(plan), native, tuple(notes))

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The encoder with its weights; MissingExtraError without transformers."""
        import torch

        from featprobe.backbones.core.assemble import Blueprint, assemble

        self.learn(name, request)
        info = self._info(name)
        own = own_weights(name, request)
        asked = dataclasses.replace(request, weights=str(own)) if own else request
        dropped: list[str] = []
        rename = functools.partial(_renamed, self._known[name].plan, info, asked, dropped)
        with torch.random.fork_rng(devices=[]):  # transformers draws weights where none are needed
            backbone = assemble(Blueprint(info=info, numerics=self.numerics, rename=rename), asked)
        if own:
            backbone.weights_label = PRETRAINED
        if dropped:
            names = ", ".join(dropped[:_LISTED]) + (", ..." if len(dropped) > _LISTED else "")
            backbone.notes += (f"{len(dropped)} tensors of text towers and heads were left out: {names}",)
        return backbone

    def _info(self, name: str) -> BackboneInfo:
        known = self._known[name]
        common: dict[str, Any] = {
            "family": "huggingface",
            "architecture": known.plan.architecture,
            "rules": with_common({"native": known.native}),
            "notes": known.notes,
        }
        if name in _ENTRIES:
            entry = _ENTRIES[name]
            return BackboneInfo(
                name=name,
                licence=entry.licence,
                citation=entry.citation,
                weights_source=f"hub: {entry.repository}",
                poolings=entry.poolings,
                default_pooling=entry.poolings[0],
                files=(WeightsFile(places=(hub_place(entry.repository, FILES),)),),
                terms=entry.terms,
                **common,
            )
        poolings = _poolings(known.plan)
        hub = "" if name.startswith(FOLDER) else name
        return BackboneInfo(
            name=shown_name(name),
            licence=f"see huggingface.co/{hub.partition('@')[0]}" if hub else "see its folder",
            citation="see its model card",
            weights_source=f"hub: {hub}" if hub else f"folder: {name}",
            poolings=poolings,
            default_pooling=poolings[0],
            files=hub_files(name) if hub else (),
            **common,
        )


def _silent(_: str) -> None:
    """Say nothing: without the network there is nothing to announce."""


def _poolings(plan: Plan) -> tuple[str, ...]:
    """Class token or map average first; without a class token what the model itself hands out."""
    from featprobe.backbones.core.survey import survey

    found = survey(plan.architecture).poolings
    learnt = plan.kind is None or plan.kind.pooled not in {"cls", "mean"}
    if learnt and found[0] == "mean":
        return ("pre_logits", *(pooling for pooling in found if pooling != "pre_logits"))
    return found


def _renamed(
    plan: Plan,
    info: BackboneInfo,
    request: LoadRequest,
    dropped: list[str],
    tensors: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """`tensors` under the encoder's names; what no image embedding needs is noted in `dropped`."""
    from featprobe.backbones.core.hf_trunk import classifier_of, renamed

    found, idle = renamed(plan, tensors)
    dropped += idle
    if plan.labels and "classifier.weight" not in found:
        # The network was taken out of its prefix, and the classifier lies beside that.
        found |= classifier_of(raw_tensors(info, request))
    return found


@creator(PREFIX)
def build_encoder(rest: str) -> Any:
    """The encoder of the architecture hf:`rest`; MissingExtraError without transformers."""
    from featprobe.backbones.core.hf_trunk import trunk_of

    return trunk_of(hf_config.kept(rest))


BACKBONES.register("huggingface")(HuggingFace())
