"""Motion: warped images, and MRI whose shots measure the object in different poses."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import HALF, Composed, LinearOperator
from medrecon.operators.bridge import AsComplex
from medrecon.operators.fourier import fft, ifft

__all__ = ["Poses", "Shots", "Warp", "moved", "moving_sense", "rigid_field"]


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


class Poses(LinearOperator):
    """An object in the pose of every shot: complex ``(B, 1, y, x)`` to ``(B, shots, y, x)``.

    The object is rotated about the centre and then shifted, as by :func:`rigid_field`. The rotation consists of three shears, and
    each shear shifts lines by Fourier interpolation. So it does not blur, its adjoint is its inverse, and what leaves the field
    of view on one side enters it on the other. An object that does not move is unchanged, without round-off.

    Args:
        shape: shape of the image.
        angle: rotation in every shot, rad, ``(B or 1, shots)``; at most a few tens of degrees.
        shift: shift in every shot, pixels along (y, x), ``(B or 1, shots, 2)``.

    Reference: Larkin, Oldfield, Klemm, Optics Communications 139 (1997), fast Fourier method for the rotation of images.
    """

    first: Tensor
    second: Tensor
    third: Tensor

    def __init__(self, shape: tuple[int, int], angle: Tensor, shift: Tensor) -> None:
        super().__init__()
        if angle.ndim != 2 or shift.shape != (*angle.shape, 2):
            raise ValueError(
                "angles must have shape (B or 1, shots) and shifts (B or 1, shots, 2); got "
                f"{tuple(angle.shape)} and {tuple(shift.shape)}"
            )
        if not (angle.detach().isfinite().all() and shift.detach().isfinite().all()):
            raise ValueError("the angles or shifts contain NaN or Inf")
        self.shape, self.n_shots = shape, angle.shape[1]
        self.still = not (angle.requires_grad or shift.requires_grad or angle.any() or shift.any())
        each = _shears(shape, angle, shift)
        for name, one in zip(("first", "second", "third"), each, strict=True):
            self.register_buffer(name, one, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The object in every shot."""
        if tuple(x.shape[1:]) != (1, *self.shape):
            raise ValueError(f"poses take images (B, 1, *{self.shape}); got {tuple(x.shape)}")
        if self.still:
            return x.expand(-1, self.n_shots, -1, -1)
        return _sheared(x, (self.first, self.second, self.third))

    def adjoint(self, y: Tensor) -> Tensor:
        """Move every shot back, and add them."""
        if not self.still:
            y = _line_shift(y, self.third.conj(), -1)
            y = _line_shift(_line_shift(y, self.second.conj(), -2), self.first.conj(), -1)
        return y.sum(1, keepdim=True)


def _shears(shape: tuple[int, int], angle: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phase factors ``(B or 1, shots, y, x)`` of the three shears of :class:`Poses`, the first and third along x.

    ``f(R^-1 (r - t))`` with ``R^-1 (y, x) = (c y + s x, c x - s y)``: x shifts by ``-tan(a / 2) y``, y by ``s x - ty``, and x
    again by ``-tan(a / 2) (y - ty) - tx``.
    """
    angle, ty, tx = (one[..., None, None] for one in (angle, shift[..., 0], shift[..., 1]))
    y, x = (torch.arange(n, device=angle.device, dtype=angle.dtype) - (n - 1) / 2 for n in shape)
    ky, kx = (2 * torch.pi * torch.fft.fftfreq(n, device=angle.device, dtype=angle.dtype) for n in shape)
    y, ky, shear = y[:, None], ky[:, None], -(angle / 2).tan()
    along = kx * shear * y, ky * (angle.sin() * x - ty), kx * (shear * (y - ty) - tx)
    first, second, third = (torch.polar(torch.ones_like(one), one) for one in along)
    return first, second, third


def moved(x: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """The poses of :class:`Poses` as a differentiable function of angle ``(B, shots)`` and shift ``(B, shots, 2)``."""
    return _sheared(x, _shears((x.shape[-2], x.shape[-1]), angle, shift))


def _sheared(x: Tensor, phases: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Three shears by their phase factors."""
    first, second, third = phases
    return _line_shift(_line_shift(_line_shift(x, first, -1), second, -2), third, -1)


def _line_shift(x: Tensor, phase: Tensor, axis: int) -> Tensor:
    """Lines along ``axis``, shifted by a phase factor of their spectrum."""
    return torch.fft.ifft(torch.fft.fft(x, dim=axis) * phase, dim=axis)


class Shots(LinearOperator):
    """Coils that measure another image in every shot: complex ``(B, shots, y, x)`` to k-space ``(B, coils, y, x)``.

    Shots of whole columns transform these columns only, so that the cost does not grow with the number of shots.

    Args:
        maps: coil sensitivities, complex ``(B or 1, coils, y, x)``.
        masks: sampling mask of every shot, ``(shots, 1 or y, x)``, true or 1 where sampled; masks must not overlap.
    """

    maps: Tensor
    masks: Tensor

    def __init__(self, maps: Tensor, masks: Tensor) -> None:
        super().__init__()
        if maps.ndim != 4 or masks.ndim != 3 or any(m not in (1, n) for m, n in zip(masks.shape[1:], maps.shape[2:])):  # noqa: B905
            raise ValueError(
                "maps must have shape (B or 1, coils, y, x) and masks (shots, 1 or y, x); got "
                f"{tuple(maps.shape)} and {tuple(masks.shape)}"
            )
        masks = masks.expand(-1, -1, maps.shape[-1]) != 0
        if (masks.sum(0) > 1).any():
            raise ValueError("the masks of the shots overlap; every position of k-space belongs to one shot")
        self.shape = (maps.shape[2], maps.shape[3])
        self.register_buffer("maps", maps)
        self.register_buffer("masks", masks)
        self.columns = [mask[0].nonzero()[:, 0] for mask in masks] if masks.shape[1] == 1 else None
        if self.columns is not None:
            n = self.shape[1]
            matrix = fft(torch.eye(n, dtype=torch.complex128, device=maps.device), (0,)).to(maps.dtype)
            for s, columns in enumerate(self.columns):
                self.register_buffer(f"matrix{s}", matrix[columns].mT.contiguous(), persistent=False)

    def _matrix(self, s: int) -> Tensor:
        """Transform along x to the columns of a shot, ``(x, columns)``."""
        return getattr(self, f"matrix{s}")

    def _check(self, x: Tensor, channels: int, what: str) -> None:
        if tuple(x.shape[1:]) != (channels, *self.shape):
            raise ValueError(f"shots take {what} (B, {channels}, *{self.shape}); got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """K-space whose positions come from the images of their shots."""
        self._check(x, len(self.masks), "images")
        coils = [self.maps * x[:, s, None] for s in range(len(self.masks))]
        if self.columns is None:
            return torch.stack([fft(one, (-2, -1)) * mask for one, mask in zip(coils, self.masks, strict=True)]).sum(0)
        parts = [one @ self._matrix(s) for s, one in enumerate(coils)]
        out = torch.zeros_like(coils[0]).index_copy(-1, torch.cat(self.columns), torch.cat(parts, dim=-1))
        return fft(out, (-2,))

    def adjoint(self, y: Tensor) -> Tensor:
        """The image of every shot, from its positions."""
        self._check(y, self.maps.shape[1], "k-space")
        if self.columns is None:
            return torch.stack([self._combined(ifft(y * mask, (-2, -1))) for mask in self.masks], dim=1)
        y = ifft(y, (-2,))
        parts = [y[..., columns] @ self._matrix(s).mH for s, columns in enumerate(self.columns)]
        return torch.stack([self._combined(one) for one in parts], dim=1)

    def _combined(self, coils: Tensor) -> Tensor:
        return (self.maps.conj() * coils).sum(1)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``; shots do not mix."""
        self._check(x, len(self.masks), "images")
        out = []
        for s, mask in enumerate(self.masks):
            coils = self.maps * x[:, s, None]
            if self.columns is None:
                out.append(self._combined(ifft(fft(coils, (-2, -1)) * mask, (-2, -1))))
            else:
                out.append(self._combined((coils @ self._matrix(s)) @ self._matrix(s).mH))
        return torch.stack(out, dim=1)


def moving_sense(maps: Tensor, masks: Tensor, angle: Tensor, shift: Tensor) -> Composed:
    """Multicoil MRI of an object that moves rigidly between shots, images ``(B, 2, y, x)``.

    The object is rotated and shifted before it is multiplied by the coil maps, which do not move.

    Args:
        maps: coil sensitivities, complex ``(B or 1, coils, y, x)``.
        masks: sampling mask of every shot, ``(shots, 1 or y, x)``; masks must not overlap.
        angle: rotation in every shot, rad, ``(shots,)`` or ``(B or 1, shots)``; see :func:`rigid_field`.
        shift: shift in every shot, pixels along (y, x), ``(shots, 2)`` or ``(B or 1, shots, 2)``.

    Reference: Batchelor et al., MRM 54 (2005), matrix description of general motion correction.
    """
    if not len(masks) == angle.shape[-1] == shift.shape[-2]:
        raise ValueError(
            f"every shot needs a mask, an angle and a shift; got {len(masks)}, {angle.shape[-1]} and {shift.shape[-2]}"
        )
    angle, shift = angle.view(-1, len(masks)), shift.view(-1, len(masks), 2)
    return Shots(maps, masks) @ (Poses(tuple(maps.shape[2:]), angle, shift) @ AsComplex())  # type: ignore[arg-type]
