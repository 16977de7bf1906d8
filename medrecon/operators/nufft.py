"""Fourier transforms at any points of k-space."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from medrecon.operators.base import Composed, LinearOperator, with_adjoint_as_backward
from medrecon.operators.bridge import AsComplex
from medrecon.operators.linalg import cg, check_matrix, sparse_pair

__all__ = ["NUFFT", "Coils", "density_compensation", "nufft_sense"]

Backend = Literal["sparse", "torchkbnufft", "finufft"]


class _Sparse:
    """Gridding by Kaiser-Bessel interpolation (Fessler and Sutton, IEEE TSP 51, 2003), as a real matrix that is kept.

    The image is padded with its centre at the middle of a grid ``oversampling`` times as fine in k-space; the shift to
    the corner, which a plain FFT wants, is the sign ``(-1)^m`` of grid point ``m``, and lives in the matrix.

    The shape of the kernel is that of Beatty et al., IEEE TMI 24 (2005), eq. 5.
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
            "choose backend='torchkbnufft' or a smaller width",
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
            under = (beta**2 - position**2).clamp(min=1e-12).sqrt()
            taper = taper[..., None] * (torch.sinh(under) / under)
        size = (len(trajectory), math.prod(self.grid))
        rows = torch.arange(0, index.numel() + 1, index.shape[1], dtype=torch.int32)
        arrays = (weight.to(dtype.to_real()).flatten().numpy(), index.int().flatten().numpy(), rows.numpy())
        self.matrix, self.transpose = sparse_pair(csr_matrix(arrays, shape=size))
        self.taper = (1 / (taper * math.sqrt(math.prod(shape)))).to(dtype.to_real())

    def __deepcopy__(self, memo: dict[int, object]) -> _Sparse:
        return copy.copy(self)  # torch cannot copy sparse matrices, and nobody writes to these

    def to(self, device: torch.device) -> None:
        for name in ("matrix", "transpose", "taper"):
            setattr(self, name, getattr(self, name).to(device))

    @staticmethod
    def _product(matrix: Tensor, x: Tensor) -> Tensor:
        """A real matrix times complex rows ``(n, k)``: real and imaginary parts are columns."""
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


class _Kb:
    """torchkbnufft's table interpolation."""

    def __init__(
        self, trajectory: Tensor, shape: tuple[int, ...], oversampling: float, width: int, dtype: torch.dtype
    ) -> None:
        import torchkbnufft as tkbn

        grid = tuple(math.ceil(oversampling * n) for n in shape)
        # A finer table than its default of 1024, whose steps would be the larger part of the error.
        settings = {"im_size": shape, "grid_size": grid, "numpoints": width, "table_oversamp": 4096, "dtype": dtype}
        self.there, self.back = tkbn.KbNufft(**settings), tkbn.KbNufftAdjoint(**settings)
        size = torch.tensor(shape, dtype=torch.float64)
        self.omega = (2 * math.pi * trajectory.double() / size).T.to(dtype.to_real()).contiguous()
        self.scale = 1 / math.sqrt(math.prod(shape))

    def to(self, device: torch.device) -> None:
        self.there, self.back, self.omega = (part.to(device) for part in (self.there, self.back, self.omega))

    def forward(self, x: Tensor) -> Tensor:
        return self.there(x[None].contiguous(), self.omega)[0] * self.scale

    def adjoint(self, y: Tensor) -> Tensor:
        return self.back(y[None].contiguous(), self.omega)[0] * self.scale


class _Finufft:
    """finufft with plans that are kept, on the CPU (Barnett et al., SIAM J. Sci. Comput. 41, 2019)."""

    def __init__(self, trajectory: Tensor, shape: tuple[int, ...], eps: float, dtype: torch.dtype) -> None:
        self.shape = shape
        self.eps = max(eps, 1e-6 if dtype == torch.complex64 else 1e-14)  # what rounding allows
        self.dtype = "complex64" if dtype == torch.complex64 else "complex128"
        real = np.float32 if dtype == torch.complex64 else np.float64
        self.points = [
            np.ascontiguousarray((2 * math.pi * trajectory[:, d].double() / n).numpy().astype(real))
            for d, n in enumerate(shape)
        ]
        self.scale = 1 / math.sqrt(math.prod(shape))
        self.plans: dict[tuple[int, int], object] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "plans": {}}  # a plan belongs to one thread of work, and cannot be written down

    def to(self, device: torch.device) -> None:
        if device.type not in ("cpu", "meta"):
            raise ValueError("the finufft back end works on the CPU; choose backend='sparse' or 'torchkbnufft'")

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
        return self._run(2, x) * self.scale

    def adjoint(self, y: Tensor) -> Tensor:
        return self._run(1, y) * self.scale


def _back_end(
    name: Backend,
    trajectory: Tensor,
    shape: tuple[int, ...],
    oversampling: float,
    width: int,
    eps: float,
    dtype: torch.dtype,
) -> _Sparse | _Kb | _Finufft:
    if name == "sparse":
        return _Sparse(trajectory, shape, oversampling, width, dtype)
    if name == "torchkbnufft":
        return _Kb(trajectory, shape, oversampling, width, dtype)
    if name == "finufft":
        return _Finufft(trajectory, shape, eps, dtype)
    raise ValueError(f"unknown NUFFT back end {name!r}; choose sparse, torchkbnufft or finufft")


class NUFFT(LinearOperator):
    """The unitary centred Fourier transform at any points: complex ``(B, c, *spatial)`` to ``(B, c, samples)``.

    ``y(k) = sum_r x(r) exp(-2 pi i k . (r - n // 2) / n) / sqrt(N)``: on a Cartesian grid this is
    :func:`medrecon.operators.fourier.fft`.

    Args:
        trajectory: points in cycles per field of view, ``(..., 2 or 3)``, from -n/2 to n/2 along each axis, in the order of
            the image's axes; leading axes (interleaves, readout) are flattened.
        shape: of the image.
        backend: ``"sparse"``: a kept interpolation matrix, the fastest in 2-D; ``"torchkbnufft"``: its tables, little
            memory, for 3-D; ``"finufft"``: any accuracy, on the CPU. Default: sparse in 2-D, torchkbnufft in 3-D.
        oversampling: of the grid; default 1.5 (sparse) or 2 (torchkbnufft).
        width: of the interpolation kernel in grid points; default 5 (sparse: error 3e-4) or 6 (torchkbnufft).
        eps: relative accuracy of finufft; default 1e-6, or 1e-12 in complex128.
        toeplitz: whether ``normal`` is a convolution (two FFTs of twice the size, no interpolation; accurate to the back
            end's accuracy) instead of ``adjoint(forward)``.
        dtype: complex type of images and samples.
        weights: ``(samples,)``, not negative: samples are those times ``sqrt(weights)``, so that least squares are weighted;
            with :func:`density_compensation` the normal operator is nearly the identity where k-space was sampled.

    Raises:
        ValueError: for points outside the band (in other units?), NaN, dimensions or settings that do not fit, or a
            matrix that exceeds the free memory.
    """

    def __init__(
        self,
        trajectory: Tensor,
        shape: Sequence[int],
        backend: Backend | None = None,
        oversampling: float | None = None,
        width: int | None = None,
        eps: float | None = None,
        toeplitz: bool = True,
        dtype: torch.dtype = torch.complex64,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape)
        self.dims = tuple(range(-len(self.shape), 0))
        points = _checked(trajectory, self.shape)
        if dtype not in (torch.complex64, torch.complex128):
            raise ValueError(f"a NUFFT works in complex64 or complex128; got {dtype}")
        backend = backend or ("sparse" if len(self.shape) == 2 else "torchkbnufft")
        oversampling = (1.5 if backend == "sparse" else 2.0) if oversampling is None else oversampling
        width = (5 if backend == "sparse" else 6) if width is None else width
        if not 1.25 <= oversampling <= 8 or not 2 <= width <= 16:
            raise ValueError(f"oversampling must be 1.25 to 8 and width 2 to 16; got {oversampling} and {width}")
        eps = (1e-6 if dtype == torch.complex64 else 1e-12) if eps is None else eps
        if backend == "torchkbnufft" and min(self.shape) < 3:
            raise ValueError(
                f"torchkbnufft needs at least three pixels a side; got {self.shape}: choose backend='sparse'"
            )
        self.trajectory: Tensor
        self.spectrum: Tensor | None
        self.root: Tensor | None
        self.register_buffer("trajectory", points, persistent=False)
        self.register_buffer("root", _root(weights, len(points), dtype.to_real()), persistent=False)
        self.backend = _back_end(backend, points, self.shape, oversampling, width, eps, dtype)
        self.dtype = dtype
        spectrum = None
        if toeplitz:
            # The kernel is the adjoint transform of ones on twice the field of view.
            double = tuple(2 * n for n in self.shape)
            finer = _back_end(backend, 2 * points, double, max(oversampling, 2.0), width + 1, eps / 10, dtype)
            ones = torch.ones(1, len(points), dtype=dtype)
            kernel = finer.adjoint(ones if self.root is None else ones * self.root**2)[0]
            kernel = kernel * math.sqrt(math.prod(double)) / math.prod(self.shape)
            spectrum = torch.fft.fftn(torch.fft.ifftshift(kernel), dim=self.dims).real.contiguous()
        self.register_buffer("spectrum", spectrum, persistent=False)
        self._density: Tensor | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NUFFT:
        """Follow to another device; the type stays that of the construction."""
        device = fn(torch.empty(0)).device
        self.trajectory = self.trajectory.to(device)
        for name in ("spectrum", "root"):
            held = getattr(self, name)
            setattr(self, name, None if held is None else held.to(device))
        self.backend.to(device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Samples."""
        self._same_type(x)
        if tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"the image must have shape (B, c, *{self.shape}); got {tuple(x.shape)}")
        flat = with_adjoint_as_backward(x.reshape(-1, *self.shape), self.backend.forward, self.backend.adjoint).view(
            *x.shape[:2], -1
        )
        return flat if self.root is None else flat * self.root

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint, without density compensation."""
        self._same_type(y)
        y = y if self.root is None else y * self.root
        flat = with_adjoint_as_backward(y.reshape(-1, y.shape[-1]), self.backend.adjoint, self.backend.forward)
        return flat.view(*y.shape[:2], *self.shape)

    def _same_type(self, x: Tensor) -> None:
        if x.dtype != self.dtype:
            raise ValueError(f"this NUFFT works in {self.dtype}, and got {x.dtype}; make it with dtype={x.dtype}")

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, by convolution if ``toeplitz``."""
        if self.spectrum is None:
            return super().normal(x)
        size = self.spectrum.shape
        spread = torch.fft.ifftn(torch.fft.fftn(x, s=size, dim=self.dims) * self.spectrum, dim=self.dims)
        return spread[(..., *(slice(0, n) for n in self.shape))]

    def gridding(self, y: Tensor, density: Tensor) -> Tensor:
        """Density-compensated adjoint ``A^H (w y)``: the image, where k-space is sampled densely enough.

        Args:
            y: samples ``(B, c, samples)``.
            density: weights ``(samples,)`` of :func:`density_compensation`.
        """
        return self.adjoint(y * density.to(y.device, y.dtype.to_real()))

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`LinearOperator.pinv`; for ``rho = 0`` conjugate gradients start at the density-compensated adjoint.

        The start lies in the range of the adjoint, so the limit is that from zero; it is only reached sooner.
        """
        if not (isinstance(rho, int | float) and rho == 0):
            return super().pinv(y, n_iter, rho)
        return self._least_squares(self, y, n_iter)

    def _least_squares(self, A: LinearOperator, y: Tensor, n_iter: int) -> Tensor:
        """For this transform, or this after coils, as ``A``."""
        if self._density is None:
            self._density = density_compensation(self.trajectory, self.shape)
        density = self._density.to(y.device, y.dtype.to_real())
        if self.root is not None:
            density = density / (self.root**2).clamp(min=1e-12 * float(self.root.max()) ** 2)
        start = A.adjoint(y * density)
        return cg(A.normal, A.adjoint(y), start, n_iter, tol=1e-7 if self.dtype == torch.complex64 else 1e-14)

    def __matmul__(self, inner: LinearOperator) -> Composed:
        """``A @ B`` measures ``A(B(x))``; after coils, too, the pseudo-inverse starts at the density-compensated adjoint."""
        return _CoilNUFFT(self, inner) if isinstance(inner, Coils) else Composed(self, inner)


def _root(weights: Tensor | None, n: int, dtype: torch.dtype) -> Tensor | None:
    """Square roots of weights of ``n`` samples."""
    if weights is None:
        return None
    if tuple(weights.shape) != (n,) or not weights.isfinite().all() or bool((weights < 0).any()):
        raise ValueError(f"weights of a NUFFT are {n} finite numbers, not negative; got shape {tuple(weights.shape)}")
    return weights.sqrt().to(dtype).cpu()


def density_compensation(
    trajectory: Tensor, shape: Sequence[int], kind: Literal["pipe", "voronoi"] = "pipe", n_iter: int = 30
) -> Tensor:
    """Weights ``(samples,)`` that make ``A^H W y`` an image: the area of k-space that every sample stands for.

    ``"pipe"``: the iteration of Pipe and Menon (MRM 41, 1999), ``w <- w / (G G^T w)`` with the interpolation kernel.
    ``"voronoi"``: areas of Voronoi cells (Rasche et al., IEEE TMI 18, 1999), 2-D only; cells that reach beyond the band are
    cut at its edge, points that coincide share their cell.

    Args:
        trajectory: as of :class:`NUFFT`.
        shape: of the image.
        kind: see above.
        n_iter: iterations of Pipe's.
    """
    points = _checked(trajectory, tuple(shape)).cpu()
    if kind == "voronoi":
        return _voronoi(points)
    if kind != "pipe":
        raise ValueError(f"unknown density compensation {kind!r}; choose pipe or voronoi")
    if len(shape) == 3:
        return _pipe_by_table(points, tuple(shape), n_iter)
    kernel = _Sparse(points, tuple(shape), 2.0, 6, torch.complex128)
    # Magnitudes of the kernel: its signs are a shift of the image.
    for part in (kernel.matrix, kernel.transpose):
        part.values().abs_()
    G, T = kernel.matrix, kernel.transpose
    w = torch.ones(len(points), 1, dtype=torch.float64)
    for _ in range(n_iter):
        w = w / (G @ (T @ w)).clamp(min=1e-300)
    # Where samples are dense, w times the integral of the kernel with itself is the area that each stands for.
    integral = 1 / (float(kernel.taper.min()) * math.sqrt(math.prod(shape)))
    return w[:, 0] * integral**2 / math.prod(g / n for g, n in zip(kernel.grid, shape, strict=True))


def _pipe_by_table(points: Tensor, shape: tuple[int, ...], n_iter: int) -> Tensor:
    """Pipe's iteration by torchkbnufft, in little memory; its weights have no unit, so that a blob gives them one."""
    import torchkbnufft as tkbn

    size = torch.tensor(shape, dtype=torch.float64)
    omega = (2 * math.pi * points / size).T.float().contiguous()
    weights = tkbn.calc_density_compensation_function(omega, shape, n_iter)[0, 0].real.double()
    # Sampled densely enough at the centre of k-space, as every trajectory is, a smooth image must come back as it was.
    grid = torch.meshgrid(*((torch.arange(n) - n // 2) / n for n in shape), indexing="ij")
    blob = (-0.5 * sum(((g / 0.1) ** 2 for g in grid), torch.zeros(()))).to(torch.complex64)[None]
    table = _Kb(points, shape, 2.0, 6, torch.complex64)
    back = table.adjoint(table.forward(blob) * weights.float())
    return weights * float((blob.conj() * blob).real.sum() / (blob.conj() * back).real.sum())


def _reach(points: Tensor) -> tuple[Tensor, bool]:
    """How far the samples reach along each axis, and whether into the corners of that box (or of its ellipsoid only)."""
    reach = points.abs().amax(0)
    return reach, bool(((points / reach).norm(dim=1) > 1.1).any())


def _voronoi(points: Tensor) -> Tensor:
    from scipy.spatial import ConvexHull, Voronoi  # slow to import, and rarely wanted

    if points.shape[1] != 2:
        raise ValueError("Voronoi density compensation is for 2-D trajectories; choose pipe")
    unique, inverse, counts = np.unique(points.numpy().round(9), axis=0, return_inverse=True, return_counts=True)
    # Mirror images, half a cell beyond what is sampled, close the outermost cells there.
    reach, corners = _reach(points)
    mirrored = [unique]
    if corners:
        for axis in (0, 1):
            for edge in (unique[:, axis].min() - 0.5, unique[:, axis].max() + 0.5):
                copy = unique.copy()
                copy[:, axis] = 2 * edge - copy[:, axis]
                mirrored.append(copy)
    else:
        radius = np.linalg.norm(unique / (reach.numpy() + 0.5), axis=1, keepdims=True)
        outer = radius[:, 0] > 0.5
        mirrored.append(unique[outer] * (2 / radius[outer] - 1))
    cells = Voronoi(np.concatenate(mirrored))
    areas = np.zeros(len(unique))
    for i in range(len(unique)):
        region = cells.regions[cells.point_region[i]]
        if region and -1 not in region:
            areas[i] = ConvexHull(cells.vertices[region]).volume
    return torch.from_numpy((areas / counts)[inverse.ravel()])


def _checked(trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Points ``(samples, d)`` in float64."""
    d = len(shape)
    if trajectory.shape[-1] != d or trajectory.ndim < 2:
        raise ValueError(
            f"a trajectory for an image of shape {shape} needs {d} coordinates in its last axis; "
            f"got shape {tuple(trajectory.shape)}"
        )
    points = trajectory.reshape(-1, d).double().cpu()
    if not len(points) or not points.isfinite().all():
        raise ValueError("the trajectory is empty or holds NaN or Inf")
    reach = points.abs().amax(0)
    half = torch.tensor(shape, dtype=torch.float64) / 2
    if (reach > half * (1 + 1e-6)).any():
        raise ValueError(
            f"the trajectory reaches {reach.tolist()} cycles per field of view, but the band of an image of shape {shape} "
            f"ends at {half.tolist()}; give cycles per field of view (not 1/m), or a larger matrix"
        )
    # Ends of a readout that lie where other units have their band's end.
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


class _CoilNUFFT(Composed):
    """A NUFFT after coils."""

    outer: NUFFT

    def pinv(self, y: Tensor, n_iter: int = 30, rho: float | Tensor = 0.0) -> Tensor:
        """See :meth:`NUFFT.pinv`."""
        if not (isinstance(rho, int | float) and rho == 0):
            return super().pinv(y, n_iter, rho)
        return self.outer._least_squares(self, y, n_iter)


class Coils(LinearOperator):
    """Coil sensitivities: complex ``(B, 1, *spatial)`` to ``(B, coils, *spatial)``.

    Args:
        maps: complex ``(B or 1, coils, *spatial)``.
    """

    maps: Tensor

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        if not maps.is_complex() or not maps.detach().isfinite().all():
            raise ValueError(f"coil maps must be complex and finite; got {maps.dtype}")
        self.register_buffer("maps", maps)

    def forward(self, x: Tensor) -> Tensor:
        """``S x``."""
        self._fits(x, 1)
        return self.maps * x

    def _fits(self, x: Tensor, channels: int) -> None:
        if tuple(x.shape[1:]) != (channels, *self.maps.shape[2:]):
            raise ValueError(f"coils {tuple(self.maps.shape[1:])} and an image {tuple(x.shape)} do not fit")

    def adjoint(self, y: Tensor) -> Tensor:
        """``S^H y``."""
        self._fits(y, self.maps.shape[1])
        return (self.maps.conj() * y).sum(1, keepdim=True)


def nufft_sense(
    trajectory: Tensor,
    maps: Tensor | None = None,
    shape: Sequence[int] | None = None,
    **settings: object,
) -> Composed:
    """Non-Cartesian MRI on real two-channel images ``(B, 2, *spatial)``, any trajectory, with coils or without.

    Args:
        trajectory: see :class:`NUFFT`.
        maps: coil sensitivities, complex ``(B or 1, coils, *spatial)``; ``None`` for one coil.
        shape: of the image, needed only without maps.
        **settings: of :class:`NUFFT`.
    """
    if maps is None and shape is None:
        raise ValueError("non-Cartesian MRI needs either coil maps or the spatial shape")
    size = tuple(maps.shape[2:]) if maps is not None else tuple(shape or ())
    if maps is not None:
        settings.setdefault("dtype", maps.dtype)
    transform = NUFFT(trajectory, size, **settings)  # type: ignore[arg-type]
    return (transform if maps is None else transform @ Coils(maps)) @ AsComplex()
