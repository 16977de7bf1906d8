"""ISMRMRD headers stored with k-space arrays, as in fastMRI files: voxel size, readout oversampling, and updates of the header.

The header's x axis is the readout, the rows of fastMRI's arrays; its y axis is the phase encoding, the columns.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from medrecon.data.coils import crop_field_of_view

__all__ = ["Space", "crop_readout", "encoding_spaces", "fit_header", "measured_columns", "voxel_size"]


class Space(NamedTuple):
    """Encoded or recon space of a header.

    Args:
        matrix: matrix size (x, y, z).
        fov: field of view (x, y, z) in mm.
    """

    matrix: tuple[float, float, float]
    fov: tuple[float, float, float]


def encoding_spaces(header: bytes | None) -> tuple[Space, Space] | None:
    """Encoded and recon space of the first encoding (encoded space twice if there is no recon space); ``None`` if unusable."""
    if header is None:
        return None
    spaces = []
    try:
        root = ElementTree.fromstring(header)
        for name in ("encodedSpace", "reconSpace"):
            space = root.find(f".//{{*}}{name}")
            numbers = [
                tuple(float(space.findtext(f"{{*}}{group}/{{*}}{axis}") or 0) for axis in "xyz")
                for group in ("matrixSize", "fieldOfView_mm")
                if space is not None
            ]
            if numbers and all(0 < number < np.inf for group in numbers for number in group):
                spaces.append(Space(*numbers))  # type: ignore[arg-type]
            elif name == "encodedSpace":
                return None
    except (ElementTree.ParseError, ValueError, OverflowError):
        return None
    return spaces[0], spaces[-1]


def measured_columns(header: bytes | None, columns: int) -> tuple[int, int] | None:
    """Range ``(first, last + 1)`` of the measured columns by the header's phase encoding limits, or ``None``.

    fastMRI's attributes ``padding_left`` and ``padding_right`` are these numbers.

    Args:
        header: ISMRMRD header, or ``None``.
        columns: number of columns of k-space, which must match the encoded space.
    """
    spaces = encoding_spaces(header)
    if spaces is None or header is None or spaces[0].matrix[1] != columns:
        return None
    limit = ElementTree.fromstring(header).find("{*}encoding/{*}encodingLimits/{*}kspace_encoding_step_1")
    if limit is None:
        return None
    try:
        centre, last = (int(limit.findtext(f"{{*}}{name}") or "") for name in ("center", "maximum"))
    except ValueError:
        return None
    first = columns // 2 - centre
    return (first, first + last + 1) if 0 <= first < first + last + 1 <= columns else None


def voxel_size(header: bytes | None, shape: tuple[int, int]) -> tuple[tuple[float, float, float] | None, str]:
    """Voxel size ``(z, y, x)`` in mm of images of shape ``(rows, columns)``, and a description of any mismatch with the header.

    The size along an axis is from the encoded space, or from the recon space if only that has the length of the axis. The
    thickness of a 2-D scan is from the recon space, since the encoded space may extend beyond the slice.
    """
    spaces = encoding_spaces(header)
    if spaces is None:
        return None, ""
    encoded, recon = spaces
    sizes, mismatch = [], ""
    for axis, n in enumerate(shape):
        space = recon if n != encoded.matrix[axis] and n == recon.matrix[axis] else encoded
        if n != space.matrix[axis]:
            mismatch = (
                f"its header describes {encoded.matrix[0]:g} x {encoded.matrix[1]:g} samples, but k-space is {shape[0]} x "
                f"{shape[1]}, so the voxel size may be wrong; correct the header's matrix sizes and fields of view"
            )
        sizes.append(space.fov[axis] / space.matrix[axis])
    z_space = recon if encoded.matrix[2] == 1 else encoded
    return (z_space.fov[2] / z_space.matrix[2], sizes[0], sizes[1]), mismatch


def crop_readout(
    kspace: np.ndarray, mask: np.ndarray, header: bytes | None, has_affine: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Crop k-space to the header's recon field of view along the readout (rows), if a larger one was encoded.

    fastMRI's own code crops images to the recon size. K-space can be cropped along the readout, which is fully sampled: the
    result is the cropped image. It cannot be cropped along the columns, which are undersampled.

    Args:
        kspace: ``(slices, coils, y, x)``.
        mask: sampling mask ``(x,)`` or ``(y, x)``.
        header: ISMRMRD header, or ``None``.
        has_affine: whether the file stores an affine, which applies to the uncropped rows.

    Returns:
        K-space, its mask, and attributes that record what was and was not cropped.
    """
    spaces, rows, columns = encoding_spaces(header), *kspace.shape[-2:]
    if spaces is None:
        return kspace, mask, {}
    encoded, recon = spaces
    notes = {}
    recon_columns = round(columns * recon.fov[1] / encoded.fov[1])
    if columns == encoded.matrix[1] and recon_columns < columns:
        notes["phase encoding"] = (
            f"not cropped: {columns} columns of {encoded.fov[1]:g} mm; the header's recon field of view is the middle "
            f"{recon_columns}"
        )
    recon_rows = round(rows * recon.fov[0] / encoded.fov[0])
    if rows != encoded.matrix[0] or not 1 <= recon_rows < rows:
        return kspace, mask, notes
    sampled = np.broadcast_to(mask, (rows, columns))
    crop = f"to the middle {recon_rows} of {rows} rows, the header's recon field of view of {recon.fov[0]:g} mm"
    if has_affine or (sampled.any(axis=0) != sampled.all(axis=0)).any():
        reason = "the file stores an affine of all rows" if has_affine else "columns are not fully sampled"
        return kspace, mask, {"readout": f"not cropped {crop}: {reason}", **notes}
    cropped = crop_field_of_view(kspace, mask, (recon_rows, columns))
    notes["readout"] = f"cropped {crop}"
    return cropped, mask if mask.ndim == 1 else mask[:recon_rows], notes


def _write(parent: ElementTree.Element | None, **values: float) -> None:
    """Set the numbers of existing child elements."""
    for name, value in values.items():
        child = None if parent is None else parent.find(f"{{*}}{name}")
        if child is not None:
            child.text = f"{value:.12g}"


def fit_header(
    header: bytes, shape: tuple[int, int], spacing: tuple[float, float, float] | None, columns_kept: bool
) -> bytes:
    """Header whose encoded space matches an array ``(rows, columns)``, so that a file with both is read back unchanged.

    Args:
        header: ISMRMRD header; returned unchanged if it cannot be used.
        shape: rows and columns of the array.
        spacing: voxel size ``(z, y, x)`` in mm.
        columns_kept: whether the columns are the header's y axis, so that its recon size and limits stay valid.
    """
    spaces = encoding_spaces(header)
    if spaces is None or spacing is None:
        return header
    root = ElementTree.fromstring(header)
    (rows, columns), (z, y, x) = shape, spacing
    for encoding in root.iterfind("{*}encoding"):
        for name in ("encodedSpace", "reconSpace"):
            space = encoding.find(f"{{*}}{name}")
            matrix, field = {"x": rows, "z": 1}, {"x": rows * y, "z": z}
            if name == "encodedSpace" or not columns_kept:
                matrix["y"], field["y"] = columns, columns * x
            if space is not None:
                _write(space.find("{*}matrixSize"), **matrix)
                _write(space.find("{*}fieldOfView_mm"), **field)
        if not columns_kept:
            limits = encoding.find("{*}encodingLimits")
            for step, n in ((1, columns), (2, 1)):
                limit = None if limits is None else limits.find(f"{{*}}kspace_encoding_step_{step}")
                _write(limit, minimum=0, maximum=n - 1, center=n // 2)
    return ElementTree.tostring(root)
