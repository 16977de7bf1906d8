"""Time the operators beside those of other libraries, interleaved in one process: medians in ms, and ratios of the medians.

    python benchmarks/operators.py [--only mri nufft ct] [--repeat 15] [--growth] [--device cuda]

Libraries that are not installed are named and skipped: sigpy and torchkbnufft come with medrecon, the others with its
extra ``bench`` (the wheel of astra also needs the CUDA run-time libraries, even on a CPU). On a GPU, only libraries
that support it are compared. "FFT alone" is a lower bound for every operator. MB is the peak memory of one call minus
the memory used before it. Accuracy is printed if the methods differ in it. During timing, glibc keeps freed memory, for
all libraries alike. ``--growth`` prints how the times of medrecon grow with the size.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.data.trajectories import GOLDEN_ANGLE, radial
from medrecon.operators import (
    NUFFT,
    Detector,
    Finufft,
    MulticoilMRI,
    ParallelBeam,
    SparseGridding,
    TableGridding,
    operator_norm,
)
from medrecon.operators.linalg import cg

Calls = dict[str, Callable[[], object]]


DEVICE = torch.device("cpu")


def keep_freed_memory(keep: bool) -> None:
    """Let glibc keep freed memory: fresh pages cost as much as an FFT, and which call pays for them is random."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-1, 2**31 - 1 if keep else 2**17)  # M_TRIM_THRESHOLD
        mallopt(-4, 0 if keep else 2**16)  # M_MMAP_MAX


def _status(name: str) -> float:
    """A line of /proc/self/status, in MB; NaN if there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        return math.nan


def peak(call: Callable[[], object]) -> float:
    """Peak memory of a call minus the memory used before it, MB."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    keep_freed_memory(False)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return math.nan
    finally:
        keep_freed_memory(True)


def done() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@functools.cache
def available(name: str) -> bool:
    """Whether a library can be compared; if it cannot, the reason is printed once."""
    if DEVICE.type != "cpu" and name not in ("deepinv", "mrpro"):
        print(f"{name} is skipped, since it works on the CPU only")
        return False
    try:
        if name in ("deepinv", "mrpro") and importlib.util.find_spec("torchvision") is not None:
            # Its wheel needs CUDA libraries for two operators that are not used here.
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        __import__(name)
    except (ImportError, RuntimeError, OSError) as error:
        print(f"{name} is skipped: {str(error).splitlines()[0]}")
        return False
    return True


def compare(title: str, calls: Calls, repeat: int) -> None:
    """Print a row for every call; ratios are relative to the first. The calls are timed in turns."""
    for call in calls.values():
        call()
    memory = {name: peak(call) for name, call in calls.items()}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            done()
            start = time.perf_counter()
            call()
            done()
            times[name].append(1000 * (time.perf_counter() - start))
    base = np.median(next(iter(times.values())))
    for name, samples in times.items():
        middle = np.median(samples)
        print(f"| {title} | {name} | {middle:.2f} | {middle / base:.2f} | {memory[name]:.0f} |", flush=True)


def mri(repeat: int, n: int = 320, coils: int = 8) -> None:
    """Multicoil Cartesian k-space with a mask that is constant along the readout."""
    maps = loop_coils((n, n), coils)
    mask = undersampling_mask((n, n), "gaussian1d", 4, 24, 0)
    S, M = torch.from_numpy(maps)[None].to(DEVICE), torch.from_numpy(mask)[None, None, None].to(DEVICE)
    ours = MulticoilMRI(S, M)
    rng = np.random.default_rng(0)
    image = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))).astype(np.complex64)
    x = torch.from_numpy(image)[None, None].to(DEVICE)
    y = ours(x)
    many = S.clone()
    setup: Calls = {"medrecon": lambda: MulticoilMRI(S, M)}
    forward: Calls = {"medrecon": lambda: ours(x), "FFT alone": lambda: torch.fft.fftn(many, dim=(-2, -1))}
    adjoint: Calls = {"medrecon": lambda: ours.adjoint(y), "FFT alone": lambda: torch.fft.ifftn(many, dim=(-2, -1))}
    normal: Calls = {"medrecon": lambda: ours.normal(x)}
    solve: Calls = {"medrecon": lambda: ours.solve(x, 0.01, n_iter=10)}
    if available("sigpy"):
        import sigpy
        from sigpy.mri.linop import Sense

        weights = np.broadcast_to(mask, (n, n)).astype(np.float32)
        theirs = Sense(maps, weights=weights)
        setup["sigpy"] = lambda: Sense(maps, weights=weights)
        back, both = theirs.H, theirs.H * theirs
        kspace = theirs(image)
        assert np.abs(y[0].numpy() - kspace).max() < 1e-4
        forward["sigpy"], adjoint["sigpy"] = lambda: theirs(image), lambda: back(kspace)
        normal["sigpy"] = lambda: both(image)

        def sigpy_cg() -> None:
            start = np.zeros_like(image)
            sigpy.app.App(
                sigpy.alg.ConjugateGradient(lambda v: both(v) + 0.01 * v, image, start, max_iter=10), show_pbar=False
            ).run()

        solve["sigpy"] = sigpy_cg
    if available("deepinv"):
        from deepinv.physics import MultiCoilMRI

        whole = (
            torch.from_numpy(np.broadcast_to(mask, (n, n)).astype(np.float32))[None, None]
            .expand(1, 2, -1, -1)
            .to(DEVICE)
        )

        def make() -> MultiCoilMRI:
            return MultiCoilMRI(mask=whole, coil_maps=S, img_size=(2, n, n), device=DEVICE)

        peer = make()
        setup["deepinv"] = make
        x2 = torch.cat([x.real, x.imag], dim=1)
        y2 = peer.A(x2)
        forward["deepinv"], adjoint["deepinv"] = lambda: peer.A(x2), lambda: peer.A_adjoint(y2)
        normal["deepinv"] = lambda: peer.A_adjoint_A(x2)
        solve["deepinv"] = lambda: cg(lambda v: peer.A_adjoint_A(v) + 0.01 * v, x2, n_iter=10)
    if available("mrpro"):
        from mrpro.operators import FastFourierOp, SensitivityOp

        lines = torch.from_numpy(mask).float().to(DEVICE)
        op = lines * (FastFourierOp(dim=(-2, -1)) @ SensitivityOp(S[0, :, None]))
        setup["mrpro"] = lambda: lines * (FastFourierOp(dim=(-2, -1)) @ SensitivityOp(S[0, :, None]))
        x5, y5 = x[:, :, None], y[:, :, None]
        assert float((op(x5)[0] - y5).abs().max()) < 1e-4
        gram = op.H @ op
        forward["mrpro"], adjoint["mrpro"] = lambda: op(x5), lambda: op.H(y5)
        normal["mrpro"] = lambda: gram(x5)
        solve["mrpro"] = lambda: cg(lambda v: gram(v)[0] + 0.01 * v, x5, n_iter=10)
    rows = (("set-up", setup), ("forward", forward), ("adjoint", adjoint), ("normal", normal), ("10 CG", solve))
    for title, calls in rows:
        compare(f"MRI {coils} x {n}², {title}", calls, repeat)


def nufft(repeat: int, n: int = 256, coils: int = 8, spokes: int = 400, samples: int = 512) -> None:
    """Golden-angle radial k-space; errors are relative to the widest kernel of medrecon in float64."""
    points = radial((n, n), spokes, samples, step=GOLDEN_ANGLE).flatten(0, 1)
    x = torch.randn(1, coils, n, n, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    wide = NUFFT(points[:2000], (n, n), SparseGridding(2.0, 9), toeplitz=False, dtype=torch.complex128)
    reference = wide(x.to(torch.complex128))
    x = x.to(DEVICE)
    forward: Calls = {}
    adjoint: Calls = {}
    normal: Calls = {}
    solve: Calls = {}
    kinds: dict[str, SparseGridding | TableGridding | Finufft] = {
        "medrecon sparse": SparseGridding(),
        "medrecon sparse, error 5e-3": SparseGridding(oversampling=1.25, width=4),
    }
    if available("finufft"):
        kinds |= {f"finufft kept plan {e:g}": Finufft(eps=e) for e in (1e-3, 1e-4, 1e-6)}
    kinds["torchkbnufft table"] = TableGridding()
    for name, backend in kinds.items():
        start = time.perf_counter()
        A = NUFFT(points, (n, n), backend, toeplitz=False).to(DEVICE)
        setup = time.perf_counter() - start
        y = A(x)
        error = float((y[..., :2000].cpu() - reference).norm() / reference.norm())
        print(f"set-up of {name}: {setup:.2f} s, relative error {error:.1e}")
        forward[name] = lambda A=A: A(x)
        adjoint[name] = lambda A=A, y=y: A.adjoint(y)
    start = time.perf_counter()
    ours = NUFFT(points, (n, n)).to(DEVICE)
    print(f"set-up of medrecon with its convolution kernel: {time.perf_counter() - start:.2f} s")
    normal["medrecon"] = lambda: ours.normal(x)
    solve["medrecon"] = lambda: ours.solve(x, 0.01, n_iter=10)
    pair = NUFFT(points, (n, n), toeplitz=False).to(DEVICE)
    normal["forward and adjoint"] = lambda: pair.adjoint(pair(x))
    if available("sigpy"):
        import sigpy

        image, coordinates = x[0].numpy(), points.numpy()
        samples_ = sigpy.nufft(image, coordinates)
        forward["sigpy"] = lambda: sigpy.nufft(image, coordinates)
        adjoint["sigpy"] = lambda: sigpy.nufft_adjoint(samples_, coordinates, image.shape)
    if available("mrpro"):
        from mrpro.data import KTrajectory
        from mrpro.operators import NonUniformFastFourierOp

        ky, kx = (k.float().view(1, 1, 1, spokes, samples) for k in points.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = KTrajectory(torch.zeros(1, 1, 1, 1, 1), ky, kx)
            op = NonUniformFastFourierOp((-2, -1), (n, n), (n, n), path).to(DEVICE)
        x5 = x[:, :, None]
        (y5,) = op(x5)
        print(
            f"relative error of mrpro: {float((y5.flatten(2)[..., :2000].cpu() - reference).norm() / reference.norm()):.1e}"
        )
        gram = op.gram
        forward["mrpro"], adjoint["mrpro"] = lambda: op(x5), lambda: op.H(y5)
        normal["mrpro"] = lambda: gram(x5)
        solve["mrpro"] = lambda: cg(lambda v: gram(v)[0] + 0.01 * v, x5, n_iter=10)
    if available("deepinv"):
        try:
            from deepinv.physics import NonCartesianMRI

            # It takes no points, so it gets the same number of its own golden-angle spokes.
            peer = NonCartesianMRI((n, n), num_shots=spokes, num_samples_per_shot=samples, tilt="golden", in_out=True)
            x2 = torch.cat([x.real[0, :, None], x.imag[0, :, None]], dim=1)
            normal["deepinv"] = lambda: peer.A_adjoint(peer.A(x2))
            normal["deepinv"]()
            solve["deepinv"] = lambda: cg(lambda v: peer.A_adjoint(peer.A(v)) + 0.01 * v, x2, n_iter=10)
        except Exception as error:
            normal.pop("deepinv", None)
            print(f"deepinv's NUFFT is skipped: {str(error).splitlines()[0]}")
    title = f"NUFFT {coils} x {n}², {spokes} x {samples} radial"
    for what, calls in (("forward", forward), ("adjoint", adjoint), ("normal", normal), ("10 CG", solve)):
        compare(f"{title}, {what}", calls, repeat)


def ct(repeat: int, n: int = 256, views: int = 180) -> None:
    """Parallel beam."""
    angles = torch.arange(views, dtype=torch.float64) * math.pi / views
    start = time.perf_counter()
    A = ParallelBeam(angles, (n, n), Detector(n)).to(DEVICE)
    held = 8e-6 * A.matrix._nnz() * 2
    print(f"set-up of medrecon's projector: {time.perf_counter() - start:.2f} s, {held:.0f} MB with its transpose")
    y_, x_ = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2] * 2, indexing="ij")
    image = ((x_**2 + y_**2) < (0.4 * n) ** 2).float()[None, None].to(DEVICE)
    eight = image.repeat(8, 1, 1, 1)
    y = A(image)
    y8 = A(eight)
    anew = ParallelBeam(angles, (n, n), Detector(n), keep=False).to(DEVICE)
    forward: Calls = {"medrecon": lambda: A(image), "medrecon on the fly": lambda: anew(image)}
    forward8: Calls = {"medrecon": lambda: A(eight)}
    adjoint: Calls = {"medrecon": lambda: A.adjoint(y), "medrecon on the fly": lambda: anew.adjoint(y)}
    adjoint8: Calls = {"medrecon": lambda: A.adjoint(y8)}
    fbp: Calls = {"medrecon": lambda: A.fbp(y)}
    scale = float(operator_norm(A.normal, image, 10)) ** 2
    solve: Calls = {"medrecon": lambda: A.solve(image, 0.01 * scale, n_iter=10)}
    quality = {"medrecon": A.fbp(y)[0, 0].cpu().numpy()}
    degrees = np.rad2deg(angles.numpy())
    if available("skimage.transform"):
        from skimage.transform import iradon, radon

        flat, views_t = image[0, 0].numpy(), y[0, 0].numpy().T
        forward["skimage"] = lambda: radon(flat, degrees)
        fbp["skimage"] = lambda: iradon(views_t, degrees, output_size=n)
        quality["skimage"] = iradon(views_t, degrees, output_size=n)
    if available("deepinv"):
        from deepinv.physics import Tomography

        rays = torch.from_numpy(degrees).float().to(DEVICE)
        peer = Tomography(angles=rays, img_width=n, circle=True, normalize=False, device=DEVICE)
        z, z8 = peer.A(image), peer.A(eight)
        forward["deepinv"], forward8["deepinv"] = lambda: peer.A(image), lambda: peer.A(eight)
        adjoint["deepinv"], adjoint8["deepinv"] = lambda: peer.A_adjoint(z), lambda: peer.A_adjoint(z8)
        fbp["deepinv"] = lambda: peer.fbp(z) if hasattr(peer, "fbp") else peer.A_dagger(z)
        quality["deepinv"] = fbp["deepinv"]()[0, 0].cpu().numpy()  # type: ignore[index]
        solve["deepinv"] = lambda: cg(lambda v: peer.A_adjoint(peer.A(v)) + 0.01 * scale * v, image, n_iter=10)
    if available("astra"):
        import astra

        volume = astra.create_vol_geom(n, n)
        geometry = astra.create_proj_geom("parallel", 1.0, n, angles.numpy())
        projector = astra.OpTomo(astra.create_projector("linear", geometry, volume))
        flat1, flat2 = image[0, 0].numpy(), y[0, 0].numpy()
        forward["astra"], adjoint["astra"] = lambda: projector.FP(flat1), lambda: projector.BP(flat2)
        fbp["astra"] = lambda: projector.reconstruct("FBP", flat2)
        quality["astra"] = projector.reconstruct("FBP", flat2)
        eight1, eight2 = eight[:, 0].numpy(), y8[:, 0].numpy()
        forward8["astra"] = lambda: [projector.FP(one) for one in eight1]
        adjoint8["astra"] = lambda: [projector.BP(one) for one in eight2]

        def astra_cg() -> None:
            flat = torch.from_numpy(flat1)[None]
            cg(
                lambda v: torch.from_numpy(projector.BP(projector.FP(v[0].numpy())))[None] + 0.01 * scale * v,
                flat,
                n_iter=10,
            )

        solve["astra"] = astra_cg
    inside = ((x_**2 + y_**2) < (0.48 * n) ** 2).numpy()
    truth = image[0, 0].cpu().numpy()
    for name, one in quality.items():
        print(
            f"FBP of a disc by {name}, relative error {np.linalg.norm((one - truth)[inside]) / np.linalg.norm(truth):.3f}"
        )
    title = f"CT {n}², {views} views"
    rows = (("forward", forward), ("forward, batch of 8", forward8), ("adjoint", adjoint),
            ("adjoint, batch of 8", adjoint8), ("10 CG", solve), ("FBP", fbp))  # fmt: skip
    for what, calls in rows:
        compare(f"{title}, {what}", calls, repeat)


def growth() -> None:
    """Growth of the times, with n log n for FFT and NUFFT and with the number of views for CT."""

    def once(call: Callable[[], object]) -> float:
        call()
        samples = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            done()
            samples.append(1000 * (time.perf_counter() - start))
        return float(np.median(samples))

    print(
        "\n| n | MRI normal, 8 coils, ms | ns per n² log2 n | NUFFT forward, 8 coils, 2n spokes of 2n, ms | ns per n² log2 n |"
    )
    print("|---|---|---|---|---|")
    for n in (128, 256, 512, 1024):
        maps = torch.from_numpy(loop_coils((n, n), 8))[None]
        A = MulticoilMRI(maps, torch.ones(1, 1, n, n).bernoulli_(0.3)).to(DEVICE)
        x = torch.randn(1, 1, n, n, dtype=torch.complex64, device=DEVICE)
        F = NUFFT(radial((n, n), 2 * n, 2 * n, step=GOLDEN_ANGLE), (n, n), toeplitz=False).to(DEVICE)
        coils = maps.to(DEVICE) * x
        one, two = once(lambda A=A, x=x: A.normal(x)), once(lambda F=F, c=coils: F(c))
        unit = 1e-6 * n**2 * math.log2(n)
        print(f"| {n} | {one:.1f} | {one / unit:.1f} | {two:.1f} | {two / unit:.1f} |", flush=True)
    print("\n| views | CT forward 256², ms | ms per view |\n|---|---|---|")
    for views in (45, 90, 180, 360):
        A = ParallelBeam(torch.arange(views) * math.pi / views, (256, 256), Detector(256)).to(DEVICE)
        x = torch.rand(1, 1, 256, 256, device=DEVICE)
        took = once(lambda A=A, x=x: A(x))
        print(f"| {views} | {took:.1f} | {took / views:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=("mri", "nufft", "ct"), default=["mri", "nufft", "ct"])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    global DEVICE
    DEVICE = torch.device(arguments.device)
    keep_freed_memory(True)
    print(
        f"{torch.get_num_threads()} threads, {DEVICE}\n\n| problem | who | ms | times ours | MB |\n|---|---|---|---|---|"
    )
    for name in arguments.only:
        {"mri": mri, "nufft": nufft, "ct": ct}[name](arguments.repeat)
    if arguments.growth:
        growth()


if __name__ == "__main__":
    main()
