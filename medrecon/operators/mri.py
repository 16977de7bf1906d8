"""Cartesian MRI operators; images and k-space are centred at index ``n // 2``, and the transform is unitary."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.operators.base import Composed, LinearOperator
from medrecon.operators.bridge import AsComplex
from medrecon.operators.fourier import centring
from medrecon.operators.linalg import batch_broadcast
from medrecon.operators.spectral import Spectral

__all__ = ["CartesianMRI", "DynamicMRI", "MulticoilMRI", "SoftSense", "sense"]


def _times(fresh: Tensor, factor: Tensor) -> Tensor:
    """``fresh * factor``, in place since nothing else uses ``fresh``: allocating memory costs as much as an FFT."""
    return fresh.mul_(factor) if factor.shape[0] in (1, len(fresh)) else fresh * factor


def _combined(fresh: Tensor, maps: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """``sum conj(maps) fresh`` over the coils, in place, without a conjugate copy of the maps."""
    return _times(fresh.conj_physical_(), maps).sum(dim, keepdim).conj_physical_()


def _check_maps(maps: Tensor) -> None:
    if not maps.is_complex():
        raise ValueError(f"coil maps must be complex; got {maps.dtype}")
    if not maps.detach().isfinite().all():
        raise ValueError("the coil maps contain NaN or Inf; estimate them again")


class _Sampling(LinearOperator):
    """Masked centred FFT of complex ``(B, c, *k)``; the shifts are two precomputed factors.

    ``|kspace factor| = 1`` cancels in the normal operator, which is a plain FFT, a mask in plain order and an inverse FFT. Along
    axes on which the mask is constant the transform cancels too, so only the other axes are transformed.
    """

    image_factor: Tensor
    mask: Tensor
    weight: Tensor

    def __init__(self, mask: Tensor, shape: tuple[int, ...], dtype: torch.dtype, leading: int = 2) -> None:
        super().__init__()
        n = len(shape)
        if n not in (2, 3):
            raise ValueError(
                f"images have two or three spatial axes; got {shape}: is the batch axis of the maps missing?"
            )
        if mask.ndim != n + leading or any(m not in (1, s) for m, s in zip(mask.shape[leading:], shape, strict=True)):
            axes = "(B or 1, 1 or coils" if leading == 2 else "(B or 1, frames, 1"
            raise ValueError(f"the mask must have shape {axes}, *{shape}) with 1 allowed; got {tuple(mask.shape)}")
        if not mask.isfinite().all():
            raise ValueError("the mask contains NaN or Inf; it must be 1 (or true) where sampled and 0 elsewhere")
        mask = mask.to(dtype.to_real())
        self.shape = shape
        self.dims = tuple(range(-n, 0))
        image, kspace = centring(shape, dtype, mask.device)
        self.register_buffer("image_factor", image)
        self.register_buffer("mask", mask * kspace)
        self.varying = tuple(d for d in self.dims if not torch.equal(mask, mask.narrow(d, 0, 1).expand_as(mask)))
        self.cheap_normal = len(self.varying) < n  # fewer axes are transformed
        weight = mask**2
        for d in set(self.dims) - set(self.varying):
            weight = weight.narrow(d, 0, 1)
        self.register_buffer("weight", torch.fft.ifftshift(weight, self.varying) if self.varying else weight)

    def _check_shape(self, x: Tensor, what: str, *axes: int) -> None:
        """Refuse shapes that would broadcast silently or fail inside a library."""
        expected = (*axes, *self.shape)
        if tuple(x.shape[-len(expected) :]) != expected or x.ndim != len(self.shape) + 2 + (len(axes) > 1):
            raise ValueError(
                f"{type(self).__name__} takes {what} that end in the axes {expected}; got shape {tuple(x.shape)}"
            )

    def _masked_norm_squared(self, x: Tensor) -> Tensor:
        """``|M F x|^2`` of every item, transformed along the axes on which the mask varies."""
        spectrum = torch.fft.fftn(x, dim=self.varying, norm="ortho") if self.varying else x
        return (torch.view_as_real(spectrum).square().sum(-1) * self.weight).flatten(1).sum(1)

    def _filter(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.varying:
            return x * weight
        spectrum = torch.fft.fftn(x, dim=self.varying, norm="ortho")
        return torch.fft.ifftn(_times(spectrum, weight), dim=self.varying, norm="ortho")


class CartesianMRI(_Sampling, Spectral):
    """Masked FFT of every coil, without maps: complex ``(B, c, *spatial)`` to k-space of the same shape; all in closed form.

    Args:
        mask: sampling mask, ``(B or 1, 1 or c, *k)`` with 1 allowed for any axis of k; true or 1 where sampled.
        shape: spatial shape.
        dtype: complex type of images and k-space.
    """

    def __init__(self, mask: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.complex64) -> None:
        super().__init__(mask, shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``M F x``."""
        self._check_shape(x, "images")
        return _times(torch.fft.fftn(self.image_factor * x, dim=self.dims, norm="ortho"), self.mask)

    def adjoint(self, y: Tensor) -> Tensor:
        """``F^H M y``."""
        self._check_shape(y, "k-space")
        return self.image_factor.conj() * torch.fft.ifftn(self.mask.conj() * y, dim=self.dims, norm="ortho")

    def normal(self, x: Tensor) -> Tensor:
        """``F^H M^2 F x``, along the axes on which the mask varies."""
        return self._filter(x, self.weight)

    def solve(
        self, b: Tensor, rho: float | Tensor, x: Tensor | None = None, n_iter: int = 30, tol: float = 0.0
    ) -> Tensor:
        """Closed form: one filter ``1 / (M^2 + rho)`` in k-space; the pseudo-inverse for rho = 0."""
        weight = self.weight + batch_broadcast(rho, b)
        nonzero = weight > 0
        return self._filter(b, torch.where(nonzero, 1 / torch.where(nonzero, weight, 1.0), 0.0))

    @property
    def singular(self) -> Tensor:  # type: ignore[override]
        """The mask."""
        return self.mask.abs()

    def vh(self, x: Tensor) -> Tensor:
        """K-space up to a phase."""
        return torch.fft.fftn(self.image_factor * x, dim=self.dims, norm="ortho")

    def v(self, c: Tensor) -> Tensor:
        """Image from k-space up to a phase."""
        return self.image_factor.conj() * torch.fft.ifftn(c, dim=self.dims, norm="ortho")

    def uh(self, y: Tensor) -> Tensor:
        """Remove the phase factor of k-space."""
        return self.mask.sgn().conj() * y

    def u(self, c: Tensor) -> Tensor:
        """Restore the phase factor of k-space."""
        return self.mask.sgn() * c


class MulticoilMRI(_Sampling):
    """SENSE: complex ``(B, 1, *spatial)`` to k-space ``(B, coils, *k)``.

    With maps normalised to sum |S|^2 = 1 in the object, ``|A| <= 1``.

    Args:
        maps: coil sensitivities, complex ``(B or 1, coils, *spatial)``, zero outside the object.
        mask: sampling mask, ``(B or 1, 1, *k)`` with 1 allowed for any axis of k; true or 1 where sampled.

    Reference: Pruessmann et al., SENSE, MRM 42 (1999).
    """

    maps: Tensor
    shifted_maps: Tensor

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        _check_maps(maps)
        super().__init__(mask, tuple(maps.shape[2:]), maps.dtype)
        self.coils = maps.shape[1]
        self.register_buffer("maps", maps)
        self.register_buffer("shifted_maps", maps * self.image_factor)
        del self.image_factor

    def forward(self, x: Tensor) -> Tensor:
        """``M F S x``."""
        self._check_shape(x, "images", 1)
        return _times(torch.fft.fftn(self.shifted_maps * x, dim=self.dims, norm="ortho"), self.mask)

    def adjoint(self, y: Tensor) -> Tensor:
        """``S^H F^H M y``."""
        self._check_shape(y, "k-space", self.coils)
        coils = torch.fft.ifftn(self.mask.conj() * y, dim=self.dims, norm="ortho")
        return _combined(coils, self.shifted_maps, 1, keepdim=True)

    def normal(self, x: Tensor) -> Tensor:
        """``S^H F^H M^2 F S x``, transformed along the axes on which the mask varies."""
        return _combined(self._filter(self.maps * x, self.weight), self.maps, 1, keepdim=True)

    def norm_squared(self, x: Tensor) -> Tensor:
        """``|M F S x|^2``, half the work of ``normal``."""
        return self._masked_norm_squared(self.maps * x)


class SoftSense(_Sampling):
    """SENSE with several sets of maps: complex ``(B, sets, *spatial)`` to k-space ``(B, coils, *k)``.

    A second set describes signal that a single set cannot, such as tissue that folds over in a small field of view. The result
    is the first image, or the root sum of squares of all.

    Args:
        maps: coil sensitivities, complex ``(B or 1, sets, coils, *spatial)``.
        mask: see :class:`MulticoilMRI`.

    Reference: Uecker et al., ESPIRiT, MRM 71 (2014).
    """

    maps: Tensor
    shifted_maps: Tensor

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        _check_maps(maps)
        super().__init__(mask, tuple(maps.shape[3:]), maps.dtype)
        self.sets, self.coils = maps.shape[1:3]
        self.register_buffer("maps", maps)
        self.register_buffer("shifted_maps", maps * self.image_factor)
        del self.image_factor

    def forward(self, x: Tensor) -> Tensor:
        """``M F sum_s S_s x_s``."""
        self._check_shape(x, "images", self.sets)
        coils = (self.shifted_maps * x[:, :, None]).sum(1)
        return _times(torch.fft.fftn(coils, dim=self.dims, norm="ortho"), self.mask)

    def adjoint(self, y: Tensor) -> Tensor:
        """``S_s^H F^H M y`` for every set."""
        self._check_shape(y, "k-space", self.coils)
        coils = torch.fft.ifftn(self.mask.conj() * y, dim=self.dims, norm="ortho")
        return (self.shifted_maps.conj() * coils[:, None]).sum(2)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, transformed along the axes on which the mask varies."""
        coils = self._filter((self.maps * x[:, :, None]).sum(1), self.weight)
        return (self.maps.conj() * coils[:, None]).sum(2)


class DynamicMRI(_Sampling):
    """SENSE with a mask per frame: complex ``(B, frames, *spatial)`` to k-space ``(B, frames, coils, *k)``.

    Args:
        maps: coil sensitivities of all frames, complex ``(B or 1, coils, *spatial)``.
        mask: sampling masks, ``(B or 1, frames or 1, 1, *k)`` with 1 allowed for any axis of k.
    """

    maps: Tensor
    shifted_maps: Tensor

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        _check_maps(maps)
        super().__init__(mask, tuple(maps.shape[2:]), maps.dtype, leading=3)
        self.coils = maps.shape[1]
        self.register_buffer("maps", maps[:, None])
        self.register_buffer("shifted_maps", maps[:, None] * self.image_factor)
        del self.image_factor

    def forward(self, x: Tensor) -> Tensor:
        """``M_t F S x_t``."""
        self._check_shape(x, "images")
        return _times(torch.fft.fftn(self.shifted_maps * x[:, :, None], dim=self.dims, norm="ortho"), self.mask)

    def adjoint(self, y: Tensor) -> Tensor:
        """``S^H F^H M_t y_t``."""
        self._check_shape(y, "k-space", y.shape[1], self.coils)
        coils = torch.fft.ifftn(self.mask.conj() * y, dim=self.dims, norm="ortho")
        return _combined(coils, self.shifted_maps, 2)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, transformed along the axes on which the masks vary."""
        return _combined(self._filter(self.maps * x[:, :, None], self.weight), self.maps, 2)


def sense(
    maps: Tensor | None,
    mask: Tensor,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.complex64,
) -> Composed:
    """The MRI operator on real images ``(B, 2, *spatial)``, ``(B, 2 sets, *spatial)`` or ``(B, 2 frames, *spatial)``.

    Args:
        maps: coil sensitivities, complex ``(B or 1, coils, *spatial)``, or ``(B or 1, sets, coils, *spatial)``; ``None``: a
            single coil.
        mask: sampling mask, ``(B or 1, 1, *k)`` with 1 allowed for any axis of k; ``(B or 1, frames, 1, *k)`` for a dynamic
            scan.
        shape: spatial shape; needed only without maps.
        dtype: complex type without maps; with maps, their type is used.

    Raises:
        ValueError: if maps and mask do not match or contain NaN or Inf, or if both maps and ``shape`` are missing.
    """
    if maps is None:
        if shape is None:
            raise ValueError("sense needs either coil maps or the spatial shape")
        return CartesianMRI(mask, tuple(shape), dtype) @ AsComplex()
    kind = {1: SoftSense, 0: MulticoilMRI, -1: DynamicMRI}.get(maps.ndim - mask.ndim)
    if kind is None:
        raise ValueError(
            f"maps {tuple(maps.shape)} and mask {tuple(mask.shape)} do not match; see the shapes that sense takes"
        )
    return kind(maps, mask) @ AsComplex()
