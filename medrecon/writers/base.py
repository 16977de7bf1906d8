"""Base class of the output formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Contents", "Writer", "image_of_part", "nonzero_slices"]


class Contents(NamedTuple):
    """Bytes of the files, in the order of :meth:`Writer.names`, and facts added to the sidecar."""

    files: Sequence[bytes]
    facts: Mapping[str, Any] = {}


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

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """File names, relative to the output folder: first the image, then other parts, then samples.

        Args:
            stem: file name without suffix.
            slices: number of slices.
            samples: whether there are several samples.
            part: one of ``parts``.
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


def nonzero_slices(volume: np.ndarray) -> np.ndarray:
    """Slices that are not all zero, or all slices if there are none; a window must not depend on empty slices."""
    signal = volume.any(axis=(1, 2))
    return volume[signal] if signal.any() else volume
