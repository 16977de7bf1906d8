"""ISMRMRD headers beside arrays of k-space, as fastMRI's files have them: voxel size, oversampled readout, and what is stored.

The header's x is the readout, which fastMRI's arrays keep as rows; y is the phase encoding, the columns.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from medrecon.data.coils import crop_field_of_view

__all__ = ["Space", "fitted", "measured_columns", "readout_cropped", "spaces", "voxel_size"]


class Space(NamedTuple):
    """An encoded or recon space.

    Args:
        matrix: (x, y, z).
        field: of view, in mm.
    """

    matrix: tuple[float, float, float]
    field: tuple[float, float, float]


def spaces(header: bytes | None) -> tuple[Space, Space] | None:
    """Encoded and recon space of the first encoding, the encoded one for both where there is no other; ``None`` if unusable."""
    if header is None:
        return None
    found = []
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
                found.append(Space(*numbers))  # type: ignore[arg-type]
            elif name == "encodedSpace":
                return None
    except (ElementTree.ParseError, ValueError, OverflowError):
        return None
    return found[0], found[-1]


def measured_columns(header: bytes | None, columns: int) -> tuple[int, int] | None:
    """First column that was measured and the one after the last, by the header's limits of the phase encoding, or ``None``.

    fastMRI's attributes ``padding_left`` and ``padding_right`` are these numbers.

    Args:
        header: of ISMRMRD, or ``None``.
        columns: of k-space, which must be those of the encoded space.
    """
    found = spaces(header)
    if found is None or header is None or found[0].matrix[1] != columns:
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
    """Voxel size ``(z, y, x)`` in mm of images of ``(rows, columns)``, and a clause on what does not fit.

    An axis is of the encoded space, or, where as long as that, of the recon space. The thickness of a 2-D scan is the recon
    space's: the encoded one may hold more than the slice.
    """
    found = spaces(header)
    if found is None:
        return None, ""
    encoded, recon = found
    sizes, misfit = [], ""
    for axis, n in enumerate(shape):
        space = recon if n != encoded.matrix[axis] and n == recon.matrix[axis] else encoded
        if n != space.matrix[axis]:
            misfit = (
                f"its header describes {encoded.matrix[0]:g} x {encoded.matrix[1]:g} samples, but k-space is {shape[0]} x "
                f"{shape[1]}, so the voxel size may be wrong; correct the header's matrix sizes and fields of view"
            )
        sizes.append(space.field[axis] / space.matrix[axis])
    deep = recon if encoded.matrix[2] == 1 else encoded
    return (deep.field[2] / deep.matrix[2], sizes[0], sizes[1]), misfit


def readout_cropped(
    kspace: np.ndarray, mask: np.ndarray, header: bytes | None, placed: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """K-space of the header's recon field of view along the readout (rows), where more of it was encoded.

    fastMRI's own code crops images to the recon size. Along the readout, which was sampled whole, k-space can be cropped: its
    image is that of all rows, cropped. Along the columns it cannot, since these are undersampled.

    Args:
        kspace: ``(slices, coils, y, x)``.
        mask: ``(x,)`` or ``(y, x)``.
        header: of ISMRMRD, or ``None``.
        placed: whether an affine is stored, which is of the rows as they are.

    Returns:
        k-space, its mask, and attributes that say what was done and what was not.
    """
    found, rows, columns = spaces(header), *kspace.shape[-2:]
    if found is None:
        return kspace, mask, {}
    encoded, recon = found
    said = {}
    shown = round(columns * recon.field[1] / encoded.field[1])
    if columns == encoded.matrix[1] and shown < columns:
        said["phase encoding"] = (
            f"not cropped: {columns} columns of {encoded.field[1]:g} mm; the header's recon field of view is the middle {shown}"
        )
    kept = round(rows * recon.field[0] / encoded.field[0])
    if rows != encoded.matrix[0] or not 1 <= kept < rows:
        return kspace, mask, said
    whole = np.broadcast_to(mask, (rows, columns))
    field = f"the header's recon field of view of {recon.field[0]:g} mm"
    if placed or (whole.any(axis=0) != whole.all(axis=0)).any():
        why = "an affine of all rows is stored" if placed else "columns were not sampled whole"
        return kspace, mask, {"readout": f"not cropped to the middle {kept} of {rows} rows, {field}: {why}", **said}
    small = crop_field_of_view(kspace, mask, (kept, columns))
    said["readout"] = f"cropped to the middle {kept} of {rows} rows, {field}"
    return small, mask if mask.ndim == 1 else mask[:kept], said


def _write(parent: ElementTree.Element | None, **values: float) -> None:
    """Put numbers into children that are there."""
    for name, value in values.items():
        child = None if parent is None else parent.find(f"{{*}}{name}")
        if child is not None:
            child.text = f"{value:.12g}"


def fitted(
    header: bytes, shape: tuple[int, int], spacing: tuple[float, float, float] | None, columns_kept: bool
) -> bytes:
    """The header with the encoded space of an array ``(rows, columns)``, so that a file of both is read as it was.

    Args:
        header: of ISMRMRD; one that cannot be used is returned as it is.
        shape: rows and columns.
        spacing: voxel size ``(z, y, x)`` in mm.
        columns_kept: whether the columns are the header's y, so that its recon size and limits stay true.
    """
    found = spaces(header)
    if found is None or spacing is None:
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
