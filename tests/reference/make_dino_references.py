"""Makes arrays/dinov2.npz and arrays/dinov3.npz with the authors' own code, from a checkout outside this repository.

    python tests/reference/make_dino_references.py dinov2 CHECKOUT
    python tests/reference/make_dino_references.py dinov3 CHECKOUT

CPU, float32. Nothing of the checkout is copied; it is imported and called.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from seeded import Floats, seeded_images, seeded_tensors, sha256, unit

ARRAYS: Final = Path(__file__).with_name("arrays")
SIZES: Final = {
    "dinov2": ((224, 224), (518, 518), (154, 154), (168, 224)),
    "dinov3": ((224, 224), (256, 256), (160, 160), (192, 256)),
}
MODELS: Final = {
    "dinov2": ("dinov2_vits14", "dinov2_vits14_reg"),
    "dinov3": ("dinov3_vits16", "dinov3_vits16plus", "dinov3_convnext_tiny"),
}
# Known by their tensors' names and shapes alone: too large to be run in a test.
LARGE: Final = {
    "dinov2": ("dinov2_vitb14", "dinov2_vitl14_reg", "dinov2_vitg14", "dinov2_vitg14_reg"),
    "dinov3": (
        "dinov3_vitb16",
        "dinov3_vitl16",
        "dinov3_vith16plus",
        "dinov3_vit7b16",
        "dinov3_convnext_large",
    ),
}
# Tensors that the authors' code computes: they are stored as it left them.
COMPUTED: Final = ("rope_embed.periods", "bias_mask")
# Kept of the patch tokens: this many, evenly spaced, and every eighth channel.
TOKENS: Final = 16
CHANNELS: Final = 8


def main() -> None:
    """Write the arrays of one project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", choices=sorted(SIZES))
    parser.add_argument("checkout", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout))
    torch.manual_seed(0)
    make = {"dinov2": dinov2, "dinov3": dinov3}[options.project]
    arrays: dict[str, Any] = {}
    with torch.inference_mode():
        for name in MODELS[options.project]:
            arrays |= {f"{name}/{key}": value for key, value in make(name).items()}
    module = importlib.import_module(f"{options.project}.hub.backbones")
    with torch.device("meta"), torch.no_grad():
        for name in LARGE[options.project]:
            state = getattr(module, name)(pretrained=False).state_dict()
            arrays |= {f"{name}/{key}": value for key, value in gated_layer(module, name).items()}
            arrays[f"{name}/shapes"] = json.dumps({key: list(value.shape) for key, value in state.items()})
    np.savez_compressed(ARRAYS / f"{options.project}.npz", **arrays)


def dinov2(name: str) -> dict[str, Any]:
    """References of one DINOv2 model with its linear classifier over four blocks."""
    hub = importlib.import_module("dinov2.hub.classifiers")
    classifier = getattr(hub, f"{name}_lc")(pretrained=False).eval()
    arrays = load(classifier)
    for size in SIZES["dinov2"]:
        images = torch.from_numpy(seeded_images(size))
        arrays |= tokens(classifier.backbone, images)
        arrays[f"{at(images)}/logits"] = classifier(images).numpy()
    return arrays


def dinov3(name: str) -> dict[str, Any]:
    """References of one DINOv3 model; the rotary periods are rounded to bfloat16, as the published weights hold them."""
    model = getattr(importlib.import_module("dinov3.hub.backbones"), name)(pretrained=False).eval()
    rope = getattr(model, "rope_embed", None)
    arrays = load(model)
    if rope is not None:
        unrounded = rope.periods.clone()
        rope.periods.copy_(unrounded.bfloat16().float())
        arrays["periods"] = rope.periods.numpy().copy()
        arrays["unrounded_periods"] = unrounded.numpy()
    small = name == "dinov3_vits16"
    for size in SIZES["dinov3"][: 1 if rope is not None and not small else None]:
        arrays |= tokens(model, torch.from_numpy(seeded_images(size)))
    if small:
        rope.periods.copy_(unrounded)
        first = torch.from_numpy(seeded_images(SIZES["dinov3"][0]))
        arrays |= {f"unrounded/{key}": value for key, value in tokens(model, first).items()}
    return arrays


def load(model: Any) -> dict[str, Any]:
    """Put seeded tensors under the model's own names; their shapes, SHA-256, and what was left as computed.

    "same" lists the names under which a module that stands twice in the model appears again.
    """
    state = model.state_dict()
    first: dict[int, str] = {}
    for key, value in state.items():
        first.setdefault(value.data_ptr(), key)
    same = {key: first[value.data_ptr()] for key, value in state.items() if first[value.data_ptr()] != key}
    computed = {key: value for key, value in state.items() if key.endswith(COMPUTED)}
    drawn = [key for key in state if key not in same and key not in computed]
    seeded: dict[str, Floats] = seeded_tensors({key: tuple(state[key].shape) for key in drawn})
    given = {key: torch.from_numpy(value) for key, value in seeded.items()}
    given |= {key: given[name] for key, name in same.items()}
    model.load_state_dict(computed | given, strict=True)
    return {
        "shapes": json.dumps({key: list(state[key].shape) for key in drawn}),
        "same": json.dumps(same),
        "weights": sha256(seeded),
        **{
            f"computed/{key}": value.numpy().copy() for key, value in computed.items() if "periods" not in key
        },
    }


def gated_layer(module: Any, name: str) -> dict[str, Floats]:
    """The feed-forward layer of the first block of a giant, whose whole would not fit: every eighth channel."""
    if name != "dinov2_vitg14":
        return {}
    layer = getattr(module, name)(pretrained=False).blocks[0].mlp.to_empty(device="cpu")
    shapes = {f"blocks.0.mlp.{key}": tuple(value.shape) for key, value in layer.state_dict().items()}
    drawn = seeded_tensors(shapes)
    layer.load_state_dict({key.rpartition("mlp.")[2]: torch.from_numpy(drawn[key]) for key in shapes})
    made = layer(torch.from_numpy(unit("tokens", (2, 3, 1536))))
    return {"mlp": made[..., ::CHANNELS].numpy()}


def tokens(model: Any, images: torch.Tensor) -> dict[str, Floats]:
    """What the authors' model hands out for `images`, by name."""
    found = model.forward_features(images)
    patches = found["x_norm_patchtokens"]
    rows = np.linspace(0, patches.shape[1] - 1, TOKENS).round().astype(int)
    arrays = {
        "cls": found["x_norm_clstoken"],
        "mean": patches.mean(dim=1),
        "patches": patches[:, rows, ::CHANNELS],
    }
    if hasattr(model, "blocks"):
        last = model.get_intermediate_layers(images, n=4, return_class_token=True)
        arrays["last4"] = torch.cat([cls for _, cls in last], dim=1)
    return {f"{at(images)}/{key}": value.numpy() for key, value in arrays.items()}


def at(images: torch.Tensor) -> str:
    """Such as 224x224: height and width."""
    return f"{images.shape[2]}x{images.shape[3]}"


if __name__ == "__main__":
    main()
