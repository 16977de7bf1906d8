"""Images that move or bend: warps, and MRI whose shots see the head in different poses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.operators.base import LinearOperator, paired
from medrecon.operators.blocks import Sum
from medrecon.operators.bridge import AsComplex
from medrecon.operators.mri import MulticoilMRI

__all__ = ["Warp", "moving_sense", "rigid_field"]


class Warp(LinearOperator):
    """``y(r) = x(r + u(r))`` by bilinear interpolation, 0 outside: ``(B, C, y, x)`` real to the same shape.

    Linear in the image, with an exact adjoint, and differentiable in the field (turbulence, blind motion).

    Args:
        field: displacements in pixels along (y, x), ``(B or 1, 2, y, x)``.
    """

    grid: Tensor

    def __init__(self, field: Tensor) -> None:
        super().__init__()
        if field.ndim != 4 or field.shape[1] != 2:
            raise ValueError(f"a field of displacements has shape (B or 1, 2, y, x); got {tuple(field.shape)}")
        ny, nx = field.shape[2:]
        y = torch.arange(ny, device=field.device)[:, None] + field[:, 0]
        x = torch.arange(nx, device=field.device) + field[:, 1]
        # grid_sample counts (x, y) from -1 to 1 between the outer edges of the image.
        self.register_buffer("grid", torch.stack([(2 * x + 1) / nx - 1, (2 * y + 1) / ny - 1], dim=-1))

    def _sampled(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, self.grid.expand(len(x), -1, -1, -1), "bilinear", "zeros", align_corners=False)

    def _scattered(self, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros_like(y, requires_grad=True)
            return torch.autograd.grad(self._sampled(x), x, y)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Sample the displaced points."""
        if self.grid.requires_grad:
            return self._sampled(x)
        return paired(x, self._sampled, self._scattered)

    def adjoint(self, y: Tensor) -> Tensor:
        """Every pixel goes back in shares to those that it was made of."""
        return paired(y, self._scattered, self._sampled)


def rigid_field(shape: tuple[int, int], angle: Tensor, shift: Tensor) -> Tensor:
    """The field of a rotation about the centre and a shift, ``(n, 2, y, x)`` in pixels.

    Args:
        shape: of the image.
        angle: rad, ``(n,)``: the object turns by it, from the x axis towards the negative y index.
        shift: of the object in pixels along (y, x), ``(n, 2)``.
    """
    y, x = (torch.arange(n, device=angle.device, dtype=angle.dtype) - (n - 1) / 2 for n in shape)
    y, x = y[None, :, None] - shift[:, 0, None, None], x[None, None, :] - shift[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    from_y, from_x = cos * y + sin * x, cos * x - sin * y
    here_y, here_x = y + shift[:, 0, None, None], x + shift[:, 1, None, None]
    return torch.stack([from_y - here_y, from_x - here_x], dim=1)


def moving_sense(maps: Tensor, masks: Tensor, angle: Tensor, shift: Tensor) -> Sum:
    """Multicoil MRI of a head that holds still in every shot and moves between shots, images ``(B, 2, y, x)``.

    Coils stay where they are; the object is turned and shifted before they see it.

    Args:
        maps: as of :func:`medrecon.operators.mri.sense`.
        masks: the lines of every shot, ``(shots, 1 or y, x)``; they should not overlap.
        angle: of every shot, rad, ``(shots,)``.
        shift: of every shot, pixels along (y, x), ``(shots, 2)``.

    Reference: Batchelor et al., MRM 54 (2005), matrix description of general motion correction.
    """
    if not len(masks) == len(angle) == len(shift):
        raise ValueError(
            f"every shot needs a mask, an angle and a shift; got {len(masks)}, {len(angle)} and {len(shift)}"
        )
    fields = rigid_field(tuple(maps.shape[2:]), angle, shift)  # type: ignore[arg-type]
    return Sum([
        MulticoilMRI(maps, mask[None, None]) @ (AsComplex() @ Warp(field[None]))
        for mask, field in zip(masks, fields, strict=True)
    ])  # fmt: skip
