"""LVM-Med: the authors' files as they are, and the encoder against a rendering written from the published equations.

The rendering follows Segment Anything (Kirillov et al., ICCV 2023, arXiv 2304.02643) and ViTDet (Li et al., ECCV 2022,
arXiv 2203.16527) for windows and decomposed relative positions (Li et al., MViTv2, CVPR 2022, arXiv 2112.01526).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import timm
import torch
from torch.nn import functional

from featprobe import backbones
from featprobe.backbones import Backbone
from featprobe.errors import BackboneError

Tensors = dict[str, torch.Tensor]
WIDTH, HEADS, DEPTH, WINDOW, GRID = 768, 12, 12, 14, 64
GLOBAL: Final = (2, 5, 8, 11)
EPSILON: Final = 1e-6


def authors_tensors() -> Tensors:
    """Seeded weights under the key names of Segment Anything's image encoder, in float16 to be quick to save."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int, around: float = 0.0) -> torch.Tensor:
        return (around + 0.02 * torch.randn(shape, generator=generator)).half()

    tensors = {"patch_embed.proj.weight": draw(WIDTH, 3, 16, 16), "patch_embed.proj.bias": draw(WIDTH)}
    for number in range(DEPTH):
        reach = 2 * (GRID if number in GLOBAL else WINDOW) - 1
        block = {
            "norm1.weight": draw(WIDTH, around=1.0),
            "norm1.bias": draw(WIDTH),
            "attn.rel_pos_h": 10 * draw(reach, WIDTH // HEADS),
            "attn.rel_pos_w": 10 * draw(reach, WIDTH // HEADS),
            "attn.qkv.weight": draw(3 * WIDTH, WIDTH),
            "attn.qkv.bias": draw(3 * WIDTH),
            "attn.proj.weight": draw(WIDTH, WIDTH),
            "attn.proj.bias": draw(WIDTH),
            "norm2.weight": draw(WIDTH, around=1.0),
            "norm2.bias": draw(WIDTH),
            "mlp.lin1.weight": draw(4 * WIDTH, WIDTH),
            "mlp.lin1.bias": draw(4 * WIDTH),
            "mlp.lin2.weight": draw(WIDTH, 4 * WIDTH),
            "mlp.lin2.bias": draw(WIDTH),
        }
        tensors |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
    neck = {
        "0.weight": draw(256, WIDTH, 1, 1),
        "1.weight": draw(256, around=1.0),
        "1.bias": draw(256),
        "2.weight": draw(256, 256, 3, 3),
        "3.weight": draw(256, around=1.0),
        "3.bias": draw(256),
    }
    return tensors | {f"neck.{name}": tensor for name, tensor in neck.items()}


def norm(x: torch.Tensor, t: Tensors, name: str) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = (centred.square().mean(dim=-1, keepdim=True) + EPSILON).sqrt()
    return centred / spread * t[f"{name}.weight"] + t[f"{name}.bias"]


def linear(x: torch.Tensor, t: Tensors, name: str) -> torch.Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def positions(stored: torch.Tensor, side: int) -> torch.Tensor:
    """[side, side, d]: the vector of every distance, the stored ones interpolated to 2 * side - 1."""
    line = functional.interpolate(stored.T[None], size=2 * side - 1, mode="linear")[0].T
    steps = torch.arange(side)
    return line[steps[:, None] - steps[None, :] + side - 1]


def attend(x: torch.Tensor, t: Tensors, name: str) -> torch.Tensor:
    """Self-attention of [B, s, s, D] with the bias q . (R_h + R_w)."""
    count, side, _, width = x.shape
    head = width // HEADS
    q, k, v = (
        part.reshape(count, side * side, HEADS, head).transpose(1, 2)
        for part in linear(x, t, f"{name}.qkv").chunk(3, dim=-1)
    )
    cells = q.reshape(count, HEADS, side, side, head)
    rows = torch.einsum("bnyxc,ykc->bnyxk", cells, positions(t[f"{name}.rel_pos_h"], side))
    columns = torch.einsum("bnyxc,xkc->bnyxk", cells, positions(t[f"{name}.rel_pos_w"], side))
    bias = (rows[..., :, None] + columns[..., None, :]).reshape(count, HEADS, side * side, side * side)
    weights = (q @ k.transpose(2, 3) / head**0.5 + bias).softmax(dim=-1)
    joined = (weights @ v).transpose(1, 2).reshape(count, side, side, width)
    return linear(joined, t, f"{name}.proj")


def windowed(x: torch.Tensor, t: Tensors, name: str) -> torch.Tensor:
    """Attention inside windows of 14 x 14, the map padded with zeros at the bottom and right."""
    side = x.shape[1]
    padded = functional.pad(x, (0, 0, 0, -side % WINDOW, 0, -side % WINDOW))
    result = torch.zeros_like(padded)
    for top in range(0, padded.shape[1], WINDOW):
        for left in range(0, padded.shape[2], WINDOW):
            place = (slice(None), slice(top, top + WINDOW), slice(left, left + WINDOW))
            result[place] = attend(padded[place], t, name)
    return result[:, :side, :side]


def render(t: Tensors, images: torch.Tensor) -> torch.Tensor:
    """[B, h, w, 768] after the last block, before the neck."""
    x = functional.conv2d(images, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=16)
    x = x.permute(0, 2, 3, 1)
    for number in range(DEPTH):
        block = f"blocks.{number}"
        attention = attend if number in GLOBAL else windowed
        x = x + attention(norm(x, t, f"{block}.norm1"), t, f"{block}.attn")
        inner = functional.gelu(linear(norm(x, t, f"{block}.norm2"), t, f"{block}.mlp.lin1"))
        x = x + linear(inner, t, f"{block}.mlp.lin2")
    return x


def render_neck(t: Tensors, x: torch.Tensor) -> torch.Tensor:
    x = norm((x @ t["neck.0.weight"][:, :, 0, 0].T), t, "neck.1").permute(0, 3, 1, 2)
    return norm(functional.conv2d(x, t["neck.2.weight"], padding=1).permute(0, 2, 3, 1), t, "neck.3")


@pytest.fixture(scope="module")
def weights() -> Tensors:
    return authors_tensors()


@pytest.fixture(scope="module")
def encoder(weights: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    path = tmp_path_factory.mktemp("lvmmed") / "lvmmed_vit.pth"
    torch.save(weights, path)
    yield backbones.load("lvmmed_vitb", weights=str(path))
    path.unlink()


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())


@pytest.mark.parametrize("side", [224, 256])
def test_the_encoder_agrees_with_the_published_equations(
    side: int, encoder: Backbone, weights: Tensors
) -> None:
    """At 224 one window fills the map; 256 needs four, padded."""
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours = encoder(images, ["gap", "patches", "pre_logits"])
        floats = {name: tensor.float() for name, tensor in weights.items()}
        theirs = render(floats, images)
        assert far(ours["patches"], theirs) < 1e-5
        assert far(ours["gap"], theirs.mean(dim=(1, 2))) < 1e-5
        assert far(ours["pre_logits"], render_neck(floats, theirs).mean(dim=(1, 2))) < 1e-5


def test_every_tensor_of_the_file_has_its_place(encoder: Backbone, weights: Tensors) -> None:
    assert (encoder.missing, encoder.unexpected) == ((), ())
    state = encoder.model.state_dict()
    assert len(state) == len(weights) == 176
    assert all(
        torch.equal(state[name.replace("mlp.lin", "mlp.fc")], weights[name].float()) for name in weights
    )
    assert any("Segment Anything" in note for note in encoder.notes)


def test_segment_anythings_own_encoder_is_refused(weights: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    positioned = weights | {"pos_embed": torch.zeros(1, GRID, GRID, WIDTH)}
    torch.save({f"image_encoder.{name}": tensor for name, tensor in positioned.items()}, path)
    with pytest.raises(BackboneError, match="absolute positions") as raised:
        backbones.load("lvmmed_vitb", weights=str(path))
    path.unlink()
    assert "samvit_base_patch16" in str(raised.value)


def test_the_resnet_is_torchvisions_with_or_without_its_classifier(tmp_path: Path) -> None:
    path = tmp_path / "lvmmed_resnet.torch"
    tensors = dict(timm.create_model("resnet50", num_classes=0).state_dict())
    torch.save(tensors, path)
    loaded = backbones.load("lvmmed_resnet50", weights=str(path))
    path.unlink()
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in tensors.items())
    assert loaded.weights_label == "lvmmed_resnet"


@pytest.mark.parametrize(
    ("name", "file"), [("lvmmed_resnet50", "lvmmed_resnet.torch"), ("lvmmed_vitb", "lvmmed_vit.pth")]
)
def test_they_are_had_by_file_only_and_it_is_said_where(name: str, file: str) -> None:
    with pytest.raises(BackboneError) as raised:
        backbones.load(name)
    text = str(raised.value)
    assert file in text
    assert "github.com/duyhominhnguyen/LVM-Med" in text
    assert f"--weights {name}=FILE" in text
    info = backbones.describe(name)
    assert info.files == ()
    assert "no commercial use" in info.licence
    rule = backbones.preprocessing(name)
    assert (rule.image_size, rule.fit, rule.interpolation) == ((224, 224), "squash", "bilinear")


def test_an_image_size_that_the_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(BackboneError, match="the nearest sizes are 224 and 240"):
        backbones.preprocessing("lvmmed_vitb", image_size=230)
