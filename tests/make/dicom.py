"""Series of DICOM files as scanners write them."""

import shutil
import subprocess

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

OBLIQUE = Rotation.from_euler("xyz", [12, -20, 33], degrees=True).as_matrix()
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique(sides=(0.9, 1.1, 3.3), origin=(-80.123, 40.5, 12.25), turn=OBLIQUE):
    """A RAS affine of (x, y, slice)."""
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(sides)
    affine[:3, 3] = origin
    return affine


def write_series(folder, affine, volume, name="{k}", order=None, **attributes):
    """A classic series as a scanner would; one file a slice, in any order of numbers; the data sets."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = LPS @ affine
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    series, frame = attributes.pop("SeriesInstanceUID", generate_uid()), generate_uid()
    out = []
    for k, plane in enumerate(volume):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "ID-4711", "19700101", "F"
        ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20200102", "101112", "7", "A1"
        ds.ReferringPhysicianName = "Who^Doctor"
        ds.Modality, ds.SeriesNumber = "MR", 3
        ds.InstanceNumber = k + 1 if order is None else order[k]
        ds.ImagePositionPatient = [f"{v:.10g}" for v in (lps @ [0, 0, k, 1])[:3]]
        ds.ImageOrientationPatient = [f"{v:.12g}" for v in (*lps[:3, 0] / sides[0], *lps[:3, 1] / sides[1])]
        ds.PixelSpacing = [f"{sides[1]:.10g}", f"{sides[0]:.10g}"]
        ds.SliceThickness = "1"
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = plane.astype("<i2").tobytes()
        for key, value in attributes.items():
            setattr(ds, key, value[k] if isinstance(value, list) and len(value) == len(volume) else value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        ds.save_as(folder / name.format(k=k), enforce_file_format=True)
        out.append(ds)
    return out


def numbers(shape=(6, 20, 16), seed=0):
    return np.random.default_rng(seed).integers(-500, 2000, shape).astype(np.int16)


def damaged(content, rng):
    """Cut short, or some bytes changed, half of them in the header."""
    if rng.random() < 0.3:
        return content[: int(rng.integers(1, len(content)))]
    array = np.frombuffer(content, np.uint8).copy()
    edge = min(len(array), 1500) if rng.random() < 0.5 else len(array)
    for at in rng.integers(0, edge, int(rng.integers(1, 8))):
        array[at] ^= int(rng.integers(1, 256))
    return array.tobytes()


RECORD = {
    "solver": {"name": "dds", "calibrated": False}, "seed": 0, "acceleration": 4.0, "network_evaluations": 50, "samples": 3,
    "bundle": {"name": "brain_mri", "version": "1.0"}, "input": "/data/DOE_JANE/scan.h5",
}  # fmt: skip


def magnitudes(shape=(5, 24, 20)):
    return np.random.default_rng(1).random(shape).astype(np.float32) * 7e-4


def verified(path):
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    out = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (out.stdout + out.stderr).splitlines() if line.startswith("Error")]


def verified_or_none(path):
    return verified(path) if shutil.which("dciodvfy") else []
