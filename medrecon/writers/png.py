"""8-bit grayscale PNG, for viewing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medrecon.writers.base import MAP_NAMES, Contents, Writer, maps_of, nonzero_slices

if TYPE_CHECKING:
    import numpy as np

    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Png"]

_SHOWN = ("std", "spread", "flags")
"""Maps that are written; the others are for computation."""


class Png(Writer):
    """``<stem>.png`` of one slice, ``<stem>_000.png`` and so on of several; the sidecar records the common ``window``.

    Of the maps of several samples only those that are looked at: the standard deviation (``<stem>_std.png`` or
    ``<stem>_spread.png``), black at 0 and white at its 99.8th percentile (``map_windows`` in the sidecar), and the flags, white.
    """

    title = "PNG"
    endings = (r"\.png", r"_\d{3,}\.png", *(rf"_{name}(?:_\d{{3,}})?\.png" for name in MAP_NAMES))

    def names(self, stem: str, *, slices: int, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
        """See :meth:`Writer.names`."""
        stems = [stem, *(f"{stem}_{name}" for name in maps if name in _SHOWN)]
        return [f"{one}.png" if slices == 1 else f"{one}_{k:03d}.png" for one in stems for k in range(slices)]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        import numpy as np

        image = reconstruction.image
        window = [min(float(image.min()), 0.0), float(np.percentile(nonzero_slices(image), 99.8))]
        maps = {name: values for name, values in maps_of(reconstruction).items() if name in _SHOWN}
        windows = {name: [0.0, _white(name, values)] for name, values in maps.items()}
        pairs = [(image, window), *((maps[name], windows[name]) for name in maps)]
        files = [_png(plane, low, high) for volume, (low, high) in pairs for plane in volume]
        n = len(image)
        places = {name: range(n * (k + 1), n * (k + 2)) for k, name in enumerate(maps)}
        return Contents(files, {"window": window, **({"map_windows": windows} if maps else {})}, places)


def _white(name: str, values: np.ndarray) -> float:
    """The value that is shown white in a map."""
    import numpy as np

    return 1.0 if name == "flags" else float(np.percentile(nonzero_slices(values), 99.8))


def _png(image: np.ndarray, low: float, high: float) -> bytes:
    """PNG file of ``(y, x)``, black at ``low`` and white at ``high``; row 0 is at the top."""
    import numpy as np
    from PIL import Image

    grey = np.clip((image.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * grey).astype(np.uint8), mode="L").save(buffer, "png")
    return buffer.getvalue()
