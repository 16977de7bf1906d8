"""The bytes of image files: NIfTI, HDF5, MRD images and PNG; never resampled, never flipped."""

from __future__ import annotations

import gzip
import io
import tempfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from medrecon.data.errors import InputError

__all__ = ["hdf5_bytes", "mrd_bytes", "nifti_bytes", "png_bytes", "with_signal"]


def with_signal(volume: np.ndarray) -> np.ndarray:
    """The slices that are not zero, whose window then does not depend on how many others there are; all if all are zero."""
    signal = volume.any(axis=(1, 2))
    return volume[signal] if signal.any() else volume


def nifti_bytes(
    volume: np.ndarray, spacing: tuple[float, float, float] | None, affine: np.ndarray | None = None
) -> bytes:
    """A gzipped NIfTI-1 image of ``(slices, y, x)`` or ``(n, slices, y, x)``, stored as x, y, slices(, n).

    Args:
        volume: real, stored as float32, or complex, stored as complex64.
        spacing: voxel size ``(z, y, x)`` in mm, 1 for ``None``.
        affine: RAS affine of the stored axes; without one, the codes of qform and sform say "unknown", since most raw formats
            do not tell the orientation.
    """
    z, y, x = spacing or (1.0, 1.0, 1.0)
    data = np.asarray(volume, dtype=np.complex64 if np.iscomplexobj(volume) else np.float32)
    data = data.transpose(*range(volume.ndim)[::-1][:3], *range(volume.ndim - 3))
    image = nib.Nifti1Image(data, np.diag([x, y, z, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    code = 0 if affine is None else 1
    image.set_sform(image.affine, code)
    image.set_qform(image.affine, code)
    if code and np.abs(image.get_qform() - image.affine).max() > 1e-3 * max(x, y, z):
        image.set_qform(image.affine, 0)  # a quaternion knows no shear: better none than another place
    return gzip.compress(image.to_bytes(), mtime=0)


def hdf5_bytes(volume: np.ndarray, samples: np.ndarray | None) -> bytes:
    """An HDF5 file with ``reconstruction`` ``(slices, y, x)`` float32, as in fastMRI's files, whose images are cropped further.

    With ``samples`` ``(n, slices, y, x)``, if there are any.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["reconstruction"] = np.asarray(volume, dtype=np.float32)
        if samples is not None:
            file["samples"] = np.asarray(samples, dtype=np.float32)
    return buffer.getvalue()


def png_bytes(image: np.ndarray, low: float, high: float) -> bytes:
    """A grey picture of ``(y, x)``, black at ``low`` and white at ``high``; row 0 is on top."""
    from PIL import Image

    grey = np.clip((image.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * grey).astype(np.uint8), mode="L").save(buffer, "png")
    return buffer.getvalue()


def mrd_bytes(
    volume: np.ndarray,
    spacing: tuple[float, float, float] | None,
    affine: np.ndarray | None,
    name: str = "reconstruction",
) -> bytes:
    """MRD (ISMRMRD) images, one a slice: magnitudes, or complex; the header tells the field of view alone.

    Args:
        volume: ``(slices, y, x)``.
        spacing: voxel size ``(z, y, x)`` in mm.
        affine: RAS affine of (x, y, slice); x becomes the read direction.
        name: of the images' group.

    Raises:
        InputError: without a voxel size, which the format must tell.
    """
    import ismrmrd

    if spacing is None:
        raise InputError("the voxel size is not known, which MRD images need; choose another format")
    slices, ny, nx = volume.shape
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (np.diag([*spacing[::-1], 1.0]) if affine is None else affine)
    axes = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    field = tuple(float(n * s) for n, s in zip((nx, ny, 1), spacing[::-1], strict=True))
    kind = ismrmrd.IMTYPE_COMPLEX if np.iscomplexobj(volume) else ismrmrd.IMTYPE_MAGNITUDE
    xsd = ismrmrd.xsd
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=nx, y=ny, z=1),
        fieldOfView_mm=xsd.fieldOfViewMm(x=field[0], y=field[1], z=field[2]),
    )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0),
        encoding=[
            xsd.encodingType(
                encodedSpace=space,
                reconSpace=space,
                encodingLimits=xsd.encodingLimitsType(
                    slice=xsd.limitType(minimum=0, maximum=slices - 1, center=slices // 2)
                ),
                trajectory=xsd.trajectoryType.CARTESIAN,
            )
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.mrd"
        with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as dataset:
            dataset.write_xml_header(header.toXML("utf-8"))
            for k, plane in enumerate(volume):
                image = ismrmrd.Image.from_array(
                    plane.astype(np.complex64 if np.iscomplexobj(volume) else np.float32), transpose=False
                )
                image.image_type = kind
                image.image_index = k + 1
                image.slice = k
                image.field_of_view = field
                for key, axis in (("read_dir", 0), ("phase_dir", 1), ("slice_dir", 2)):
                    setattr(image, key, tuple(axes[:, axis]))
                image.position = tuple((lps @ [nx // 2, ny // 2, k, 1])[:3])
                dataset.append_image(name, image)
        return path.read_bytes()
