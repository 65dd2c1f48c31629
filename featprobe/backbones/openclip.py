"""Image towers of contrastive models (CLIP, SigLIP, BiomedCLIP and open_clip's whole list), without their text towers.

Radford et al., ICML 2021 (arXiv 2103.00020); Zhai et al., ICCV 2023 (arXiv 2303.15343); Zhang et al., 2023 (arXiv
2303.00915). The layers are those of open_clip (github.com/mlfoundations/open_clip), which also names weights and preprocessing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from featprobe.backbones.core.family import Curated
from featprobe.backbones.core.info import TOKEN_POOLINGS, BackboneInfo, LoadRequest, Place, WeightsFile
from featprobe.backbones.core.rules import HALF, with_common
from featprobe.backbones.openclip_towers import BIOMEDCLIP, PREFIX, open_clip_library
from featprobe.errors import MissingExtraError
from featprobe.records import Preprocessing
from featprobe.registry import BACKBONES

if TYPE_CHECKING:
    from featprobe.backbones.core.assemble import Tensors
    from featprobe.backbones.core.model import Backbone

# The names that open_clip looks for in a repository, the one without pickles first.
_HUB_FILES: Final = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_VISUAL: Final = "visual."
_TOWERS: Final = (_VISUAL, "visual.trunk.")
_QUICK: Final = "-quickgelu"
_CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_FITS: Final = {"shortest": "crop", "longest": "pad", "squash": "squash"}
# How open_clip's pairs look, so that a missing extra is named and other libraries' OWNER/NAME is left alone.
_PAIR: Final = re.compile(
    r"(?:RN\d|ViT|EVA0|MobileCLIP|PE-Core|convnext_|coca_|nllb-clip|(?:xlm-)?roberta-)[\w.-]*/\w+"
)

_OPENAI: Final = "Radford et al., Learning Transferable Visual Models, ICML 2021 (arXiv 2103.00020)"
_SIGLIP: Final = "Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023 (arXiv 2303.15343)"
_SIGLIP2: Final = "Tschannen et al., SigLIP 2, 2025 (arXiv 2502.14786)"
_BIOMED: Final = "Zhang et al., BiomedCLIP, 2023 (arXiv 2303.00915)"
_OPENCLIP: Final = "Ilharco et al., OpenCLIP, 2021 (doi 10.5281/zenodo.5143773), and the model card"

_NOTES: Final = (
    "pre_logits is what open_clip's encode_image returns: the embedding shared with the text, not L2-normalised",
    "the image tower alone is built, and the text tower in a file of weights is left out",
)
_OPENAI_NOTE: Final = (
    "OpenAI's own .pt files are TorchScript programs and are refused: the hub's copy holds the same weights"
)
_SIGLIP_POOLINGS: Final = ("pre_logits", "mean", "patches")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A registered name. `pair`: ARCH/TAG of open_clip, "" for a model that its list lacks; `tell`: (tensor, shape)."""

    architecture: str
    pair: str
    repository: str
    size: int
    licence: str
    citation: str
    tell: tuple[str, tuple[int, ...]]

    @property
    def native(self) -> Preprocessing:
        siglip = "SigLIP" in self.architecture
        return Preprocessing(
            image_size=(self.size, self.size),
            fit="squash" if siglip else "crop",
            resize=None if siglip else self.size,
            interpolation="bicubic",
            mean=HALF if siglip else _CLIP_MEAN,
            std=HALF if siglip else _CLIP_STD,
        )


def _openai(architecture: str, repository: str, size: int, positions: int, width: int) -> _Entry:
    return _Entry(
        # OpenAI trained with QuickGELU; open_clip's plain names build GELU, and only warn.
        architecture=f"{architecture}{_QUICK}",
        pair=f"{architecture}/openai",
        repository=f"timm/{repository}.openai",
        size=size,
        licence="MIT",
        citation=_OPENAI,
        tell=("visual.positional_embedding", (positions, width)),
    )


def _siglip(architecture: str, size: int, patches: int, width: int, citation: str) -> _Entry:
    return _Entry(
        architecture=architecture,
        pair=f"{architecture}/webli",
        repository=f"timm/{architecture}",
        size=size,
        licence="Apache-2.0",
        citation=citation,
        tell=("visual.trunk.pos_embed", (1, patches, width)),
    )


_ENTRIES: Final = {
    "clip_vitb32": _openai("ViT-B-32", "vit_base_patch32_clip_224", 224, 50, 768),
    "clip_vitb16": _openai("ViT-B-16", "vit_base_patch16_clip_224", 224, 197, 768),
    "clip_vitl14": _openai("ViT-L-14", "vit_large_patch14_clip_224", 224, 257, 1024),
    "clip_vitl14_336": _openai("ViT-L-14-336", "vit_large_patch14_clip_336", 336, 577, 1024),
    "siglip_vitb16": _siglip("ViT-B-16-SigLIP", 224, 196, 768, _SIGLIP),
    "siglip_so400m14_384": _siglip("ViT-SO400M-14-SigLIP-384", 384, 729, 1152, _SIGLIP),
    "siglip2_vitb16": _siglip("ViT-B-16-SigLIP2", 224, 196, 768, _SIGLIP2),
    BIOMEDCLIP: _Entry(
        architecture=BIOMEDCLIP,
        pair="",
        repository="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        size=224,
        licence="MIT",
        citation=_BIOMED,
        tell=("visual.head.proj.weight", (512, 768)),
    ),
}


class OpenClip(Curated):
    """The registered names, and `openclip:ARCH/TAG` for every pair of open_clip's list of pretrained weights."""

    numerics = 1
    prefix = PREFIX

    def names(self) -> tuple[str, ...]:
        """The registered names."""
        return tuple(_ENTRIES)

    def accepts(self, name: str) -> bool:
        """Whether `name` is registered or ARCH/TAG of open_clip; without the extra, whether it looks like one."""
        if name in _ENTRIES:
            return True
        if not _PAIR.fullmatch(name):
            return False
        try:
            return name in _pairs()
        except MissingExtraError:
            return True  # describing or building it says what is missing

    def candidates(self) -> Iterable[str]:
        """Every name that an error may suggest."""
        try:
            return [*_ENTRIES, *(f"{PREFIX}:{pair}" for pair in _pairs())]
        except MissingExtraError:
            return self.names()

    @property
    def signatures(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Name -> a tensor that tells it apart from the others; the two SigLIPs of one size can't be told apart."""
        return {name: {entry.tell[0]: entry.tell[1]} for name, entry in _ENTRIES.items()}

    def info(self, name: str) -> BackboneInfo:
        """See `Curated.info`; pairs need the extra."""
        return _registered(name) if name in _ENTRIES else _listed(name)

    def build(self, name: str, request: LoadRequest) -> Backbone:
        """The image tower with its weights; MissingExtraError without open_clip."""
        from featprobe.backbones.core.assemble import Blueprint, assemble
        from featprobe.backbones.core.survey import survey

        info = self.describe(name)
        rename = partial(image_tower, wanted=survey(info.architecture).shapes)
        return assemble(Blueprint(info=info, numerics=self.numerics, rename=rename), request)


def _registered(name: str) -> BackboneInfo:
    entry = _ENTRIES[name]
    siglip, openai = "SigLIP" in entry.architecture, entry.pair.endswith("/openai")
    rules = {"native": entry.native} if siglip else {"native": entry.native, "authors": entry.native}
    return BackboneInfo(
        name=name,
        family="openclip",
        architecture=f"{PREFIX}:{entry.architecture}",
        licence=entry.licence,
        citation=entry.citation,
        weights_source=f"hub: {entry.repository}",
        poolings=_SIGLIP_POOLINGS if siglip else TOKEN_POOLINGS,
        default_pooling="pre_logits" if siglip else "cls",
        rules=with_common(rules),
        notes=(*_NOTES, _OPENAI_NOTE) if openai else _NOTES,
        files=(WeightsFile(places=(Place(kind="hub", where=entry.repository, files=_HUB_FILES),)),),
    )


def _listed(pair: str) -> BackboneInfo:
    """What open_clip's list of pretrained weights says about ARCH/TAG."""
    from featprobe.backbones.core.survey import survey

    library = open_clip_library()
    arch, _, tag = pair.partition("/")
    config: dict[str, Any] = library.pretrained.get_pretrained_cfg(arch, tag)
    built = _architecture(arch, quick=bool(config.get("quick_gelu")))
    facts = survey(f"{PREFIX}:{built}")
    files = _files(config)
    # The class token before the projection where there is one, else what the model itself hands out.
    default = "cls" if "cls" in facts.poolings else "pre_logits"
    rest = tuple(pooling for pooling in facts.poolings if pooling != default)
    quick = (f"built as {built}: its weights were trained with QuickGELU",) if built != arch else ()
    licences = {"openai": "MIT", "webli": "Apache-2.0"}
    citations = {"openai": _OPENAI, "webli": _SIGLIP2 if "SigLIP2" in arch else _SIGLIP}
    return BackboneInfo(
        name=f"{PREFIX}:{pair}",
        family="openclip",
        architecture=f"{PREFIX}:{built}",
        licence=licences.get(tag, "see the model card"),
        citation=citations.get(tag, _OPENCLIP),
        weights_source=" or ".join(f"{place.kind}: {place.where}" for place in files[0].places),
        poolings=(default, *rest),
        default_pooling=default,
        rules=with_common({"native": _native(config, facts.image_size)}),
        notes=(*_NOTES, *quick, *((_OPENAI_NOTE,) if tag == "openai" else ())),
        files=files,
    )


def _native(config: dict[str, Any], size: tuple[int, int]) -> Preprocessing:
    """open_clip's preprocessing for inference at the tower's own size."""
    fit = _FITS[config["resize_mode"]]
    return Preprocessing(
        image_size=size,
        fit=fit,
        resize=max(size) if fit == "crop" else None,
        interpolation=config["interpolation"],
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config["std"]),
    )


def _files(config: dict[str, Any]) -> tuple[WeightsFile, ...]:
    """One file: the repository that open_clip names, then the address; but none of OpenAI's, whose files are programs."""
    places = []
    repository, _, file = str(config.get("hf_hub") or "").rpartition("/")
    if repository:
        # A file that is named has its copy without pickles beside it under the same stem, where there is one.
        named = (f"{file.rpartition('.')[0]}.safetensors", file) if file else _HUB_FILES
        places.append(Place(kind="hub", where=repository, files=named))
    address = str(config.get("url") or "")
    if address and "openaipublic" not in address:
        stem = address.rpartition("/")[2].rpartition(".")[0]
        published = stem.rpartition("-")[2] if "mlfoundations" in address else ""
        places.append(Place(kind="url", where=address, folder="clip", sha256=published))
    return (WeightsFile(places=tuple(places)),)


def image_tower(tensors: Tensors, wanted: Iterable[str]) -> Tensors:
    """The image tower's tensors of a whole model's file, or those of a file of the tower alone, as `visual.NAME`.

    `wanted`: the tower's names. What belongs to neither (the text tower, the temperature) is left out; a file in
    which no tower is found is returned as it is, for the error to name.
    """
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith(_VISUAL)}
    if inside:
        return inside
    known = set(wanted)
    # A file of timm's part of a tower arrives here without the word "trunk", by which the network was found.
    alone = [{f"{prefix}{name}": tensor for name, tensor in tensors.items()} for prefix in _TOWERS]
    best = max(alone, key=lambda renamed: len(known & set(renamed)))
    return best if known & set(best) else tensors


def _pairs() -> list[str]:
    return [f"{arch}/{tag}" for arch, tag in open_clip_library().list_pretrained()]


def _architecture(arch: str, *, quick: bool) -> str:
    """The architecture whose activation is that of the weights: open_clip's plain names build GELU whatever the tag."""
    own = bool(open_clip_library().get_model_config(arch).get("quick_gelu"))
    return f"{arch}{_QUICK}" if quick and not own else arch


BACKBONES.register("openclip")(OpenClip())
