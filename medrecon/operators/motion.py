"""Motion: warped images, and MRI whose shots measure the object in different poses."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import HALF, LinearOperator
from medrecon.operators.blocks import Sum
from medrecon.operators.bridge import AsComplex
from medrecon.operators.mri import MulticoilMRI

__all__ = ["Warp", "moving_sense", "rigid_field"]


class Warp(LinearOperator):
    """``y(r) = x(r + u(r))`` by bilinear interpolation, 0 outside: ``(B, C, y, x)`` real to the same shape.

    Linear in the image, with an exact adjoint, and differentiable with respect to the field (turbulence, blind motion), forward
    and adjoint alike, unlike torch's ``grid_sample``.

    Args:
        field: displacements ``u`` in pixels along (y, x), ``(B or 1, 2, y, x)``.
    """

    index: Tensor
    weight: Tensor

    def __init__(self, field: Tensor) -> None:
        super().__init__()
        if field.ndim != 4 or field.shape[1] != 2:
            raise ValueError(f"a displacement field must have shape (B or 1, 2, y, x); got {tuple(field.shape)}")
        if not field.detach().isfinite().all():
            raise ValueError("the displacement field contains NaN or Inf")
        field = field.float() if field.dtype in HALF else field  # half precision cannot represent the index of a pixel
        ny, nx = field.shape[2:]
        self.shape = (ny, nx)
        y = torch.arange(ny, device=field.device)[:, None] + field[:, 0]
        x = torch.arange(nx, device=field.device) + field[:, 1]
        top, left = y.detach().floor(), x.detach().floor()
        index, weight = [], []
        for i in (0, 1):
            for k in (0, 1):
                row, column = top + i, left + k
                inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
                index.append((row.clamp(0, ny - 1) * nx + column.clamp(0, nx - 1)).long().flatten(1))
                weight.append(((1 - (y - row).abs()) * (1 - (x - column).abs()) * inside).flatten(1))
        self.register_buffer("index", torch.stack(index, dim=1), persistent=False)  # (B or 1, 4, pixels)
        self.register_buffer("weight", torch.stack(weight, dim=1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate at the displaced points."""
        if tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"this warp takes images (B, C, *{self.shape}); got {tuple(x.shape)}")
        flat = x.flatten(2)
        index = self.index.expand(len(x), -1, -1)
        parts = [
            flat.gather(2, index[:, None, i].expand_as(flat)) * self.weight[:, None, i] for i in range(index.shape[1])
        ]
        return torch.stack(parts).sum(0).view_as(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Distribute every pixel over the pixels that it was interpolated from."""
        flat = y.flatten(2)
        index = self.index.expand(len(y), -1, -1)
        out = torch.zeros_like(flat)
        for i in range(index.shape[1]):
            out = out.scatter_add(2, index[:, None, i].expand_as(flat), flat * self.weight[:, None, i])
        return out.view_as(y)


def rigid_field(shape: tuple[int, int], angle: Tensor, shift: Tensor) -> Tensor:
    """The displacement field of a rotation about the centre and a shift, ``(n, 2, y, x)`` in pixels.

    Args:
        shape: shape of the image.
        angle: rotation of the object, rad, from the x axis towards the negative y index, ``(n,)``.
        shift: shift of the object in pixels along (y, x), ``(n, 2)``.
    """
    y, x = (torch.arange(n, device=angle.device, dtype=angle.dtype) - (n - 1) / 2 for n in shape)
    y, x = y[None, :, None] - shift[:, 0, None, None], x[None, None, :] - shift[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    from_y, from_x = cos * y + sin * x, cos * x - sin * y
    to_y, to_x = y + shift[:, 0, None, None], x + shift[:, 1, None, None]
    return torch.stack([from_y - to_y, from_x - to_x], dim=1)


def moving_sense(maps: Tensor, masks: Tensor, angle: Tensor, shift: Tensor) -> Sum:
    """Multicoil MRI of an object that moves rigidly between shots, images ``(B, 2, y, x)``.

    The object is rotated and shifted before it is multiplied by the coil maps, which do not move.

    Args:
        maps: coil sensitivities, see :func:`medrecon.operators.mri.sense`.
        masks: sampling mask of every shot, ``(shots, 1 or y, x)``; the masks should not overlap.
        angle: rotation in every shot, rad, ``(shots,)``.
        shift: shift in every shot, pixels along (y, x), ``(shots, 2)``.

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
