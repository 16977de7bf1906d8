"""DICOM series of several volumes, classic and enhanced."""

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import generate_uid

from tests.make.dicom import LPS, numbers, oblique, write_series


def planted(volumes, seed=0):
    """Different numbers for every volume."""
    return [numbers((4, 8, 8), seed + k) for k in range(volumes)]


def write_volumes(folder, volumes, numbering="volumes", names=None, **attributes):
    """Volumes of one series; attributes as one value per volume; InstanceNumber counts through volumes or through positions."""
    uid = generate_uid()
    for k, volume in enumerate(volumes):
        n = len(volume)
        order = {
            "volumes": [k * n + z + 1 for z in range(n)],
            "down": [k * n + n - z for z in range(n)],
            "positions": [z * len(volumes) + k + 1 for z in range(n)],
        }[numbering]
        each = {key: [value[k]] * n for key, value in attributes.items()}
        name = (names or "{v}-{k}").replace("{v}", str(k))
        write_series(folder, oblique(), volume, name, order, SeriesInstanceUID=uid, **each)


def enhanced(path, volumes, **attributes):
    """One multi-frame object, frames in an odd order."""
    affine = oblique()
    shape = volumes[0].shape[1:]
    write_series(path.parent / "classic", affine, volumes[0][:1])
    ds = pydicom.dcmread(path.parent / "classic" / "0")
    cosines, spacing = ds.ImageOrientationPatient, ds.PixelSpacing
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing
    frames, pixels = [], []
    for z in (2, 0, 3, 1):
        for k, volume in enumerate(volumes):
            frame, place, turn, measure, content = (Dataset() for _ in range(5))
            place.ImagePositionPatient = [f"{v:.10g}" for v in (LPS @ affine @ [0, 0, z, 1])[:3]]
            turn.ImageOrientationPatient, measure.PixelSpacing = cosines, spacing
            for key, values in attributes.items():
                setattr(content, key, values[k])
            frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [turn]
            frame.PixelMeasuresSequence, frame.FrameContentSequence = [measure], [content]
            frames.append(frame)
            pixels.append(volume[z])
    ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = frames, len(frames)
    ds.PixelData, (ds.Rows, ds.Columns) = np.stack(pixels).astype("<i2").tobytes(), shape
    ds.save_as(path)
    return path
