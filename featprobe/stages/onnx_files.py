"""A saved model as one ONNX file, embeddings to scores or pixels to scores, proven against the model before it is written."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featprobe.config_models import ModelExportConfig
from featprobe.errors import MissingExtraError, OutputError
from featprobe.records import AnyArray, Preprocessing, canonical_json
from featprobe.stages import onnx_svm  # noqa: F401 - registers what it converts
from featprobe.stages.model_files import ModelError, SavedModel
from featprobe.stages.onnx_graphs import Graph, scores_of

if TYPE_CHECKING:
    from featprobe.backbones import Backbone

OPSET: Final = 20
IR_VERSION: Final = 10
MOST_BYTES: Final = 2**31 - 1
"""An ONNX file can't be larger."""

PROBE_TOLERANCE: Final = 1e-5
PIXELS_TOLERANCE: Final = 1e-3
"""Largest difference of a score (of a number: relative) on drawn inputs: of the probe alone, and with its backbone,
whose float32 sums are ordered differently."""

PIXELS, EMBEDDING, SCORES = "pixels", "embedding", "scores"


def write_onnx(saved: SavedModel, config: ModelExportConfig) -> str:
    """Write the model to `config.onnx`; what was written, in words.

    Alone: `embedding` float32 [N, D] -> `scores` float64 [N, K], as `FittedProbe.predict`. With its backbone:
    `pixels` uint8 [N, 3, H, W], RGB, resized and cut by the recipe's rule, which stands in the file's metadata;
    normalisation is inside. ModelError for a model that has no such form, MissingExtraError, OutputError.
    """
    _need("onnx", "onnxruntime", *(("onnxscript",) if config.with_backbone else ()))
    assert config.onnx is not None
    proto = _probe_proto(saved)
    if not config.with_backbone:
        worst = _worst_of_probe(saved, proto)
        _need_close(saved, worst, PROBE_TOLERANCE)
        _write(config.onnx, proto, saved)
        return f"embeddings [N, {saved.fitted.n_features}] to scores, which differ by at most {worst:.1e}"
    from featprobe.stages.predict import resolved_backbone, saved_recipe

    recipe = saved_recipe(saved)
    rule = recipe.preprocessing
    if len(rule.views) > 1 or rule.depth is not None or recipe.precision != "fp32":
        raise ModelError(
            f"{saved.path} can't be written as ONNX with its backbone",
            f"one view of a flat image in fp32 can; this is {rule.label} in {recipe.precision}",
            "leave out --with-backbone, or use featprobe predict",
        )
    backbone = resolved_backbone(saved, config)
    backbone.set_image_size(rule.image_size)
    whole = _merged(_backbone_proto(backbone, rule, str(saved.header["key"])), proto)
    worst = _worst_of_pixels(saved, whole, backbone, rule, recipe.storage)
    _need_close(saved, worst, PIXELS_TOLERANCE)
    _write(config.onnx, whole, saved)
    sides = " x ".join(str(side) for side in rule.image_size)
    return f"uint8 pixels [N, 3, {sides}] to scores, which differ by at most {worst:.1e}"


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError("writing ONNX", package, "onnx")


def _probe_proto(saved: SavedModel) -> Any:
    from onnx import TensorProto, helper

    graph = Graph()
    # As in the cache: what was stored in half precision was rounded before the probe saw it.
    stored = TensorProto.FLOAT16 if saved.header["recipe"]["storage"] == "float16" else TensorProto.FLOAT
    X = graph.add("Cast", graph.add("Cast", EMBEDDING, to=stored), to=TensorProto.DOUBLE)
    graph.nodes.append(helper.make_node("Identity", [scores_of(saved.fitted, graph, X)], [SCORES]))
    inside = helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", saved.fitted.n_features])
    outside = helper.make_tensor_value_info(SCORES, TensorProto.DOUBLE, ["N", saved.fitted.n_classes])
    body = helper.make_graph(graph.nodes, "probe", [inside], [outside], graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)


def _backbone_proto(backbone: Backbone, rule: Preprocessing, key: str) -> Any:
    import torch

    module = _pixels_to_embedding(backbone, rule, key).eval()
    example = torch.zeros((2, 3, *rule.image_size), dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[PIXELS],
                output_names=[EMBEDDING],
                dynamic_shapes={PIXELS: {0: torch.export.Dim("N", min=1)}},
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many types, with pages of words
        raise ModelError(
            f"{backbone.name} can't be written as ONNX",
            f"PyTorch's exporter says: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            "leave out --with-backbone",
        ) from error
    assert program is not None
    return program.model_proto


def _pixels_to_embedding(backbone: Backbone, rule: Preprocessing, key: str) -> Any:
    import torch
    from torch import nn

    class PixelsToEmbedding(nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.register_buffer("mean", torch.tensor(rule.mean, dtype=torch.float32).reshape(-1, 1, 1))
            self.register_buffer("std", torch.tensor(rule.std, dtype=torch.float32).reshape(-1, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            values = pixels.to(torch.float32).div(255).sub(self.mean).div(self.std)
            found: torch.Tensor = self.backbone(values, (key,))[key]
            return found.float()

    return PixelsToEmbedding()


def _merged(backbone: Any, probe: Any) -> Any:
    """One graph of the two; the probe takes the versions of the backbone's."""
    from onnx import compose

    probe = compose.add_prefix(probe, "probe/", rename_inputs=False, rename_outputs=False)
    del probe.opset_import[:]
    probe.opset_import.extend(backbone.opset_import)
    probe.ir_version = backbone.ir_version
    return compose.merge_models(backbone, probe, io_map=[(EMBEDDING, EMBEDDING)])


def _run(proto: Any, name: str, values: AnyArray) -> AnyArray:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([SCORES], {name: values})[0])


def _worst_of_probe(saved: SavedModel, proto: Any) -> float:
    """The largest difference on drawn embeddings."""
    drawn = np.random.default_rng(1).standard_normal((16, saved.fitted.n_features))
    rows = (drawn * np.logspace(-2, 1, 16)[:, None]).astype(np.float32)
    stored = rows.astype(saved.header["recipe"]["storage"])
    return _difference(_run(proto, EMBEDDING, rows), saved.fitted.predict(stored))


def _worst_of_pixels(
    saved: SavedModel, proto: Any, backbone: Backbone, rule: Preprocessing, storage: str
) -> float:
    """The largest difference on drawn images, of another number than the graph was traced with."""
    import torch

    if proto.ByteSize() > MOST_BYTES:
        raise ModelError(
            f"{backbone.name} with its probe takes {proto.ByteSize() / 1e9:.1f} GB",
            "an ONNX file holds 2 GB",
            "leave out --with-backbone",
        )
    key = str(saved.header["key"])
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, *rule.image_size)).astype(np.uint8)
    with torch.inference_mode():
        found = _pixels_to_embedding(backbone, rule, key)(torch.from_numpy(pixels)).numpy()
    return _difference(_run(proto, PIXELS, pixels), saved.fitted.predict(found.astype(storage)))


def _difference(found: AnyArray, wanted: AnyArray) -> float:
    return float((np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)).max())


def _need_close(saved: SavedModel, worst: float, allowed: float) -> None:
    if not worst <= allowed:
        raise ModelError(
            f"{saved.path} comes out differently as ONNX",
            f"scores differ by {worst:.1e}, allowed is {allowed:.0e}",
            "use the .skops file with featprobe predict",
        )


def _write(path: Path, proto: Any, saved: SavedModel) -> None:
    """Whole or not at all, with what a user of the file must know as metadata."""
    import onnx

    header = saved.header
    about = {
        "featprobe": canonical_json(dict(header)),
        "label_names": json.dumps(header["label_names"]),
        "task": str(header["task"]),
        "preprocessing": json.dumps(header["recipe"]["preprocessing"], sort_keys=True),
    }
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(proto.SerializeToString())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"can't write {path}", error.strerror or str(error), "choose another file with --onnx"
        ) from error
