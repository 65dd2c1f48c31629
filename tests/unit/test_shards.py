"""Weights in several files are the same weights as in one, wherever they lie, and half of them are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from featprobe import backbones
from featprobe.backbones.core.shards import shards
from featprobe.errors import BackboneError, FeatprobeError
from featprobe.stages import weights_care

pytest.importorskip("transformers", reason="the extra huggingface is not installed")

NAME = "featprobe-tests/several"
COMMIT = "c" * 40
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one/` and `several/`: a model saved by transformers in one file, and in several."""
    from featprobe.backbones.core.hf_trunk import library

    root = tmp_path_factory.mktemp("made")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with library() as transformers:
        torch.manual_seed(5)
        net = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=16)).eval()
        net.save_pretrained(root / "one")
        net.save_pretrained(root / "several", max_shard_size="60KB")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    for folder in root.iterdir():
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return root


@pytest.fixture
def several(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "several", tmp_path / "several"))


@pytest.fixture
def cache(several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with the shards of NAME; its snapshot."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(several, repository / "snapshots" / COMMIT))


def refused(name: str, **options: Any) -> str:
    with pytest.raises(BackboneError) as raised:
        backbones.load(name, offline=True, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_shards_are_the_weights_of_one_file(made: Path, several: Path, cache: Path) -> None:
    assert len(shards(several / INDEX)) > 2
    whole = backbones.load(f"hf:{made / 'one'}")
    found = [
        backbones.load(f"hf:{several}"),
        backbones.load(f"hf:{made / 'one'}", weights=str(several / INDEX)),
        backbones.load(f"hf:{NAME}", offline=True),
    ]
    assert cache.is_dir()
    assert [each.weights_sha256 for each in found] == [whole.weights_sha256] * 3
    assert [each.weights_label for each in found] == ["pretrained", "model", "pretrained"]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(found[0](images, ("cls",))["cls"], whole(images, ("cls",))["cls"])


def test_a_bundle_carries_every_shard_and_proves_each(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = backbones.load(f"hf:{NAME}", offline=True).weights_sha256
    count = len(shards(cache / INDEX))
    weights_care.bundle(names=[f"hf:{NAME}"], to=tmp_path / "w.tar", offline=True)
    assert capsys.readouterr().out.count("of-0000") == count
    shutil.rmtree(tmp_path / "hub")
    folder = tmp_path / "w"
    weights_care.unbundle(archive=tmp_path / "w.tar", to=folder)
    assert backbones.load(f"hf:{NAME}", offline=True, weights_dir=folder).weights_sha256 == before
    assert weights_care.verify(weights_dir=folder) == 0

    shard = next(iter(folder.rglob("model-00002-*")))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert f"{shard.name} is not the file that manifest.json lists" in refused(
        f"hf:{NAME}", weights_dir=folder
    )
    assert weights_care.verify(weights_dir=folder) == 1


def test_shards_stay_beside_their_index_though_another_model_brought_an_equal_one(
    several: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(several, tmp_path / "other"))
    last = shards(other / INDEX)[-1]
    save_file({name: value + 1 for name, value in load_file(last).items()}, last)
    folder = tmp_path / "w"
    expected = {}
    # Two architectures of one shape: their indexes and all shards but one are equal.
    for name, source in (("rad_dino", several), ("phikon", other)):
        located = weights_care.with_shards(
            weights_care.Located(path=source / INDEX, place=str(source), origin=f"file: {INDEX}")
        )
        weights_care.shelves.add(backbones.describe(name), located, folder)
        expected[name] = load_file(shards(source / INDEX)[-1])
    for name, tensors in expected.items():
        stored = load_file(shards(folder / name / "main" / INDEX)[-1])
        assert all(torch.equal(stored[key], value) for key, value in tensors.items())


def test_what_is_no_whole_set_is_refused(several: Path, cache: Path) -> None:
    first, second = shards(several / INDEX)[:2]
    second.rename(several / "away")
    assert f"are missing: {second.name}" in refused(f"hf:{several}")
    shutil.copy(first, second)
    assert f"{second.name} does not hold the tensors that {INDEX} says" in refused(f"hf:{several}")
    second.write_bytes((several / "away").read_bytes()[:-10])
    assert "half a download" in refused(f"hf:{several}")
    for content in ("{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../b.safetensors"}}'):
        (several / INDEX).write_text(content)
        assert f"{INDEX} is no index of weights in several files" in refused(f"hf:{several}")
    (cache / first.name).unlink()
    assert f"{first.name} is not there" in refused(f"hf:{NAME}")


def test_missing_shards_are_downloaded_of_the_commit_of_their_index(
    several: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [path.name for path in shards(several / INDEX)]
    for name in (INDEX, *names[1:]):
        (cache / name).unlink()
    monkeypatch.delenv("FEATPROBE_OFFLINE", raising=False)
    asked: list[tuple[str, str | None]] = []

    def metadata(url: str, **_: object) -> SimpleNamespace:
        if not (several / url.rpartition("/")[2]).is_file():
            response: Any = SimpleNamespace(headers={}, request=None)
            raise huggingface_hub.errors.RemoteEntryNotFoundError("no such file", response=response)
        return SimpleNamespace(size=2_000_000)

    def download(_: str, file: str, *, revision: str | None, **__: object) -> str:
        asked.append((file, revision))
        return shutil.copy(several / file, cache / file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    said: list[str] = []
    assert backbones.load(f"hf:{NAME}", announce=said.append).weights_label == "pretrained"
    assert asked == [(INDEX, None), *((name, COMMIT) for name in names)]
    assert sum("downloading" in line for line in said) == len(asked)


def test_a_fetch_without_all_shards_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    shards(cache / INDEX)[-1].unlink()
    with pytest.raises(FeatprobeError, match="is not there"):
        weights_care.fetch(names=[f"hf:{NAME}"], to=tmp_path / "w", offline=True)
    assert not (tmp_path / "w").exists()
