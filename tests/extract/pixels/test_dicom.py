"""DICOM: the greys that its window gives, one group per patient, and a reason where there is no image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onepass.extract import Backbone, run_extraction
from onepass.extract.pixels.decode import decode_image, decode_whole
from onepass.features import FeatureFile
from onepass.features.errors import UnreadableImageError

pydicom: Any = pytest.importorskip("pydicom")

VALUES = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80  # 0 to 3760, of 12 bits


def written(pixels: np.ndarray = VALUES, *, patient: str = "p1", **tags: object) -> bytes:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    header = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID, header.PatientID = meta.MediaStorageSOPClassUID, "1.2.3", patient
    header.Rows, header.Columns = pixels.shape[-2:] if pixels.ndim == 2 else pixels.shape[-3:-1]
    header.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    header.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    header.BitsAllocated = header.BitsStored = pixels.dtype.itemsize * 8
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim > 2:
        header.PlanarConfiguration = 0
    header.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(header, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, header, enforce_file_format=True)
    return file.getvalue()


def greys(data: bytes) -> np.ndarray:
    pixels = decode_whole(data, resize="squash")
    assert (pixels[..., 0] == pixels[..., 1]).all()
    return pixels[..., 0].astype(int)


def test_a_window_shows_what_lies_in_it():
    found = greys(written(WindowCenter=1000, WindowWidth=801))
    wanted = np.clip((VALUES - 999.5) / 800 + 0.5, 0, 1) * 255  # DICOM PS3.3, C.11.2.1.2.1
    assert np.abs(found - wanted).max() <= 0.5
    exact = greys(written(WindowCenter=[1000, 3000], WindowWidth=[800, 10], VOILUTFunction="LINEAR_EXACT"))
    assert np.abs(exact - np.clip((VALUES - 1000.0) / 800 + 0.5, 0, 1) * 255).max() <= 0.5
    curved = greys(written(WindowCenter=1000, WindowWidth=800, VOILUTFunction="SIGMOID"))
    assert np.abs(curved - 255 / (1 + np.exp(-4 * (VALUES - 1000.0) / 800))).max() <= 0.5


def test_units_come_before_the_window():
    signed = (VALUES.astype(np.int16)) - 1024
    found = greys(written(signed, RescaleSlope=2, RescaleIntercept=-10, WindowCenter=40, WindowWidth=400))
    assert np.abs(found - np.clip((signed * 2 - 10 - 39.5) / 399 + 0.5, 0, 1) * 255).max() <= 0.5


def test_without_a_window_the_darkest_is_black_and_the_brightest_white():
    assert np.abs(greys(written()) - VALUES / 3760 * 255).max() <= 0.5
    assert greys(written(np.full((4, 4), 7, np.uint16))).max() == 0


def test_the_inverse_greys_are_turned():
    plain = greys(written(WindowCenter=1000, WindowWidth=801))
    turned = greys(written(WindowCenter=1000, WindowWidth=801, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(turned, 255 - plain)


def test_a_table_in_the_file_is_followed():
    table = pydicom.dataset.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], np.arange(4095, -1, -1, dtype=np.uint16).tobytes()
    assert np.abs(greys(written(VOILUTSequence=[table])) - (4095 - VALUES.astype(int)) / 4095 * 255).max() <= 0.5


def test_colours_and_the_first_of_several_frames(rng: np.random.Generator):
    colours = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_whole(written(colours), resize="squash"), colours)
    frames = np.stack([VALUES, VALUES[::-1]])
    several = written(VALUES, PixelData=frames.tobytes(), NumberOfFrames=2)
    np.testing.assert_array_equal(greys(several), greys(written()))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(Rows=0), "damaged: "),
        (written(Rows=60000, Columns=60000), "more than 178 million pixels (decompression bomb?)"),
        (written(PixelData=b"\0" * 10), "damaged: "),
        (written()[:140], "damaged: |DICOM without an image"),
    ],
)
def test_what_holds_no_image_has_a_reason(data: bytes, reason: str):
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(data, image_size=8, resize="squash")
    assert str(caught.value).startswith(tuple(reason.split("|")))


def test_keras_reads_none():
    with pytest.raises(UnreadableImageError, match=r"^not an image \(JPEG, PNG, BMP, GIF are all that "):
        decode_image(written(), image_size=8, resize="keras")


def test_images_of_a_patient_stay_on_one_side(tmp_path: Path, tiny_backbone: Backbone):
    for kind in ("ill", "well"):
        for i in range(12):
            path = tmp_path / "scans" / kind / f"{i}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written(VALUES + i + 50 * (kind == "ill"), patient=f"Käthe {kind} {i // 3}"))
    (tmp_path / "scans" / "ill" / "nobody.dcm").write_bytes(written(patient=""))
    done = run_extraction(tmp_path / "scans", tiny_backbone, out=tmp_path / "f.h5")
    assert (done.images, done.computed) == (25, 25)
    with FeatureFile(done.path) as file:
        groups = dict(zip(file.table.paths, file.table.groups, strict=True))
        assert groups["ill/0.dcm"] == groups["ill/2.dcm"] != groups["ill/3.dcm"]
        assert len(set(groups.values())) == 9
        assert groups["ill/nobody.dcm"] == ""
        assert not any("thea" in group or "Käthe" in group for group in groups.values())
        for group in set(groups.values()) - {""}:
            sides = {
                side for one, side in zip(file.table.groups, file.table.splits.tolist(), strict=True) if one == group
            }
            assert len(sides) == 1
    (tmp_path / "scans" / "ill" / "new.dcm").write_bytes(written(VALUES + 99, patient="Käthe ill 0"))
    again = run_extraction(tmp_path / "scans", tiny_backbone, out=tmp_path / "f.h5")
    assert again.computed == 1
    with FeatureFile(done.path) as file:
        after = dict(zip(file.table.paths, file.table.groups, strict=True))
        assert after["ill/new.dcm"] == groups["ill/0.dcm"]


def test_damaged_files_end_in_a_reason(rng: np.random.Generator):
    data = written(WindowCenter=1000, WindowWidth=801, NumberOfFrames=1)
    for _ in range(300):
        spoiled = bytearray(data[: rng.integers(133, len(data))] if rng.random() < 0.3 else data)
        for place in rng.integers(132, len(spoiled), 3):
            spoiled[place] = rng.integers(256)
        try:
            assert decode_image(bytes(spoiled), image_size=8, resize="squash").shape == (8, 8, 3)
        except UnreadableImageError as error:
            assert str(error)
