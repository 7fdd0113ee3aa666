"""DICOM files as a scanner writes them, including a patient's name."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from naflex_deploy.core.config import resolve
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.read import read_frames

PATIENT = "Doe^Jane"
BIRTH = "19700412"
PROFILE = resolve("medical", environment={}).profile
SLICE = np.random.default_rng(0).integers(0, 4096, (24, 40), np.uint16)


def dataset(pixels: np.ndarray | None, **elements: object) -> Dataset:
    """A file in memory.

    Args:
        pixels: [h, w], [frames, h, w] or [h, w, 3], of 8 or 16 bits.
        elements: Set over those that follow from the pixels.
    """
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    found.SOPClassUID, found.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    found.PatientName, found.PatientID, found.PatientBirthDate = PATIENT, "ID-QUARTZ", BIRTH
    if pixels is not None:
        colour = pixels.ndim == 3 and pixels.shape[2] == 3
        found.Rows, found.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
        if pixels.ndim == 3 and not colour:
            found.NumberOfFrames = len(pixels)
        found.SamplesPerPixel = 3 if colour else 1
        found.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            found.PlanarConfiguration = 0
        found.BitsAllocated = found.BitsStored = 8 * pixels.itemsize
        found.HighBit = found.BitsStored - 1
        found.PixelRepresentation = int(pixels.dtype.kind == "i")
        found.PixelData = pixels.tobytes()
        found["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def saved(found: Dataset) -> bytes:
    stream = BytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def dicom(pixels: np.ndarray | None, **elements: object) -> bytes:
    """The content of such a file."""
    return saved(dataset(pixels, **elements))


def frames(content: bytes, done: tuple[int, ...] = ()) -> list[Frame]:
    return list(read_frames(content, name="a.dcm", profile=PROFILE, done=done))


def shown(content: bytes) -> np.ndarray:
    """[h, w], the three channels being equal."""
    (frame,) = frames(content)
    assert isinstance(frame.picture, Image.Image), frame.error
    found = np.asarray(frame.picture)
    assert (found == found[..., :1]).all()
    return found[..., 0]
