"""Orthogonal wavelet transform over any number of axes, with the filters and the ``zero`` boundary of PyWavelets."""

from __future__ import annotations

from collections.abc import Sequence

import pywt
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Wavelet"]


class Wavelet:
    """Multilevel wavelet analysis over the spatial axes and its adjoint, which is its inverse.

    The signal is extended by zeros and every nonzero coefficient is kept, as in PyWavelets' mode ``zero``, so that W is an
    isometry, W^H W = I.

    Args:
        shape: spatial shape.
        name: name of an orthogonal wavelet of PyWavelets.

    Raises:
        ValueError: if the wavelet is not orthogonal, so that the adjoint is not the inverse.
    """

    def __init__(self, shape: Sequence[int], name: str = "db4") -> None:
        wavelet = pywt.Wavelet(name)  # type: ignore[attr-defined]
        if not wavelet.orthogonal:
            raise ValueError(f"wavelet {name!r} is not orthogonal; choose one of the families haar, db, sym or coif")
        self.filters = torch.tensor([wavelet.dec_lo, wavelet.dec_hi], dtype=torch.float64).flip(1)[:, None]
        self.shapes = [tuple(shape)]
        # As many levels as pywt.wavedecn; sigpy pads odd sizes to even sizes first, which can add a level.
        for _ in range(pywt.dwtn_max_level(shape, wavelet)):
            self.shapes.append(tuple((n + wavelet.dec_len - 1) // 2 for n in self.shapes[-1]))
        # A shift by this number of pixels moves every coefficient by one place, unchanged except at the edge.
        self.period = 2 ** (len(self.shapes) - 1)

    def _analyse(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        x = x.movedim(axis, -1)
        n, taps = x.shape[-1], self.filters.shape[-1]
        rows = F.pad(x.reshape(-1, 1, n), (taps - 2, 2 * ((n + taps - 1) // 2) - n))
        bands = F.conv1d(rows, self.filters.to(x), stride=2).view(*x.shape[:-1], 2, -1)
        return bands[..., 0, :].movedim(-1, axis), bands[..., 1, :].movedim(-1, axis)

    def _synthesise(self, low: Tensor, high: Tensor, axis: int, n: int) -> Tensor:
        bands = torch.stack([low.movedim(axis, -1), high.movedim(axis, -1)], dim=-2)
        rows = F.conv_transpose1d(bands.reshape(-1, *bands.shape[-2:]), self.filters.to(low), stride=2)
        taps = self.filters.shape[-1]
        return rows[..., taps - 2 : taps - 2 + n].view(*bands.shape[:-2], n).movedim(-1, axis)

    def analysis(self, x: Tensor) -> list[Tensor]:
        """Bands of real ``(B, C, *spatial)``: the coarsest average, then the details from coarse to fine.

        The 2^d - 1 details of a level are stacked along the channels.
        """
        details: list[Tensor] = []
        for _ in self.shapes[1:]:
            bands = [x]
            for axis in range(2, x.ndim):
                bands = [part for band in bands for part in self._analyse(band, axis)]
            x = bands[0]
            details.append(torch.stack(bands[1:], dim=1))
        return [x[:, None], *reversed(details)]

    def synthesis(self, bands: list[Tensor]) -> Tensor:
        """The image of ``bands``; inverts :meth:`analysis`."""
        x = bands[0][:, 0]
        for shape, detail in zip(reversed(self.shapes[:-1]), bands[1:], strict=True):
            parts = [x, *detail.unbind(1)]
            for axis in reversed(range(2, x.ndim)):
                parts = [
                    self._synthesise(low, high, axis, shape[axis - 2])
                    for low, high in zip(parts[0::2], parts[1::2], strict=True)
                ]
            x = parts[0]
        return x
