"""What a format of outputs has to offer: names, bytes, and what it needs or can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Contents", "Writer", "whole_image", "with_signal"]


class Contents(NamedTuple):
    """Bytes of the files, in the order of :meth:`Writer.names`, and facts that join the sidecar."""

    files: Sequence[bytes]
    facts: Mapping[str, Any] = {}


class Writer:
    """One format.

    Importing a writer imports neither numpy nor the library of its format: the command line lists writers in its help.
    """

    title: ClassVar[str]
    """Name of the format in sentences."""
    endings: ClassVar[tuple[str, ...]]
    """Regular expressions of what follows the stem in its names; an overwriting run removes only such files."""
    parts: ClassVar[tuple[str, ...]] = ("mag",)
    """Of ``mag``, ``mag-phase`` and ``complex`` those that it can hold."""
    needs_position: ClassVar[bool] = False
    """Whether images must have an affine."""
    needs_spacing: ClassVar[bool] = False
    """Whether images must have a voxel size."""
    takes_like: ClassVar[bool] = False
    """Whether files hold patient and study, which a DICOM series (``like``) supplies, with or without identity."""
    takes_frames: ClassVar[bool] = False
    """Whether files can hold frames, ``(frames, slices, y, x)``."""
    takes_bids: ClassVar[bool] = False
    """Whether files can have names of BIDS derivatives."""

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """Names below the output folder: the image to show first, then other parts, then samples.

        Args:
            stem: name of the files without suffix.
            slices: number of slices.
            samples: whether there are several samples.
            part: one of ``parts``.
        """
        raise NotImplementedError

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """The bytes of all files; never resampled, never flipped."""
        raise NotImplementedError


def whole_image(reconstruction: Reconstruction, part: str) -> np.ndarray:
    """The complex image for ``complex``, else the magnitude (or HU), ``(slices, y, x)``."""
    import numpy as np

    if part != "complex" or reconstruction.phase is None:
        return reconstruction.image
    return reconstruction.image * np.exp(1j * reconstruction.phase)


def with_signal(volume: np.ndarray) -> np.ndarray:
    """The slices that are not all zero (all, if every slice is), so that a window does not depend on the number of empty ones."""
    signal = volume.any(axis=(1, 2))
    return volume[signal] if signal.any() else volume
