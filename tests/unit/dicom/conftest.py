"""DICOM files made in memory, with planted identifiers: the fixture `make` holds the makers."""

from __future__ import annotations

import io
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", minversion="3.0")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian  # noqa: E402

from featprobe.datasets.formats import dicom  # noqa: E402


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(
        header=header, image=image, written=written, read=read, lut=lut, group=group, rgb_tags=rgb_tags
    )


def header(**tags: Any) -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Nightingale^Florence", "PID-4711-X", "19601224"
    ds.AccessionNumber, ds.InstitutionName = "ACC-99-SECRET", "Mercy Hospital"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.StudyInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.3.4"
    ds.Modality = "MR"
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return ds


def image(pixels, syntax=ExplicitVRLittleEndian, **tags: Any) -> Dataset:
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    ds = header()
    ds.Rows, ds.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    if pixels.ndim == (4 if colour else 3):
        ds.NumberOfFrames = len(pixels)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.dtype.kind == "f":
        ds.BitsAllocated = 8 * pixels.dtype.itemsize
        setattr(ds, "FloatPixelData" if pixels.itemsize == 4 else "DoubleFloatPixelData", pixels.tobytes())
    else:
        ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
        raw = pixels.astype(
            pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        ).tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        ds["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def written(ds: Dataset) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read(pixels, **tags: Any):
    return dicom.decode(written(image(pixels, **tags)))


def lut(first: int, bits: int, entries: Any) -> list[Dataset]:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return [item]


def group(**sequences: dict[str, Any]) -> Dataset:
    found = Dataset()
    for name, tags in sequences.items():
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(found, name, [item])
    return found


def rgb_tags(**more: Any) -> dict[str, Any]:
    return {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, **more}
