from __future__ import annotations

import io
import logging
import struct
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", minversion="3.0")

from PIL import Image  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from featprobe.datasets.decoding import UnreadableImageError, UnsupportedImageError  # noqa: E402
from featprobe.datasets.formats import dicom  # noqa: E402
from featprobe.errors import MissingExtraError  # noqa: E402
from featprobe.imaging import encode_raster  # noqa: E402

SECRETS = ("Nightingale", "PID-4711-X", "19601224", "ACC-99-SECRET", "Mercy Hospital", "BROKEN-4711")
RAMP = np.arange(12, dtype=np.int16).reshape(3, 4) * 100 - 300


# Bad input


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        dicom.decode(data)
    assert caught.value.__context__ is None  # a traceback would quote pydicom
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_truncated_anywhere(make):
    data = make.written(make.image(RAMP))
    reasons = {reason(data[:end]) for end in range(140, len(data))}
    assert reasons <= {dicom.TRUNCATED, dicom.BAD_PIXELS, dicom.DAMAGED, dicom.NO_PIXELS}
    assert reason(data[:-1]) == dicom.BAD_PIXELS
    assert reason(data[: data.index(b"PID-4711-X") + 4]) == dicom.TRUNCATED


def test_truncated_compressed_data(make):
    ds = make.image(np.random.default_rng(0).integers(0, 999, (32, 32), dtype=np.int16))
    ds.compress(RLELossless)
    data = make.written(ds)
    assert reason(data[:-200]) in {dicom.TRUNCATED, dicom.BAD_PIXELS}


def test_a_report_has_no_image(make, tmp_path: Path):
    ds = make.header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    assert reason(make.written(ds)) == dicom.NO_PIXELS
    (tmp_path / "report").write_bytes(make.written(ds))
    with pytest.raises(UnreadableImageError, match="without an image"):
        dicom.survey(tmp_path / "report")


def test_a_bomb_is_refused_from_the_header(make, monkeypatch):
    data = make.written(make.image(RAMP, Rows=60000, Columns=60000))
    monkeypatch.setattr(
        "pydicom.pixels.decoders.base.Decoder.as_array", lambda *_, **__: pytest.fail("decoded")
    )
    assert reason(data) == "60,000 x 60,000 pixels, more than the limit of 178,956,970"


def test_a_codestream_that_lies_about_its_size_is_refused(make):
    from pydicom.encaps import encapsulate

    siz = struct.pack(">HHHIIIIIIIIH3B", 0xFF51, 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1, 15, 1, 1)
    ds = make.image(RAMP, JPEG2000Lossless)
    ds.PixelData = encapsulate([b"\xff\x4f" + siz + b"\0" * 40])
    ds["PixelData"].is_undefined_length = True
    assert reason(make.written(ds)) == "60,000 x 60,000 pixels, more than the limit of 178,956,970"


def test_a_deflated_bomb_is_refused(make, monkeypatch):
    monkeypatch.setattr("featprobe.datasets.formats.dicom_streams.MAX_INFLATED", 10_000)
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10_000)
    data = make.written(make.image(np.zeros((2000, 2000), np.int16), DeflatedExplicitVRLittleEndian))
    assert reason(data) == "a deflated DICOM file of more than 10,000 bytes"


def test_more_frames_than_the_file_has_room_for(make, tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(make.written(make.image(RAMP, NumberOfFrames=10**9)))
    with pytest.raises(UnreadableImageError, match="ends too early"):
        dicom.survey(path)


@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 0},
        {"SamplesPerPixel": 3},
        {"BitsStored": 99},
        {"PhotometricInterpretation": "Nightingale"},
        {"PhotometricInterpretation": "YBR_RCT", "SamplesPerPixel": 3},
        {"RescaleSlope": "1e999", "RescaleIntercept": "0"},
        {"BitsAllocated": 7},
    ],
)
def test_headers_that_contradict_themselves(make, tags):
    assert reason(make.written(make.image(RAMP, **tags))) in {dicom.DAMAGED, dicom.BAD_PIXELS}


def test_transfer_syntaxes_without_a_decoder_are_named(make):
    for uid, name in (
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level"),
        ("1.2.826.0.1.3680043.9.4711", "that the standard does not name"),
    ):
        ds = make.image(RAMP, uid)
        ds["PixelData"].is_undefined_length = True
        ds.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=True, enforce_file_format=True)
        with pytest.raises(UnsupportedImageError, match=name) as caught:
            dicom.decode(stream.getvalue())
        assert "4711" not in str(caught.value)
        assert caught.value.__context__ is None


def test_a_missing_plug_in_names_the_syntax_and_the_extra(make, monkeypatch):
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    ds = make.image(RAMP, JPEG2000Lossless)
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\0\0"])
    ds["PixelData"].is_undefined_length = True
    data = make.written(ds)
    named = r"JPEG 2000 Image Compression \(Lossless Only\).*featprobe\[dicom\]"
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    with pytest.raises(UnsupportedImageError, match=named):
        dicom.decode(data)
    plugin = {"pillow": lambda *_: (_ for _ in ()).throw(RuntimeError("12 bit"))}
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", plugin)
    with pytest.raises(UnsupportedImageError, match=named):
        dicom.decode(data)


def test_without_pydicom_the_extra_is_named(make, monkeypatch, tmp_path: Path):
    data = make.written(make.image(RAMP))
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    for call in (lambda: dicom.decode(data), lambda: dicom.survey(tmp_path / "no")):
        with pytest.raises(MissingExtraError, match=r"featprobe\[dicom\]"):
            call()


def test_what_is_dicom(make):
    data = make.written(make.image(RAMP))
    assert dicom.is_dicom(data)
    assert dicom.is_dicom(data[132:])  # meta group without preamble
    bare = data[data.index(b"\x08\x00\x16\x00UI") :]
    assert dicom.is_dicom(bare)
    np.testing.assert_array_equal(dicom.decode(bare).values, RAMP)
    implicit = make.written(make.image(RAMP, ImplicitVRLittleEndian))
    bare = implicit[implicit.index(b"\x08\x00\x16\x00\x1a\0\0\0") :]
    assert dicom.is_dicom(bare)
    np.testing.assert_array_equal(dicom.decode(bare).values, RAMP)


def test_what_is_not_dicom():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(stream, kind)
        assert not dicom.is_dicom(stream.getvalue())
    for data in (
        b"",
        b"DICM",
        b"path,label\n" * 40,
        b"\x08\x00",
        b"\x08\x00\x05\x00CS",
        b"\x08\0" * 200,
        b"\0" * 400,
    ):
        assert not dicom.is_dicom(data)
    late, early = b"\x08\0\x20\0DA\x02\x0020", b"\x08\0\x05\0CS\x02\0AB"  # (0008,0020) and (0008,0005)
    assert dicom.is_dicom(early + late)
    assert not dicom.is_dicom(late + late.replace(b"\x20\0DA", b"\x21\0DA"))  # begins too late
    assert not dicom.is_dicom(early + early)
    for _ in range(2000):
        assert not dicom.is_dicom(b"\x08\x00" + rng.bytes(398))


# Privacy


def broken(make) -> list[bytes]:
    """Files whose faults pydicom would quote in its warnings and errors."""
    sound = make.written(make.image(RAMP, WindowCenter=1, WindowWidth=9))
    bad_text = make.image(RAMP)
    for tag, value in (
        ("PatientBirthDate", b"BROKEN-4711 "),
        ("PatientAge", b"BROKEN-4711 "),
        ("SpecificCharacterSet", b"BROKEN-4711 "),
        ("RescaleSlope", b"BROKEN-4711 "),
        ("RescaleIntercept", b"BROKEN-4711 "),
    ):
        bad_text.add_new(tag, "LO", value.decode())  # written as it is, read as the standard's VR
    frames = make.image(RAMP)
    frames.add_new("NumberOfFrames", "LO", "BROKEN-4711")
    short = make.image(RAMP)
    short.PixelData = b"\0\0"
    wrong = bytearray(sound)
    place = sound.index(b"PID-4711-X") - 4
    wrong[place : place + 4] = b"QQ\xff\xff"
    jpeg = make.image(RAMP, JPEG2000Lossless)
    jpeg.PixelData = pydicom.encaps.encapsulate([b"\xff\x4fNightingale "])
    jpeg["PixelData"].is_undefined_length = True
    syntax = sound.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.BROKEN-4711\0")
    files = [make.written(ds) for ds in (bad_text, frames, short, jpeg)]
    return [*files, bytes(wrong), syntax, sound[:-3], sound[:300], sound[:400]]


@pytest.mark.parametrize("number", range(9))
def test_no_identifier_in_messages_warnings_logs_or_on_the_console(
    make, number, tmp_path: Path, caplog, capfd
):
    data = broken(make)[number]
    path = tmp_path / "file"
    path.write_bytes(data)
    caplog.set_level(logging.DEBUG)
    caplog.clear()  # what pydicom said of the making of the file
    said = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for call in (lambda: dicom.decode(data), lambda: dicom.survey(path)):
            try:
                said.append(repr(call()))
            except (UnreadableImageError, UnsupportedImageError) as error:
                said.append(f"{error} {error!r} {error.__cause__} {error.__context__}")
    out, err = capfd.readouterr()
    assert (caplog.records, warned, out, err) == ([], [], "", "")
    assert len(said) == 2
    for secret in SECRETS:
        assert secret not in "".join(said)


def test_a_raster_and_a_repr_hold_no_identifier(make, tmp_path: Path):
    data = make.written(make.image(RAMP, WindowCenter=1, WindowWidth=9))
    raster = dicom.decode(data)
    assert raster.format == "DICOM"
    packed = encode_raster(raster)
    for secret in (*SECRETS, "1.2.3"):
        assert secret.encode() not in packed
    (tmp_path / "a").write_bytes(data)
    facts = dicom.survey(tmp_path / "a")
    assert (facts.patient, facts.study, facts.modality) == ("PID-4711-X", "1.2.3.4", "MR")
    assert (facts.frames, facts.rows, facts.columns) == (1, 3, 4)
    assert "4711" not in repr(facts)
    assert "1.2.3.4" not in repr(facts)


def test_other_users_of_pydicom_keep_their_log(make, caplog):
    dicom.decode(make.written(make.image(RAMP)))
    logging.getLogger("pydicom").warning("mine")
    assert [record.message for record in caplog.records] == ["mine"]


def test_frames_are_read_from_many_threads(make):
    stack = np.stack([RAMP + k for k in range(40)])
    frames = dicom.open_frames(make.written(make.image(stack, WindowCenter=0, WindowWidth=500)))
    wrong: list[int] = []

    def look() -> None:
        wrong.extend(k for k in range(40) if not np.array_equal(frames[k].values, stack[k]))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
