"""Back ends of the NUFFT: the settings that a user chooses, and the transforms that they build."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from medrecon.operators.linalg import check_matrix, sparse_pair

__all__ = [
    "Backend",
    "Finufft",
    "SparseGridding",
    "SparseTransform",
    "TableGridding",
    "TableTransform",
    "Transform",
    "checked_trajectory",
]


class Transform(Protocol):
    """A Fourier transform at the points of a trajectory, unitary on a Cartesian grid."""

    def forward(self, x: Tensor) -> Tensor:
        """Complex ``(n, *shape)`` to ``(n, samples)``."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """Complex ``(n, samples)`` to ``(n, *shape)``."""
        ...

    def to(self, device: torch.device) -> None:
        """Move to a device, in place."""
        ...


class Backend(Protocol):
    """Settings of an implementation of the NUFFT."""

    def build(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """The transform at points ``(samples, d)`` of images of a shape, in a complex type."""
        ...

    def build_refined(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """A more accurate transform, for the kernel of the normal operator."""
        ...


@dataclass(frozen=True)
class SparseGridding:
    """Kaiser-Bessel gridding with a sparse interpolation matrix that is kept in memory: the fastest in 2-D.

    Args:
        oversampling: ratio of the grid to the image along every axis, 1.25 to 8.
        width: width of the interpolation kernel in grid points, 2 to 16. The defaults have a relative error of 3e-4.

    Reference: Fessler and Sutton, IEEE TSP 51 (2003); shape of the kernel: Beatty et al., IEEE TMI 24 (2005), eq. 5.
    """

    oversampling: float = 1.5
    width: int = 5

    def __post_init__(self) -> None:
        _check_kernel(self.oversampling, self.width)

    def build(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """See :class:`Backend`."""
        return SparseTransform(trajectory, shape, self.oversampling, self.width, dtype)

    def build_refined(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """With twofold oversampling at least, and a kernel wider by one grid point."""
        return SparseTransform(trajectory, shape, max(self.oversampling, 2.0), self.width + 1, dtype)


@dataclass(frozen=True)
class TableGridding:
    """torchkbnufft's Kaiser-Bessel gridding with interpolation tables: little memory, for 3-D.

    Args:
        oversampling: ratio of the grid to the image along every axis, 1.25 to 8.
        width: width of the interpolation kernel in grid points, 2 to 16.
    """

    oversampling: float = 2.0
    width: int = 6

    def __post_init__(self) -> None:
        _check_kernel(self.oversampling, self.width)

    def build(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """See :class:`Backend`.

        Raises:
            ValueError: for fewer than three pixels along an axis.
        """
        if min(shape) < 3:
            raise ValueError(
                f"torchkbnufft needs at least three pixels per axis; got {shape}: choose backend=SparseGridding()"
            )
        return TableTransform(trajectory, shape, self.oversampling, self.width, dtype)

    def build_refined(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """With twofold oversampling at least, and a kernel wider by one grid point."""
        return TableTransform(trajectory, shape, max(self.oversampling, 2.0), self.width + 1, dtype)


@dataclass(frozen=True)
class Finufft:
    """finufft, to any accuracy, on the CPU (Barnett et al., SIAM J. Sci. Comput. 41, 2019).

    Args:
        eps: relative accuracy; ``None``: 1e-6, or 1e-12 in complex128.
    """

    eps: float | None = None

    def build(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """See :class:`Backend`."""
        return FinufftTransform(trajectory, shape, self._accuracy(dtype), dtype)

    def build_refined(self, trajectory: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Transform:
        """Ten times as accurate."""
        return FinufftTransform(trajectory, shape, self._accuracy(dtype) / 10, dtype)

    def _accuracy(self, dtype: torch.dtype) -> float:
        return self.eps if self.eps is not None else 1e-6 if dtype == torch.complex64 else 1e-12


def _check_kernel(oversampling: float, width: int) -> None:
    if not 1.25 <= oversampling <= 8 or not 2 <= width <= 16:
        raise ValueError(f"oversampling must be 1.25 to 8 and width 2 to 16; got {oversampling} and {width}")


class SparseTransform:
    """The transform of :class:`SparseGridding`: a real interpolation matrix.

    The image is padded, centred, to a grid ``oversampling`` times as fine in k-space. A plain FFT has its origin in the corner;
    the shift is the sign ``(-1)^m`` of grid point ``m``, which is part of the matrix.
    """

    def __init__(
        self, trajectory: Tensor, shape: tuple[int, ...], oversampling: float, width: int, dtype: torch.dtype
    ) -> None:
        self.grid = tuple(2 * math.ceil(oversampling * n / 2) for n in shape)
        self.padding = [
            p
            for n, g in zip(reversed(shape), reversed(self.grid), strict=True)
            for p in (g // 2 - n // 2, g - n - (g // 2 - n // 2))
        ]
        self.shape = shape
        self.dims = tuple(range(-len(shape), 0))
        check_matrix(
            len(trajectory) * width ** len(shape),
            "the interpolation matrix",
            "choose backend=TableGridding() or a smaller width",
        )
        index = torch.zeros(len(trajectory), 1, dtype=torch.int64)
        weight = torch.ones(len(trajectory), 1, dtype=torch.float64)
        taper = torch.ones((), dtype=torch.float64)
        for axis, (n, g) in enumerate(zip(shape, self.grid, strict=True)):
            ratio = g / n
            beta = math.pi * math.sqrt((width / ratio) ** 2 * (ratio - 0.5) ** 2 - 0.8)
            at = trajectory[:, axis].double() * ratio
            first = torch.ceil(at - width / 2)
            near = first[:, None] + torch.arange(width)
            u = (2 * (at[:, None] - near) / width).clamp(-1, 1)
            values = torch.special.i0(beta * (1 - u**2).clamp(min=0).sqrt()) / width
            values = values * (1 - 2 * (near.long() % 2))
            index = (index[:, :, None] * g + (near.long() % g)[:, None, :]).flatten(1)
            weight = (weight[:, :, None] * values[:, None, :]).flatten(1)
            position = math.pi * width * (torch.arange(n, dtype=torch.float64) - n // 2) / g
            root = (beta**2 - position**2).clamp(min=1e-12).sqrt()
            taper = taper[..., None] * (torch.sinh(root) / root)
        size = (len(trajectory), math.prod(self.grid))
        rows = torch.arange(0, index.numel() + 1, index.shape[1], dtype=torch.int32)
        arrays = (weight.to(dtype.to_real()).flatten().numpy(), index.int().flatten().numpy(), rows.numpy())
        self.matrix, self.transpose = sparse_pair(csr_matrix(arrays, shape=size))
        self.taper = (1 / (taper * math.sqrt(math.prod(shape)))).to(dtype.to_real())

    def __deepcopy__(self, memo: dict[int, object]) -> SparseTransform:
        return copy.copy(self)  # torch cannot copy sparse matrices, and these are never written to

    def to(self, device: torch.device) -> None:
        """Move to a device, in place."""
        for name in ("matrix", "transpose", "taper"):
            setattr(self, name, getattr(self, name).to(device))

    @staticmethod
    def _product(matrix: Tensor, x: Tensor) -> Tensor:
        """A real matrix times complex rows ``(n, k)``, whose real and imaginary parts become columns."""
        columns = torch.view_as_real(x.resolve_conj()).permute(1, 0, 2).reshape(x.shape[1], -1)
        return torch.view_as_complex((matrix @ columns).view(-1, len(x), 2).permute(1, 0, 2).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """``(n, *shape)`` to ``(n, samples)``."""
        grid = torch.fft.fftn(F.pad(x * self.taper, self.padding), dim=self.dims)
        return self._product(self.matrix, grid.flatten(1))

    def adjoint(self, y: Tensor) -> Tensor:
        """``(n, samples)`` to ``(n, *shape)``."""
        grid = self._product(self.transpose, y).view(-1, *self.grid)
        x = torch.fft.ifftn(grid, dim=self.dims, norm="forward")
        return F.pad(x, [-p for p in self.padding]) * self.taper


class TableTransform:
    """The transform of :class:`TableGridding`."""

    def __init__(
        self, trajectory: Tensor, shape: tuple[int, ...], oversampling: float, width: int, dtype: torch.dtype
    ) -> None:
        import torchkbnufft as tkbn

        grid = tuple(math.ceil(oversampling * n) for n in shape)
        # Finer than the default table of 1024 points, whose steps would dominate the error.
        settings = {"im_size": shape, "grid_size": grid, "numpoints": width, "table_oversamp": 4096, "dtype": dtype}
        self.nufft, self.nufft_adjoint = tkbn.KbNufft(**settings), tkbn.KbNufftAdjoint(**settings)
        size = torch.tensor(shape, dtype=torch.float64)
        self.omega = (2 * math.pi * trajectory.double() / size).T.to(dtype.to_real()).contiguous()
        self.scale = 1 / math.sqrt(math.prod(shape))

    def to(self, device: torch.device) -> None:
        """Move to a device, in place."""
        self.nufft, self.nufft_adjoint = self.nufft.to(device), self.nufft_adjoint.to(device)
        self.omega = self.omega.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, *shape)`` to ``(n, samples)``."""
        return self.nufft(x[None].contiguous(), self.omega)[0] * self.scale

    def adjoint(self, y: Tensor) -> Tensor:
        """``(n, samples)`` to ``(n, *shape)``."""
        return self.nufft_adjoint(y[None].contiguous(), self.omega)[0] * self.scale


class FinufftTransform:
    """The transform of :class:`Finufft`; plans are kept, one for each direction and number of images."""

    def __init__(self, trajectory: Tensor, shape: tuple[int, ...], eps: float, dtype: torch.dtype) -> None:
        self.shape = shape
        self.eps = max(eps, 1e-6 if dtype == torch.complex64 else 1e-14)  # the accuracy that rounding permits
        self.dtype = "complex64" if dtype == torch.complex64 else "complex128"
        real = np.float32 if dtype == torch.complex64 else np.float64
        self.points = [
            np.ascontiguousarray((2 * math.pi * trajectory[:, d].double() / n).numpy().astype(real))
            for d, n in enumerate(shape)
        ]
        self.scale = 1 / math.sqrt(math.prod(shape))
        self.plans: dict[tuple[int, int], object] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "plans": {}}  # plans belong to a process and cannot be pickled

    def to(self, device: torch.device) -> None:
        """Refuse any device but the CPU.

        Raises:
            ValueError: naming the back ends that work on other devices.
        """
        if device.type not in ("cpu", "meta"):
            raise ValueError("finufft works on the CPU only; choose backend=SparseGridding() or TableGridding()")

    def _run(self, kind: int, x: Tensor) -> Tensor:
        import finufft

        key = kind, len(x)
        if key not in self.plans:
            sign = 1 if kind == 1 else -1
            plan = finufft.Plan(kind, self.shape, n_trans=len(x), eps=self.eps, isign=sign, dtype=self.dtype)
            plan.setpts(*self.points)
            self.plans[key] = plan
        data = np.ascontiguousarray(x.detach().resolve_conj().numpy())
        out = self.plans[key].execute(data if len(x) > 1 else data[0])  # type: ignore[attr-defined]
        return torch.from_numpy(np.asarray(out)).view(len(x), *np.shape(out)[-len(self.shape) if kind == 1 else -1 :])

    def forward(self, x: Tensor) -> Tensor:
        """``(n, *shape)`` to ``(n, samples)``."""
        return self._run(2, x) * self.scale

    def adjoint(self, y: Tensor) -> Tensor:
        """``(n, samples)`` to ``(n, *shape)``."""
        return self._run(1, y) * self.scale


def checked_trajectory(trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The points of a trajectory ``(..., d)``, as ``(samples, d)`` in float64 on the CPU.

    Raises:
        ValueError: for a wrong number of coordinates, NaN, points outside the band, or points that seem to be in other units.
    """
    d = len(shape)
    if trajectory.shape[-1] != d or trajectory.ndim < 2:
        raise ValueError(
            f"a trajectory for an image of shape {shape} needs {d} coordinates in its last axis; "
            f"got shape {tuple(trajectory.shape)}"
        )
    points = trajectory.reshape(-1, d).double().cpu()
    if not len(points) or not points.isfinite().all():
        raise ValueError("the trajectory is empty or contains NaN or Inf")
    reach = points.abs().amax(0)
    half = torch.tensor(shape, dtype=torch.float64) / 2
    if (reach > half * (1 + 1e-6)).any():
        raise ValueError(
            f"the trajectory reaches {reach.tolist()} cycles per field of view, but the band of an image of shape {shape} "
            f"ends at {half.tolist()}; give cycles per field of view (not 1/m), or a larger matrix"
        )
    # A readout that ends where the band ends in other units is probably in these units.
    end, least = float(reach.max()), float(points.min())
    for limit, unit, factor in (
        (math.pi, "rad", "n / (2 pi)"),
        (2 * math.pi, "rad", "n / (2 pi)"),
        (0.5, "cycles", "n"),
    ):
        one_sided = limit > 4
        if (
            min(half.tolist()) > 1.2 * limit
            and 0.98 * limit < end <= limit * (1 + 1e-6)
            and (not one_sided or least >= 0)
        ):
            raise ValueError(
                f"the trajectory ends at {end:.4g} cycles per field of view of an image of shape {shape}: is it in {unit} "
                f"per pixel? Multiply by {factor}; if not, leave out the few samples beyond {0.98 * limit:.4g}"
            )
    return points
