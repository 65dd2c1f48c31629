"""What a DICOM header says of a person must not be found in any file or line that featprobe writes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRETS = ("DOE^JANE", "MRN4711", "19550430", "ACC0815", "St. Elsewhere")
QUICK = ("--backbone", "resnet18", "--weights", "random", "--image-size", "32")


def dicom(path, pixels, patient):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientBirthDate = f"{SECRETS[0]}{patient}", SECRETS[2]
    dataset.PatientID, dataset.StudyInstanceUID = f"{SECRETS[1]}-{patient}", f"1.2.3.4711.{patient}"
    dataset.AccessionNumber, dataset.InstitutionName = SECRETS[3], SECRETS[4]
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MR", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def hospital(tmp_path):
    """`scans/{low,high}/MRN4711-P-K.dcm`: 2 classes x 6 patients x 2 images, and one file that is cut short."""
    rng = np.random.default_rng(0)
    for patient in range(12):
        for view in range(2):
            name = f"MRN4711-{patient}-{view}.dcm"
            pixels = rng.integers(0, 2000, (40, 40)) + 900 * (patient % 2)
            dicom(tmp_path / "scans" / ("low", "high")[patient % 2] / name, pixels, patient)
    whole = (tmp_path / "scans" / "low" / "MRN4711-0-0.dcm").read_bytes()
    (tmp_path / "scans" / "low" / "MRN4711-99-0.dcm").write_bytes(whole[:-900])
    return tmp_path


def everything(folder):
    """All bytes of caches and results, and of what is inside their Parquet files."""
    files = [file for name in ("cache", "results") for file in (folder / name).rglob("*") if file.is_file()]
    tables = [pd.read_parquet(file).to_csv() for file in files if file.suffix == ".parquet"]
    return b"".join(file.read_bytes() for file in files) + "".join(tables).encode()


def test_the_patient_is_the_group_and_stays_unnamed(quick_featprobe, hospital):
    secret = hospital / "secret.key"
    printed = ""
    for command in (
        ("extract", "--data", "scans", "--pseudonymize", secret, *QUICK),
        ("probe", "--probe", "logistic", "--resamples", "50", "--jobs", "1"),
        ("compare", "--resamples", "50"),
        ("extract", "--data", "scans", "--pseudonymize", secret, *QUICK),
        ("cache", "recheck", "--rows", "4"),
    ):
        done = quick_featprobe(*command)
        assert done.returncode == 0, done.stderr
        printed += done.stdout + done.stderr
    rows = pd.read_csv(hospital / "results" / "results.csv")
    assert set(rows[rows.fold == "mean"].n_groups) == {12}
    assert "1 images could not be read" in printed
    for word in (*SECRETS, "1.2.3.4711"):
        assert word not in printed
        assert word.encode() not in everything(hospital)
    assert oct(secret.stat().st_mode)[-3:] == "600"
    assert secret.read_bytes() not in everything(hospital)


def test_without_a_key_headers_stay_unnamed_and_file_names_are_the_users(quick_featprobe, hospital):
    done = quick_featprobe("extract", "--data", "scans", *QUICK)
    assert done.returncode == 0, done.stderr
    stored = everything(hospital)
    assert b"patient-0001" in stored
    for word in (SECRETS[0], *SECRETS[2:], "1.2.3.4711"):
        assert word.encode() not in stored
        assert word not in done.stdout + done.stderr
