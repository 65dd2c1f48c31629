"""DINOv2's features are those of its authors' code, plain and with registers, at every image size."""

from __future__ import annotations

import pytest
import torch

from featprobe import backbones
from featprobe.backbones.core import assemble
from featprobe.backbones.core.create import create
from featprobe.backbones.core.files import Checkpoint
from featprobe.backbones.core.info import LoadRequest
from featprobe.backbones.core.survey import survey
from featprobe.registry import BACKBONES

# Norm of the difference relative to the reference's norm, in float32.
BOUND = 1e-5
SIZES = ("224x224", "518x518", "154x154", "168x224")
MODELS = ("dinov2_vits14", "dinov2_vits14_reg")


@pytest.fixture(scope="module")
def reference(authors):
    return authors("dinov2")


def write(reference, name, path, *, classifier):
    """The authors' file of the backbone, or of the classifier: `backbone.*` and `linear_head.*`."""
    tensors = reference.tensors(name)
    if not classifier:
        inside = [key for key in tensors if key.startswith("backbone.")]
        tensors = {key.removeprefix("backbone."): tensors[key] for key in inside}
    torch.save(tensors, path)
    return str(path)


@pytest.fixture(scope="module", params=MODELS)
def backbone(request, reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "pretrain.pth"
    return backbones.load(request.param, weights=write(reference, request.param, path, classifier=False))


@pytest.fixture(scope="module", params=MODELS)
def classifier(request, reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "linear4.pth"
    weights = write(reference, request.param, path, classifier=True)
    return backbones.load(f"{request.param}_lc", weights=weights, poolings=("logits", "cls"))


def embed(backbone, reference, size, keys):
    with torch.inference_mode():
        return backbone(reference.images(size), keys)


@pytest.mark.parametrize("size", SIZES)
def test_features_are_the_authors(backbone, reference, distance, size):
    keys = ("cls", "mean", "cls+mean", "patches", "last4/cls", "last4/cls+mean")
    given = embed(backbone, reference, size, keys)
    at = f"{backbone.name}/{size}"
    cls, mean, last4 = (reference(f"{at}/{part}") for part in ("cls", "mean", "last4"))
    found = {
        "cls": distance(given["cls"], cls),
        "mean": distance(given["mean"], mean),
        "cls+mean": distance(given["cls+mean"], cls, mean),
        "patches": distance(reference.patches(given["patches"], f"{at}/patches"), reference(f"{at}/patches")),
        "last4/cls": distance(given["last4/cls"], last4),
        "last4/cls+mean": distance(given["last4/cls+mean"], last4, mean),
    }
    assert max(found.values()) <= BOUND, found


@pytest.mark.parametrize("size", SIZES)
def test_the_classifiers_logits_are_the_authors(classifier, reference, distance, size):
    name = classifier.name.removesuffix("_lc")
    given = embed(classifier, reference, size, ("logits", "cls"))
    assert given["logits"].shape == (2, 1000)
    assert distance(given["logits"], reference(f"{name}/{size}/logits")) <= BOUND
    assert distance(given["cls"], reference(f"{name}/{size}/cls")) <= BOUND


def test_timms_own_way_with_positions_would_be_seen(backbone, reference, distance):
    """Without the offset, as timm resizes them, the plain model's features are others: the test can fail."""
    backbone.set_image_size((518, 518))
    timms = create(backbone.architecture)
    timms.load_state_dict(backbone.model.state_dict(), strict=False)
    timms.set_input_size(img_size=(224, 224))
    with torch.inference_mode():
        cls = timms.forward_features(reference.images("224x224"))[:, 0]
    found = distance(cls, reference(f"{backbone.name}/224x224/cls"))
    if backbone.name.endswith("_reg"):
        assert found <= BOUND
    else:
        assert found > 1000 * BOUND


@pytest.fixture
def renamed(monkeypatch):
    """The authors' tensors under the names of an architecture, as `load` renames them once a file is read."""

    def rename(name, tensors, model):
        with monkeypatch.context() as patch:
            patch.setattr(assemble, "assemble", lambda blueprint, _request: blueprint)
            blueprint = BACKBONES.get("dinov2").build(name, LoadRequest())
        # Reading leaves out what belongs to the training alone.
        read = Checkpoint({key: tensor for key, tensor in tensors.items() if key != "mask_token"}, ())
        return assemble._renamed(read, blueprint, survey(blueprint.info.architecture), model)[0]

    return rename


@pytest.fixture
def meta_model():
    """Name -> its model without memory."""

    def make(name):
        with torch.device("meta"):
            return create(backbones.describe(name).architecture)

    return make


def test_the_giants_gated_layer_is_the_authors(reference, distance, seeded, renamed, meta_model):
    name, first = "dinov2_vitg14", "blocks.0.mlp."
    shapes = reference.shapes(name)
    theirs = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    drawn = seeded.seeded_tensors({key: shapes[key] for key in shapes if key.startswith(first)})
    theirs |= {key: torch.from_numpy(value) for key, value in drawn.items()}
    model = meta_model(name)
    ours = renamed(name, theirs, model)
    layer = model.blocks[0].mlp.to_empty(device="cpu")
    layer.load_state_dict({key.removeprefix(first): ours[key] for key in ours if key.startswith(first)})
    with torch.inference_mode():
        made = layer(torch.from_numpy(seeded.unit("tokens", (2, 3, 1536))))[..., ::8]
    assert distance(made, reference(f"{name}/mlp")) <= BOUND


@pytest.mark.parametrize("name", ["dinov2_vitb14", "dinov2_vitl14_reg", "dinov2_vitg14", "dinov2_vitg14_reg"])
def test_every_tensor_of_the_large_models_finds_its_place(reference, renamed, meta_model, name):
    theirs = {key: torch.empty(shape, device="meta") for key, shape in reference.shapes(name).items()}
    model = meta_model(name)
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in renamed(name, theirs, model).items()} == wanted
