"""Manifests and folders whose rows belong together: cases, volumes, DICOM files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from featprobe.datasets import Dataset, DatasetOptions, open_dataset
from featprobe.errors import ConfigError, DataError

pydicom = pytest.importorskip("pydicom")
SECRETS = ("PID-4711", "PID-0815", "1.2.3.4", "1.2.3.5", "Nightingale")


def write(root: Path, text: str) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for name in "abcd":
        Image.new("L", (4, 4)).save(root / f"{name}.png")
    (root / "scans.csv").write_text(text)
    return str(root / "scans.csv")


def opened(root: Path, text: str, **options: object) -> Dataset:
    return open_dataset(write(root, text), DatasetOptions(**options))  # type: ignore[arg-type]


def volume(path: Path, *, slices: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 900, (6, 5, slices)).astype(np.int16)
    values[:, :, 0] = 7  # one grey level: never a row
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def dicom(path: Path, patient: str, study: str, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = pydicom.Dataset()
    ds.PatientName, ds.PatientID, ds.StudyInstanceUID, ds.Modality = "Nightingale^F", patient, study, "CT"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", f"1.2.9.{level}"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 2, 2, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes([level, 1, 2, 3])
    ds["PixelData"].VR = "OB"
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.save_as(path, enforce_file_format=True)


CASES = (
    "path,label,exam,centre,sequence,key,patient\n"
    "a.png,x,e1,s1,T1,k1,p\nb.png,x,e1,s1,T2,k2,p\nc.png,y,e2,s2,T1,k3,q\nd.png,y,,s2,T1,k4,q\n"
)
NAMES = {"case_column": "exam", "site_column": "centre", "modality_column": "sequence", "id_column": "key"}


def test_columns_are_named_by_options_or_left_out(tmp_path: Path) -> None:
    samples = opened(tmp_path, CASES, **NAMES).samples
    assert samples.id.tolist() == ["k1", "k2", "k3", "k4"]
    assert samples.case.tolist() == ["e1", "e1", "e2", "k4"]
    assert samples.site.tolist() == ["s1", "s1", "s2", "s2"]
    assert samples.modality.tolist() == ["T1", "T2", "T1", "T1"]
    text = "path,label,case,id,site,modality\na.png,x,e,1,s,m\nb.png,y,e,1,s,m\n"
    off = opened(tmp_path, text, **dict.fromkeys(NAMES, "none")).samples
    assert off.id.tolist() == off.case.tolist() == ["a.png", "b.png"]
    assert set(off.site.tolist()) == set(off.modality.tolist()) == {""}
    for name in NAMES:
        with pytest.raises(DataError, match=f"no column 'oops'.*--{name.replace('_', '-')}"):
            opened(tmp_path, text, **{name: "oops"})


def test_a_case_has_one_label_and_one_group_and_its_torn_rows_are_listed(tmp_path: Path) -> None:
    torn = CASES.replace("b.png,x,e1,s1,T2,k2,p", "b.png,y,e1,s1,T2,k2,p")
    with pytest.raises(
        DataError, match=r"1 of 4 rows.*row 3 \(its case has another label above: 'e1, row 2'\)"
    ):
        opened(tmp_path, torn, **NAMES)
    torn = CASES.replace("b.png,x,e1,s1,T2,k2,p", "b.png,x,e1,s1,T2,k2,q")
    with pytest.raises(DataError, match=r"row 3 \(its case has another group above: 'e1, row 2'\)"):
        opened(tmp_path, torn, **NAMES)
    assert len(opened(tmp_path, torn, **{**NAMES, "case_column": "none"}).samples) == 4
    blank = CASES.replace("b.png,x,e1", "b.png,,e1")
    with pytest.raises(DataError, match="another label"):
        opened(tmp_path, blank, **NAMES)


def test_a_case_on_two_sides_of_a_split_is_left_to_the_leak_gate(tmp_path: Path) -> None:
    text = "path,label,case,split\na.png,x,e,train\nb.png,x,e,test\nc.png,y,f,test\n"
    assert opened(tmp_path, text).samples.split.tolist() == ["train", "test", "test"]


def test_rows_of_a_case_share_their_own_group_where_none_is_declared(tmp_path: Path) -> None:
    data = opened(tmp_path, "path,label,case\na.png,x,e\nb.png,x,e\nc.png,y,f\n")
    assert data.samples.group.tolist() == ["e", "e", "f"]
    assert any("no groups declared: every case counts" in note for note in data.notes)
    some = opened(tmp_path, "path,label,case,group\na.png,x,e,\nb.png,x,e,\nc.png,y,f,p\n")
    assert some.samples.group.tolist() == ["e (no group)", "e (no group)", "p"]


def test_all_wrong_rows_of_a_long_table_are_listed_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    rows = ["path,label,split"] + [f"{'abcd'[row % 4]}.png,{row % 2},train" for row in range(5000)]
    table = [f"{line},{line and row}" for row, line in enumerate(rows)]
    table[0] = rows[0] + ",id"
    table[17] = table[17].replace(".png", ".jpg").replace("train", "trian")  # its first fault is shown
    table[2999] = table[2999].replace("train", "trian")
    table[4998] += ",x"
    with pytest.raises(DataError, match="3 of 5000 rows") as caught:
        opened(tmp_path, "\n".join(table))
    for words in (
        "row 18 (its file is missing",
        "row 3000 (an unknown split: 'trian')",
        "row 4999 (it has 5 cells",
    ):
        assert words in str(caught.value)
    many = [line.replace(".png", ".gif") for line in table]
    with pytest.raises(DataError, match=r"row 11 \(.*and 4990 more"):
        opened(tmp_path, "\n".join(many[:5001]))


def test_slices_of_a_volume_share_all_that_is_said_of_it(tmp_path: Path) -> None:
    volume(tmp_path / "v" / "one.nii.gz")
    volume(tmp_path / "v" / "two.nii", slices=3)
    text = "path,label,patient,split,site\nv/one.nii.gz,x,p,train,s\nv/two.nii,y,q,test,t\na.png,y,q,test,t\n"
    data = opened(tmp_path, text, keep_column=("label",))
    samples = data.samples
    ids = [f"v/one.nii.gz#z00{number}" for number in (1, 2, 3)] + [
        f"v/two.nii#z00{number}" for number in (1, 2)
    ]
    assert samples.id.tolist() == samples.path.tolist() == [*ids, "a.png"]
    assert samples.case.tolist() == ["v/one.nii.gz"] * 3 + ["v/two.nii"] * 2 + ["a.png"]
    assert samples.label.tolist() == [0] * 3 + [1] * 3
    assert samples.group.tolist() == ["p"] * 3 + ["q"] * 3
    assert samples.split.tolist() == ["train"] * 3 + ["test"] * 3
    assert samples.columns["label"].tolist() == ["x"] * 3 + ["y"] * 3
    assert data.decode(data.read(3)).values.shape == data.decode(data.read(4)).values.shape
    assert data.read(0) != data.read(1)
    assert data.decode(data.read(5)).format == "PNG"
    few = opened(tmp_path, text, slices="central:1", axis="sagittal").samples
    assert [name.partition("#")[2][0] for name in few.id.tolist()[:2]] == ["x", "x"]
    assert len(few) == 3
    with pytest.raises(ConfigError, match="no rule for slices"):
        opened(tmp_path, text, slices="every")


def test_a_folder_of_volumes_keeps_the_slices_of_a_file_together(tmp_path: Path) -> None:
    for name in ("x/1.nii.gz", "y/2.nii.gz"):
        volume(tmp_path / name)
    data = open_dataset(str(tmp_path))
    assert data.samples.group.tolist() == ["x/1.nii.gz"] * 3 + ["y/2.nii.gz"] * 3
    assert not data.samples.groups_declared
    assert any("no groups declared: every file counts" in note for note in data.notes)
    (tmp_path / "secret").write_bytes(bytes(32))
    (tmp_path / "secret").chmod(0o600)
    names = open_dataset(str(tmp_path), DatasetOptions(pseudonymize=tmp_path / "secret")).samples
    assert [name.partition("#")[2] for name in names.id.tolist()] == ["z001", "z002", "z003"] * 2
    assert len({name.partition("#")[0] for name in names.id.tolist()}) == 2
    assert len(set(names.case.tolist())) == len(set(names.group.tolist())) == 2


def every_word(data: Dataset) -> str:
    samples = data.samples
    columns: list[Any] = [getattr(samples, name).tolist() for name in samples.TEXT_COLUMNS]
    return f"{data.notes} {columns} {data.name}"


def test_dicom_files_are_grouped_by_patient_under_names_that_reveal_nothing(tmp_path: Path) -> None:
    dicom(tmp_path / "x/1.dcm", "PID-4711", "1.2.3.4", 1)
    dicom(tmp_path / "x/2.dicom", "PID-4711", "1.2.3.4", 2)
    dicom(tmp_path / "y/IM0003", "PID-0815", "1.2.3.5", 3)
    dicom(tmp_path / "y/DICOMDIR", "PID-0815", "1.2.3.5", 4)
    data = open_dataset(str(tmp_path))
    samples = data.samples
    assert samples.path.tolist() == ["x/1.dcm", "x/2.dicom", "y/IM0003"]
    assert samples.group.tolist() == ["patient-0001", "patient-0001", "patient-0002"]
    assert samples.case.tolist() == ["study-0001", "study-0001", "study-0002"]
    assert samples.modality.tolist() == ["CT"] * 3
    assert samples.groups_declared
    assert "groups are read from the DICOM header's patient id (2 patients)" in data.notes
    assert not [word for word in SECRETS if word in every_word(data)]
    own = open_dataset(str(tmp_path), DatasetOptions(group_column="none")).samples
    assert not own.groups_declared
    assert open_dataset(str(tmp_path), DatasetOptions(group_regex=r"^(.)")).samples.group.tolist() == [
        "x",
        "x",
        "y",
    ]


def test_a_dicom_patient_has_the_same_pseudonym_in_a_table_that_names_him(tmp_path: Path) -> None:
    dicom(tmp_path / "f" / "x" / "1.dcm", "PID-4711", "1.2.3.4", 1)
    dicom(tmp_path / "f" / "y" / "2.dcm", "PID-0815", "1.2.3.5", 2)
    options = DatasetOptions(pseudonymize=tmp_path / "secret")
    folder = open_dataset(str(tmp_path / "f"), options)
    table = open_dataset(
        write(tmp_path / "t", "path,label,patient\na.png,x,PID-0815\nb.png,y,PID-4711\n"), options
    )
    assert folder.samples.group.tolist() == table.samples.group.tolist()[::-1]
    assert folder.samples.groups_declared
    assert not [word for word in SECRETS if word in every_word(folder)]


def test_a_study_with_several_answers_is_no_case(tmp_path: Path) -> None:
    dicom(tmp_path / "x/1.dcm", "PID-4711", "1.2.3.4", 1)
    dicom(tmp_path / "y/2.dcm", "PID-4711", "1.2.3.4", 2)
    data = open_dataset(str(tmp_path))
    assert data.samples.case.tolist() == ["x/1.dcm", "y/2.dcm"]
    assert data.samples.group.tolist() == ["patient-0001"] * 2
    assert any("every file counts as its own case" in note for note in data.notes)


def test_what_a_table_says_wins_over_the_header(tmp_path: Path) -> None:
    for number in (1, 2):
        dicom(tmp_path / f"{number}.dcm", "PID-4711", "1.2.3.4", number)
    text = "path,label,patient,case,modality\n1.dcm,x,p,c,T1\n2.dcm,y,q,d,T2\n"
    samples = opened(tmp_path, text).samples
    assert samples.group.tolist() == ["p", "q"]
    assert samples.case.tolist() == ["c", "d"]
    assert samples.modality.tolist() == ["T1", "T2"]


def test_an_unfit_volume_is_named_but_not_under_pseudonyms(tmp_path: Path) -> None:
    path = tmp_path / "x" / "doe-john.nii"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2, 2), np.int16), np.eye(4)), path)
    volume(tmp_path / "y" / "fine.nii")
    with pytest.raises(DataError, match=r"doe-john\.nii"):
        open_dataset(str(tmp_path))
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path), DatasetOptions(pseudonymize=tmp_path / "secret"))
    assert "doe-john" not in str(caught.value)
