from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import Dataset, DatasetOptions, UnreadableImageError, open_dataset, privacy
from featprobe.errors import DataError, FeatprobeError, OutputError

SECRET = bytes(range(32))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "salt"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    return file


def cohort(root: Path, *, patients: str = "doe-john roe-jane doe-john") -> str:
    root.mkdir(exist_ok=True)
    lines = ["path,label,patient,site,age"]
    for row, patient in enumerate(patients.split()):
        Image.fromarray(np.full((4, 4), row, np.uint8)).save(root / f"{patient}_{row}.png")
        lines.append(f"{patient}_{row}.png,{'ab'[row % 2]},{patient},s1,{row}")
    (root / "cohort.csv").write_text("\n".join(lines))
    return str(root / "cohort.csv")


def opened(spec: str, secret: Path, **options: object) -> Dataset:
    return open_dataset(spec, DatasetOptions(pseudonymize=secret, **options))  # type: ignore[arg-type]


def name_of(text: str) -> str:
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()[:16]


def test_names_are_keyed_hashes_and_all_else_stays(tmp_path: Path, secret: Path) -> None:
    data = opened(cohort(tmp_path / "a"), secret, keep_column=("age",))
    assert data.samples.id.tolist() == [
        name_of(f"{patient}_{row}.png") for row, patient in enumerate(("doe-john", "roe-jane", "doe-john"))
    ]
    assert data.samples.group.tolist() == [name_of("doe-john"), name_of("roe-jane"), name_of("doe-john")]
    assert data.samples.site.tolist() == ["s1"] * 3
    assert data.samples.columns["age"].tolist() == ["0", "1", "2"]
    assert "kept columns are stored as they are: age" in data.notes
    assert np.asarray(data.decode(data.read(1)).rgb()).max() == 1


def test_a_patient_has_one_name_in_two_data_sets_and_another_under_another_secret(
    tmp_path: Path, secret: Path
) -> None:
    one = opened(cohort(tmp_path / "a"), secret).samples
    other = opened(cohort(tmp_path / "b", patients="new doe-john x"), secret).samples
    assert one.group[0] == other.group[1]
    foreign = opened(cohort(tmp_path / "a"), tmp_path / "another").samples
    assert not set(foreign.group.tolist()) & set(one.group.tolist())


def test_a_missing_secret_is_made_private_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "new"
    data = opened(cohort(tmp_path / "a"), file)
    assert len(file.read_bytes()) == privacy.SECRET_BYTES
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert any("was made now" in note for note in data.notes)
    again = opened(cohort(tmp_path / "a"), file)
    assert again.samples.id.tolist() == data.samples.id.tolist()
    assert not any("was made now" in note for note in again.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "new"]


def test_refused_data_leave_no_secret(tmp_path: Path) -> None:
    spec = cohort(tmp_path / "a", patients="a")
    with pytest.raises(DataError):
        opened(spec, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_of_two_makers_of_a_secret_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(_: int) -> bytes:
        (tmp_path / "new").write_bytes(SECRET)
        (tmp_path / "new").chmod(0o600)
        return bytes(32)

    monkeypatch.setattr(privacy.secrets, "token_bytes", overtaken)
    assert privacy._secret(tmp_path / "new")[0] == SECRET
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_secret_that_is_none_is_refused(tmp_path: Path, secret: Path) -> None:
    spec = cohort(tmp_path / "a")
    (tmp_path / "short").write_bytes(b"salt")
    with pytest.raises(DataError, match="has 4 bytes; it needs at least 16"):
        opened(spec, tmp_path / "short")
    secret.chmod(0o644)
    with pytest.raises(DataError, match="chmod 600"):
        opened(spec, secret)
    with pytest.raises(OutputError, match="can't be made"):
        opened(spec, tmp_path / "nowhere" / "salt")
    with pytest.raises(OutputError, match="can't be read"):
        opened(spec, tmp_path)


def test_two_names_with_one_pseudonym_are_refused(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privacy, "LENGTH", 0)
    with pytest.raises(DataError, match="the same pseudonym"):
        opened(cohort(tmp_path / "a"), secret)


def test_the_part_of_a_file_stays_readable() -> None:
    names = privacy._Pseudonyms(SECRET).of(["doe.nii#z017", "doe.nii#frame003", "doe.nii", "", "doe.nii#17"])
    assert names.tolist() == [
        name_of("doe.nii") + "#z017",
        name_of("doe.nii") + "#frame003",
        name_of("doe.nii"),
        "",
        name_of("doe.nii#17"),
    ]


def told(error: BaseException) -> str:
    return f"{error} {error.__dict__} {error.args}"


def test_no_error_of_a_bad_table_shows_a_cell(tmp_path: Path, secret: Path) -> None:
    spec = cohort(tmp_path / "a")
    (tmp_path / "a" / "doe-john_0.png").unlink()
    with pytest.raises(FeatprobeError, match=r"row 2 \(its file is missing\)") as caught:
        opened(spec, secret)
    assert "doe-john" not in told(caught.value)
    with pytest.raises(FeatprobeError, match="finds a group in none") as caught:
        opened(cohort(tmp_path / "b"), secret, group_regex="nobody(.)", group_column="none")
    assert "doe-john" not in told(caught.value)


def test_no_error_of_a_bad_folder_shows_a_file(tmp_path: Path, secret: Path) -> None:
    for path in ("x/a.png", "y/b.png", "doe-john.png"):
        (tmp_path / "f" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / path).touch()
    with pytest.raises(DataError, match="images outside them: 1 of them") as caught:
        opened(str(tmp_path / "f"), secret)
    assert "doe-john" not in told(caught.value)


def test_no_error_of_reading_shows_a_file(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = opened(cohort(tmp_path / "a"), secret)
    (tmp_path / "a" / "doe-john_0.png").unlink()
    with pytest.raises(DataError, match=name_of("doe-john_0.png")) as caught:
        data.read(0)
    assert "doe-john" not in told(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied", "doe-john_0.png")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match="Permission denied") as denied:
        data.read(1)
    assert "doe-john" not in f"{denied.value} {denied.value.filename}"

    def damaged(_: Path) -> bytes:
        raise UnreadableImageError("the file is empty")

    monkeypatch.setattr(Path, "read_bytes", damaged)
    with pytest.raises(UnreadableImageError, match="the file is empty"):
        data.read(1)
