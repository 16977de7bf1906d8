"""MRD (ISMRMRD) images, one per slice: magnitudes or complex numbers."""

# ismrmrd makes the attributes of its classes when it is imported.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.writers.base import Contents, Writer, image_of_part, maps_of

if TYPE_CHECKING:
    import numpy as np

    from medrecon.data.scan import Geometry
    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Mrd", "mrd_bytes"]

_GROUP = "reconstruction"
"""Name of the group of images."""


class Mrd(Writer):
    """``<stem>.mrd``; the format's header must record a voxel size.

    The maps of several samples are groups (series) of their own after the image's, with a description in the attributes; flags
    are uint16, since MRD has no smaller integer.
    """

    title = "MRD"
    endings = (r"\.mrd",)
    parts = ("mag", "complex")
    needs_spacing = True

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}.mrd"]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        maps = maps_of(reconstruction)
        image = image_of_part(reconstruction, output.part)
        return Contents([mrd_bytes(image, reconstruction.geometry, maps)], maps=dict.fromkeys(maps, (0,)))


def _header(shape: tuple[int, ...], field: tuple[float, ...]) -> bytes:
    """XML header of ``(slices, y, x)`` images with a field of view ``(x, y, z)`` in mm, and no other information."""
    from ismrmrd import xsd

    slices, ny, nx = shape
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=nx, y=ny, z=1),
        fieldOfView_mm=xsd.fieldOfViewMm(x=field[0], y=field[1], z=field[2]),
    )
    limit = xsd.limitType(minimum=0, maximum=slices - 1, center=slices // 2)
    encoding = xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(slice=limit),
        trajectory=xsd.trajectoryType.CARTESIAN,
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0)
    return xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding]).toXML("utf-8")


def _image(plane: np.ndarray, k: int, *, field: tuple[float, ...], lps: np.ndarray) -> Any:  # noqa: ANN401 - of ismrmrd
    """One slice.

    Args:
        plane: real or complex ``(y, x)``.
        k: number of the slice.
        field: field of view ``(x, y, z)`` in mm.
        lps: affine of (x, y, slice) in LPS, the coordinates of DICOM and MRD; x is the read direction.
    """
    import ismrmrd
    import numpy as np

    is_complex = np.iscomplexobj(plane)
    kind = np.complex64 if is_complex else np.uint16 if plane.dtype == np.uint8 else np.float32
    image = ismrmrd.Image.from_array(plane.astype(kind), transpose=False)
    image.image_type = ismrmrd.IMTYPE_COMPLEX if is_complex else ismrmrd.IMTYPE_MAGNITUDE
    image.image_index = k + 1
    image.slice = k
    image.field_of_view = field
    axes = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    image.read_dir, image.phase_dir, image.slice_dir = (tuple(axis) for axis in axes.T)
    ny, nx = plane.shape
    image.position = tuple((lps @ [nx // 2, ny // 2, k, 1])[:3])
    return image


def _attributes(name: str) -> str:
    """Meta attributes of a map, as XML."""
    import ismrmrd

    from medrecon.uncertainty import MAPS

    meta = {
        "DataRole": "Image",
        "ImageProcessingHistory": "medrecon",
        "SequenceDescriptionAdditional": name,
        "ImageComment": MAPS[name],
        "Keep_image_geometry": "1",
    }
    return ismrmrd.Meta(meta).serialize()


def mrd_bytes(volume: np.ndarray, geometry: Geometry, maps: Mapping[str, np.ndarray] | None = None) -> bytes:
    """MRD file of a magnitude or complex volume ``(slices, y, x)``; without an affine, the axes are the patient's.

    Args:
        volume: image.
        geometry: geometry of the slices.
        maps: maps like the image, by name; each is a series of its own.
    """
    import ismrmrd
    import numpy as np

    from medrecon.data.geometry import ras_to_lps

    z, y, x = geometry.spacing or (1.0, 1.0, 1.0)
    affine = np.diag([x, y, z, 1.0]) if geometry.affine is None else geometry.affine
    lps = ras_to_lps(affine)
    _, ny, nx = volume.shape
    field = (nx * float(x), ny * float(y), float(z))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.mrd"
        with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as dataset:
            dataset.write_xml_header(_header(volume.shape, field))
            for k, plane in enumerate(volume):
                dataset.append_image(_GROUP, _image(plane, k, field=field, lps=lps))
            for number, (name, values) in enumerate((maps or {}).items(), 1):
                for k, plane in enumerate(values):
                    image = _image(plane, k, field=field, lps=lps)
                    image.image_series_index = number
                    image.attribute_string = _attributes(name)
                    dataset.append_image(name, image)
        return path.read_bytes()
