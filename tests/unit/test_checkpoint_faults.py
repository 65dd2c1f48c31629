"""Files that are no weights, or not whole: each is named for what it is, and nothing in any of them runs."""

from __future__ import annotations

import contextlib
import copyreg
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from featprobe.backbones.core.files import SUFFIXES, read_checkpoint
from featprobe.backbones.core.reading import read
from featprobe.errors import BackboneError

TENSORS: Final = {"conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "fc.bias": torch.ones(300)}


def refused(path: Path) -> str:
    with pytest.raises(BackboneError) as raised:
        read_checkpoint(path, name="resnet18")
    text = str(raised.value)
    assert path.name in text
    assert "\n" not in text
    assert text.count("; ") >= 2, "what was wrong; what is known; what to type"
    return text


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "web page, not weights"),
        (b"\n\n<html><head><title>Sign in</title>", "which says: Sign in"),
        (
            b"<?xml version='1.0'?><Error><Message>Access Denied</Message></Error>",
            "which says: Access Denied",
        ),
        (b'{"error": "Repository not found"}', "web page, not weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234567\n",
            "of 1,234,567 bytes",
        ),
        (b"\x89HDF\r\n\x1a\n", "HDF5 or Keras"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (gzip.compress(b"weights"), "unpack it first"),
        (b"", "it is empty"),
        (b"weights, surely", "can't be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_what_was_saved_instead_of_weights_is_named(
    start: bytes, said: str, suffix: str, tmp_path: Path
) -> None:
    assert said in refused(write(tmp_path / f"file{suffix}", start))


def test_archives_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "moco.pth.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())
    assert "tar archive" in refused(tmp_path / "moco.pth.tar")
    with zipfile.ZipFile(tmp_path / "bundle.pth", "w") as zipped:
        zipped.writestr("weights/model.pth", b"")
    assert "without a state dict; it holds weights/model.pth" in refused(tmp_path / "bundle.pth")
    for name, what in (("a.npz", "NumPy"), ("a.h5", "Keras"), ("a.ckpt.index", "TensorFlow"), ("a.pkl", "pickle"),
                       ("a.onnx", "ONNX"), ("a.xyz", "'.xyz'")):  # fmt: skip
        text = refused(write(tmp_path / name, b"content"))
        assert what in text
        assert all(suffix in text for suffix in SUFFIXES)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "scripted.pt"))
    text = refused(tmp_path / "scripted.pt")
    assert "TorchScript" in text
    assert "torch.jit.load(FILE).state_dict()" in text


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_half_a_download_is_said_with_the_sizes(share: float, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    cut = whole[: int(share * len(whole))]
    text = refused(write(tmp_path / "half.safetensors", cut))
    assert f"it has {len(cut):,} bytes" in text
    if share >= 0.3:
        assert f"its header promises {len(whole):,} bytes: half a download" in text
    torch.save(TENSORS, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    text = refused(write(tmp_path / "half.pth", whole[: int(share * len(whole))]))
    assert "the record at its end is missing: half a download" in text
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    assert "truncated" in refused(write(tmp_path / "half.pth", whole[: int(share * len(whole))]))


def test_a_file_is_read_for_what_it_is_not_for_what_it_is_called(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.bin")
    torch.save(TENSORS, tmp_path / "b.safetensors")
    for name in ("a.bin", "b.safetensors"):
        tensors = read_checkpoint(tmp_path / name).tensors
        assert all(torch.equal(tensors[key], tensor) for key, tensor in TENSORS.items())


def test_a_lying_safetensors_header_is_refused(tmp_path: Path) -> None:
    for entry in (
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 50]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [16, 0]},
        [],
    ):
        header = json.dumps({"weight": entry}).encode()
        path = write(tmp_path / "lie.safetensors", struct.pack("<Q", len(header)) + header + bytes(16))
        assert "can't be read" in refused(path)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Configured:
    """Stands for OmegaConf and other classes that nobody expects in a weights file."""


def wrapped(evil: Any) -> list[Any]:
    forged = Namespace()
    forged.__dict__["out"] = evil
    return [
        {"state_dict": TENSORS, "extra": evil},
        {"state_dict": OrderedDict(TENSORS), "args": forged},
        {"conv1.weight": evil},
        [evil],
        evil,
    ]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_runs_none(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for evil in (
        Call(Path.touch, Path("it-ran")),
        Call(eval, "open('it-ran', 'w')"),
        Call(getattr(__import__("os"), "system"), "touch it-ran"),  # noqa: B009  as a forger would
        Call(np.save, "it-ran", np.zeros(1)),
        Call(copyreg._reconstructor, Configured, object, None),
    ):
        for content in wrapped(evil):
            torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
            text = refused(tmp_path / "evil.pth")
            assert "refused: it holds Python objects" in text
            assert "would run code" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]
    for protocol in range(6):
        write(tmp_path / "evil.pth", pickle.dumps(Call(Path.touch, Path("it-ran")), protocol=protocol))
        refused(tmp_path / "evil.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


def test_the_class_that_is_refused_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "cfg": Configured()}, tmp_path / "cfg.pth")
    text = refused(tmp_path / "cfg.pth")
    assert "Configured)" in text
    assert "weights_only=False" in text


def test_harmless_leftovers_are_stood_in_for_and_never_built(tmp_path: Path) -> None:
    """What a file says of NumPy's numbers, paths and command lines reaches none of these, forged or not."""
    leftovers = {
        "args": Namespace(lr=np.float32(1), inner=Namespace(deep=np.int64(2))),
        "out": Path("x"),
        "scalar": np.float64(0.5),
        "dtype": np.dtype("float64"),
        "forged dtype": Call(np.dtype, {"names": ["a"], "formats": ["O"], "offsets": [-8]}),
        "forged scalar": Call(np.float64(0).__reduce__()[0], b"no dtype", b"\xff" * 1000),
    }
    before = torch.serialization.get_safe_globals()
    for zipped in (True, False):
        path = tmp_path / "left.pth"
        torch.save({"state_dict": TENSORS, **leftovers}, path, _use_new_zipfile_serialization=zipped)
        content = read(path)
        assert {type(content[name]).__name__ for name in leftovers} == {"_Inert"}
        assert not any(hasattr(content[name], "__dict__") for name in leftovers), "it keeps nothing"
        assert set(read_checkpoint(path).tensors) == set(TENSORS)
    assert torch.serialization.get_safe_globals() == before, "nothing stays allowed"


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.zeros(3, device="meta"), "without values"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.tensor([1.0, torch.inf]), "not finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(tensor: torch.Tensor, what: str, tmp_path: Path) -> None:
    torch.save({"layer.weight": tensor}, tmp_path / "odd.pth")
    text = refused(tmp_path / "odd.pth")
    assert what in text
    assert "layer.weight" in text


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    kind = data.draw(st.sampled_from(["zip", "legacy", "safetensors"]))
    path = folder / ("a.safetensors" if kind == "safetensors" else "a.pth")
    small = {"a.weight": torch.ones(2, 2), "b": torch.ones(1)}
    if kind == "safetensors":
        save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with contextlib.suppress(BackboneError):
        read_checkpoint(path)
    path.unlink()
