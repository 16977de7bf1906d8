"""Base class of the output formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["MAP_NAMES", "Contents", "Writer", "image_of_part", "maps_of", "nonzero_slices", "unit_of_map"]

MAP_NAMES = ("std", "spread", "p05", "p95", "null", "null_spread", "flags")
"""Names in :data:`medrecon.uncertainty.MAPS`, which is not imported here, since it imports numpy."""


class Contents(NamedTuple):
    """Bytes of the files, in the order of :meth:`Writer.names`, and facts added to the sidecar.

    Args:
        files: bytes of the files.
        facts: entries of the sidecar.
        maps: by the name of a map, the positions in ``files`` of the files that contain it.
    """

    files: Sequence[bytes]
    facts: Mapping[str, Any] = {}
    maps: Mapping[str, Sequence[int]] = {}


class Writer:
    """An output format.

    Importing a writer imports neither numpy nor the library of its format, since the command line lists writers in its help.
    """

    title: ClassVar[str]
    """Name of the format in messages."""
    endings: ClassVar[tuple[str, ...]]
    """Regular expressions of the text after the stem in file names; ``overwrite`` removes only such files."""
    parts: ClassVar[tuple[str, ...]] = ("mag",)
    """Supported parts: ``mag``, ``mag-phase`` and ``complex``."""
    needs_position: ClassVar[bool] = False
    """Whether images must have an affine."""
    needs_spacing: ClassVar[bool] = False
    """Whether images must have a voxel size."""
    takes_like: ClassVar[bool] = False
    """Whether files have a patient and a study, which are copied from a DICOM series (``like``)."""
    takes_frames: ClassVar[bool] = False
    """Whether files can contain frames, ``(frames, slices, y, x)``."""
    takes_bids: ClassVar[bool] = False
    """Whether files can be named as BIDS derivatives."""

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """File names, relative to the output folder: first the image, then other parts, then maps, then samples.

        Args:
            stem: file name without suffix.
            slices: number of slices.
            samples: whether there are several samples.
            part: one of ``parts``.
            maps: names of the maps of several samples, see :data:`medrecon.uncertainty.MAPS`.
        """
        raise NotImplementedError

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """Contents of all files; images are never resampled or flipped."""
        raise NotImplementedError


def image_of_part(reconstruction: Reconstruction, part: str) -> np.ndarray:
    """Complex image if ``part`` is ``complex``, otherwise magnitude or HU, ``(slices, y, x)``."""
    import numpy as np

    if part != "complex" or reconstruction.phase is None:
        return reconstruction.image
    return reconstruction.image * np.exp(1j * reconstruction.phase)


def maps_of(reconstruction: Reconstruction) -> dict[str, np.ndarray]:
    """Maps of several samples by name, float32 or uint8 (flags); empty for one sample."""
    return {} if reconstruction.uncertainty is None else reconstruction.uncertainty.maps()


def unit_of_map(name: str, modality: str) -> str | None:
    """Unit of a map: ``HU``, ``image`` for the (arbitrary) unit of a magnitude image, or ``None`` for flags."""
    if name == "flags":
        return None
    return "HU" if modality == "CT" else "image"


def nonzero_slices(volume: np.ndarray) -> np.ndarray:
    """Slices that are not all zero, or all slices if there are none; a window must not depend on empty slices."""
    signal = volume.any(axis=(1, 2))
    return volume[signal] if signal.any() else volume
