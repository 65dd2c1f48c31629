"""Where the network lies in a training checkpoint: the key styles of the field, as tables.

Every method of self-supervised learning saves more than the network that its authors publish: a second copy that
moves slowly, heads, decoders, optimizers. The tables say which word of a key means what; `unwrapping` chooses by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

FIRST, ONLY, SECOND = range(3)


@dataclass(frozen=True, slots=True)
class Part:
    """A word of a key that says which network it is.

    `copy`: FIRST for the copy that the method's authors evaluate, SECOND for the one they don't, ONLY for a name
    that tells no copies apart. `sure`: the word means the network wherever it stands; others, such as "encoder",
    are also layers of ordinary networks and count only where nothing unexplained stands beside them.
    """

    word: str
    what: str
    style: str = ""
    copy: int = ONLY
    sure: bool = False


@dataclass(frozen=True, slots=True)
class Leftover:
    """A word of a key that no embedding needs. `inside`: also where it stands beside the network's own layers."""

    pattern: str
    what: str
    style: str = ""
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """Layers under other names than timm's. `tell`: a pattern that some name must have; `rules` are substitutions."""

    what: str
    tell: str
    rules: tuple[tuple[str, str], ...]


# The order decides between copies of one rank.
_PARTS: Final = (
    Part("teacher", "the teacher", "DINO, iBOT or DINOv2", FIRST, sure=True),
    Part("encoder_q", "the query encoder", "MoCo v1 or v2", FIRST, sure=True),
    Part("base_encoder", "the base encoder", "MoCo v3", FIRST, sure=True),
    Part("online_encoder", "the online encoder", "BYOL", FIRST, sure=True),
    Part("online_network", "the online network", "BYOL", FIRST, sure=True),
    Part("target_encoder", "the target encoder", "I-JEPA or MSN", FIRST, sure=True),
    Part("model_ema", "the averaged weights (EMA)", "", FIRST, sure=True),
    Part("state_dict_ema", "the averaged weights (EMA)", "", FIRST, sure=True),
    Part("ema_state_dict", "the averaged weights (EMA)", "", FIRST, sure=True),
    Part("ema", "the averaged weights (EMA)", "", FIRST, sure=True),
    Part("trunk", "the trunk", "", ONLY, sure=True),
    Part("backbone", "the backbone", "", ONLY, sure=True),
    Part("image_encoder", "the image encoder", "", ONLY, sure=True),
    Part("visual", "the image tower", ""),
    Part("vision_model", "the image tower", ""),
    Part("convnet", "the convolutional network", "SimCLR"),
    Part("f", "the encoder f", "SimCLR"),
    Part("encoder", "the encoder"),
    Part("network", "the network"),
    Part("net", "the network"),
    Part("resnet", "the network"),
    Part("vit", "the network"),
    Part("feature_extractor", "the feature extractor"),
    Part("student", "the student", "DINO, iBOT or DINOv2", SECOND, sure=True),
    Part("encoder_k", "the key encoder", "MoCo v1 or v2", SECOND, sure=True),
    Part("momentum_encoder", "the momentum encoder", "MoCo v3", SECOND, sure=True),
    Part("momentum_backbone", "the momentum encoder", "", SECOND, sure=True),
    Part("target_network", "the target network", "BYOL", SECOND, sure=True),
)
BY_WORD: Final = {part.word: part for part in _PARTS}
# Words that training frameworks put around any network.
WRAPPERS: Final = frozenset(
    {
        *("state_dict", "model_state_dict", "model_state", "model", "module", "_orig_mod", "_forward_module"),
        *("classy_state_dict", "base_model", "_feature_blocks", "params", "weights"),
    }
)

_LEFTOVERS: Final = (
    Leftover(
        r".*optim.*|opt|(?:lr_)?schedulers?|.*_schedule|(?:grad_)?scaler|amp|.*loss(?:_.*)?|criterion|callbacks|loops",
        "training state",
        inside=True,
    ),
    *(
        Leftover(re.escape(part.word), part.what.removeprefix("the "), part.style, inside=True)
        for part in _PARTS
        if part.copy != ONLY
    ),
    Leftover(r"decoder_(?:embed|blocks|norm|pred|pos_embed)", "decoder", "MAE", inside=True),
    Leftover(r"(?:.*_)?decoders?(?:_.*)?", "decoder", inside=True),
    Leftover(r"mask_token", "mask token", inside=True),
    Leftover(r"prototypes?\d*", "prototypes", "SwAV or DeepCluster", inside=True),
    Leftover(
        r"(?:projection|proj|contrastive|contrast)_(?:head|mlp|net)|projector", "projection head", inside=True
    ),
    Leftover(r"g", "projection head", "SimCLR"),
    Leftover(r"(?:.*_)?predictor|prediction_head", "predictor", inside=True),
    Leftover(r"queue\d*(?:_ptr)?", "queue of negatives", inside=True),
    Leftover(r"dino_head|ibot_head", "head", inside=True),
    Leftover(r"(?:.*_)?heads?(?:_dist)?|fc|classifier|clf|linear|neck", "head"),
)
_PATTERNS: Final = tuple((re.compile(row.pattern), row) for row in _LEFTOVERS)

DIALECTS: Final = (
    Dialect("", "", ()),
    Dialect(
        "the numbered layers of torchvision's ResNet",
        r"^7\.",
        ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *((rf"^{n + 3}\.", f"layer{n}.") for n in range(1, 5))),
    ),
    Dialect(
        "the numbered layers of torchvision's ResNet without its max pool",
        r"^6\.",
        ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *((rf"^{n + 2}\.", f"layer{n}.") for n in range(1, 5))),
    ),
    Dialect("the numbered parts of torchvision's network", r"^0\.", ((r"^0\.", "features."),)),
    Dialect("the names of Segment Anything", r"\.mlp\.lin1\.", ((r"(\.mlp)\.lin([12])\.", r"\1.fc\2."),)),
)


def split_name(name: str) -> list[str]:
    """The words of a tensor's name in a file, ENTRY/ENTRY/word.word."""
    return re.split(r"[./]", name)


def reason(name: str, *, chosen: Iterable[str] = ()) -> str:
    """Why no embedding needs the tensor `name` of a checkpoint, such as "decoder"; "" where nothing is known.

    Only the words down to the first ordinary layer speak: "proj" inside a block is no projection head. `chosen`:
    words that lead to the network that was taken, and therefore explain nothing.
    """
    words = _leading(split_name(name), frozenset(chosen))
    row = leftover(words)
    if row:
        return row.what
    return next((BY_WORD[word].what.removeprefix("the ") for word in words if word in BY_WORD), "")


def _leading(words: Sequence[str], chosen: frozenset[str]) -> list[str]:
    leading: list[str] = []
    for word in words:
        if word not in chosen:
            leading.append(word)
        if word not in WRAPPERS and word not in BY_WORD and word not in chosen:
            break
    return leading


def leftover(words: Sequence[str], *, inside: bool = False) -> Leftover | None:
    """The first row of the table that one of `words` belongs to; `inside` asks the rows of that kind alone."""
    for pattern, row in _PATTERNS:
        if (row.inside or not inside) and any(pattern.fullmatch(word) for word in words):
            return row
    return None


def is_training_state(words: Iterable[str]) -> bool:
    """Whether one of `words` names an optimizer, a loss or the like."""
    return any(_PATTERNS[0][0].fullmatch(word) for word in words)


def preference(words: Sequence[str]) -> tuple[int, int, int]:
    """(rank of the copy, its place in the table, words that are unknown): the smallest is the network to take."""
    strangers = sum(word not in BY_WORD and word not in WRAPPERS for word in words)
    for rank in (SECOND, FIRST):
        places = [place for place, part in enumerate(_PARTS) if part.copy == rank and part.word in words]
        if places:
            return rank, places[0], strangers
    return ONLY, 0, strangers
