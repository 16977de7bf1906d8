"""8-bit grayscale PNG, for viewing."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from medrecon.writers.base import Contents, Writer, nonzero_slices

if TYPE_CHECKING:
    import numpy as np

    from medrecon.posterior import Reconstruction
    from medrecon.writers.output import Output

__all__ = ["Png"]


class Png(Writer):
    """``<stem>.png`` of one slice, ``<stem>_000.png`` and so on of several; the sidecar records the common ``window``."""

    title = "PNG"
    endings = (r"\.png", r"_\d{3,}\.png")

    def names(self, stem: str, *, slices: int, samples: bool, part: str) -> list[str]:
        """See :meth:`Writer.names`."""
        return [f"{stem}.png"] if slices == 1 else [f"{stem}_{k:03d}.png" for k in range(slices)]

    def contents(self, reconstruction: Reconstruction, output: Output) -> Contents:
        """See :meth:`Writer.contents`."""
        import numpy as np

        image = reconstruction.image
        low, high = min(float(image.min()), 0.0), float(np.percentile(nonzero_slices(image), 99.8))
        return Contents([_png(plane, low, high) for plane in image], {"window": [low, high]})


def _png(image: np.ndarray, low: float, high: float) -> bytes:
    """PNG file of ``(y, x)``, black at ``low`` and white at ``high``; row 0 is at the top."""
    import numpy as np
    from PIL import Image

    grey = np.clip((image.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * grey).astype(np.uint8), mode="L").save(buffer, "png")
    return buffer.getvalue()
