"""Images blurred by a kernel that the solver does not have: motion, defocus and turbulence, on brain MR and chest CT.

    python benchmarks/blind.py --store blind.jsonl [--only blinddps dps-true] [--cases mr-motion ct-defocus] [--count 4]
    python benchmarks/blind.py --store blind.jsonl --table
    python benchmarks/blind.py --spectrum
    python benchmarks/blind.py --tilt

The middle 128 x 128 pixels of validation slices (MR: subject omsL_12; CT: patients held out of the training) are blurred by
kernels whose seeds the training of the kernel prior did not use. The data are the 96 x 96 pixels for which the kernel needs
none outside, with noise of --noise. PSNR (range 1) and SSIM are those of these pixels, after the whole-pixel shift of at most
3 that suits best; the correlation of kernels is that after the best shift. All solvers start from the blurred image with noise
of 0.5. Rows: the blurred image; DPS with a Gaussian kernel of the same standard deviation; DPS with the true kernel, a bound;
the blind solvers. Results in the store are not computed again. --spectrum fits the mean power of training slices by a power
of the frequency, as medrecon/blur.py has it. --tilt: whether the tilt of turbulence is found where the kernel, or the image
too, is known.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from problems import DATA, bundle_prior
from torch import Tensor
from torch.nn import functional as F

from medrecon.blur import BlindBlur, BlindTurbulence, BlurSpectrum, SmoothField
from medrecon.bundle import load_prior
from medrecon.likelihood import Gaussian
from medrecon.noise import Noise, karras
from medrecon.operators.deblur import InnerBlur, Turbulence
from medrecon.operators.image import gaussian_kernel
from medrecon.posterior import network_prior
from medrecon.priors import Prior
from medrecon.problems.images import BLIND_START
from medrecon.problems.kernel_prior import KERNEL_SIZE, kernel_prior
from medrecon.sample import sample, sample_blind
from medrecon.solvers import DPS, BlindDPS, GibbsDDRM
from medrecon.training.kernels import blur_kernels
from medrecon.training.slices import load_slices

SIDE, REACH, FIRST_SEED = 128, KERNEL_SIZE // 2, 4_000_000
CASES = [f"{scan}-{blur}" for scan in ("mr", "ct") for blur in ("motion", "defocus", "turbulence")]
ROWS = ("input", "dps-wrong", "dps-true", "blinddps", "gibbsddrm")
RANGES = {"motion": {"extent": (8.0, 18.0)}, "defocus": {"radius": (2.0, 5.0)}}


def images(scan: str, count: int) -> Tensor:
    """The middle of ``count`` validation slices at unit scale, ``(count, 1, 128, 128)``."""
    if scan == "mr":
        rows = load_slices(DATA / "train" / "brain_slices_256_val.npz", {"subject": ["omsL_12"]})[40:180]
    else:
        rows = load_slices(DATA / "train" / "ct_slices_256.npz", {"subject": bundle_prior("chest_ct")[2]})
    step = len(rows) // count
    stack = np.stack([np.asarray(row["image"], np.float32) for row in rows[step // 2 :: step][:count]])
    margin = (256 - SIDE) // 2
    crop = stack[:, :, margin:-margin, margin:-margin]
    return torch.from_numpy(np.ascontiguousarray(crop)) / (200 if scan == "mr" else 1000)


def spectrum(scan: str, count: int = 40) -> tuple[float, float]:
    """Amplitude and exponent of the mean power of ``count`` training slices, from 0.02 to 0.35 cycles per pixel."""
    if scan == "mr":
        rows = load_slices(DATA / "train" / "brain_slices_256.npz", {"stripped": [0]})
    else:
        held_out = {"subject": bundle_prior("chest_ct")[2]}
        rows = load_slices(DATA / "train" / "ct_slices_256.npz", exclude=held_out)
    some = rows[:: len(rows) // count][:count]
    y = torch.from_numpy(np.stack([np.asarray(row["image"], np.float32) for row in some])) / (
        200 if scan == "mr" else 1000
    )
    model = BlurSpectrum(y, 0.0)
    edges = torch.logspace(math.log10(0.02), math.log10(0.35), 9).tolist()
    points = []
    for low, high in pairwise(edges):
        ring = (model.frequency >= low) & (model.frequency < high)
        points.append((model.frequency[ring].log().mean(), model.power.mean(0)[ring].mean().log()))
    f, power = torch.tensor(points, dtype=torch.float64).T
    slope = ((f - f.mean()) * (power - power.mean())).sum() / ((f - f.mean()) ** 2).sum()
    return float((power.mean() - slope * f.mean()).exp()), float(slope)


def best_shift(kernel: Tensor, truth: Tensor) -> float:
    """Correlation of two kernels ``(1, k, k)`` after the best whole-pixel shift."""
    size = 2 * kernel.shape[-1]
    both = torch.fft.rfft2(kernel, s=(size, size)).conj() * torch.fft.rfft2(truth, s=(size, size))
    return float(torch.fft.irfft2(both, s=(size, size)).max() / (kernel.norm() * truth.norm()))


def image_quality(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR and SSIM of the inner pixels of ``(1, 128, 128)`` images, after the best shift of at most 3 pixels."""
    inner = truth[:, REACH:-REACH, REACH:-REACH]
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    moved = [x.roll(shift, (-2, -1))[:, REACH:-REACH, REACH:-REACH] for shift in shifts]
    best = min(moved, key=lambda one: float((one - inner).square().mean()))
    return float(-10 * (best - inner).square().mean().log10()), ssim(best[0], inner[0])


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004) of two images with range 1, Gaussian window of 1.5 pixels."""
    window = gaussian_kernel(1.5)[None, None]

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(z[None, None], window)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return float((((2 * ma * mb + 1e-4) * (2 * cov + 9e-4)) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean())


class Case:
    """Blurred images, one by one.

    Args:
        name: name of the case.
        index: number of the image.
        count: number of images.
        noise: standard deviation of the noise.
    """

    def __init__(self, name: str, index: int, count: int, noise: float) -> None:
        self.scan, self.blur = name.split("-")
        seed = FIRST_SEED + index
        self.truth = images(self.scan, count)[index : index + 1]
        kind = "defocus" if self.blur == "turbulence" else self.blur
        self.kernel = blur_kernels([seed], kind, KERNEL_SIZE, **RANGES[kind])
        self.tilt = SmoothField().draw((SIDE, SIDE), Noise([seed])) if self.blur == "turbulence" else None
        clean = self.operator(self.kernel, self.tilt)(self.truth)
        self.noise = noise
        self.y = clean + noise * Noise([seed + 1]).like(clean)

    def operator(self, kernel: Tensor, tilt: Tensor | None = None) -> InnerBlur | Turbulence:
        """The blur, after the tilt where there is one."""
        return InnerBlur(kernel, (SIDE - 2 * REACH,) * 2) if tilt is None else Turbulence(kernel, tilt)

    def gaussian(self) -> Tensor:
        """The Gaussian kernel with the mean variance of the true one."""
        line = torch.arange(KERNEL_SIZE) - float(REACH)
        variance = (self.kernel[0, 0] * (line[:, None] ** 2 + line**2)).sum() / 2
        exact = gaussian_kernel(float(variance.sqrt()))
        cut = max(0, (exact.shape[-1] - KERNEL_SIZE) // 2)
        exact = exact[cut : exact.shape[-1] - cut, cut : exact.shape[-1] - cut]
        exact = F.pad(exact, ((KERNEL_SIZE - exact.shape[-1]) // 2,) * 4)[None, None]
        return exact / exact.sum()

    @property
    def edge(self) -> Tensor:
        """The blurred image, continued by its border pixels."""
        return F.pad(self.y, (REACH,) * 4, mode="replicate")

    def prior(self) -> Prior:
        """The prior of the images."""
        spec = load_prior("brain_mri_magnitude" if self.scan == "mr" else "chest_ct")
        return network_prior(spec, spec.network(), (1, SIDE, SIDE), None)[0]

    def run(self, row: str, steps: int, settings: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Image and kernel of one row."""
        if row == "input":
            return self.edge, self.gaussian()
        prior, noise = self.prior(), Noise([0])
        ladder, start = karras(BLIND_START, 0.005, steps), self.edge + BLIND_START * noise.like(self.edge)
        if row.startswith("dps"):
            kernel = self.kernel if row == "dps-true" else self.gaussian()
            A = self.operator(kernel, self.tilt if row == "dps-true" else None)
            data = Gaussian(A, self.y, self.noise)
            return sample(DPS(zeta=0.02), prior, data, ladder, noise=noise, start=start), kernel
        likelihood = BlindTurbulence if self.blur == "turbulence" and row == "blinddps" else BlindBlur
        blind = likelihood.of(self.y, self.noise, kernel_prior(), KERNEL_SIZE)
        solver = {"blinddps": BlindDPS, "gibbsddrm": GibbsDDRM}[row](**settings)
        found = sample_blind(solver, prior, blind, ladder, noise=noise, start=start)
        return found.x, found.data.parameters["kernel"]


def tilts(case: Case, steps: int) -> None:
    """Print the correlation of estimated and true tilts, with the true kernel, with and without the true image."""
    if (true_tilt := case.tilt) is None:
        raise ValueError("the case has no tilt")

    class Known(BlindTurbulence):
        def first_kernels(self, noise: Noise) -> Tensor:
            return case.kernel

    def report(what: str, tilt: Tensor, x: Tensor) -> None:
        inner = [t[..., REACH:-REACH, REACH:-REACH] for t in (tilt, true_tilt)]
        corr = (inner[0] * inner[1]).sum() / (inner[0].norm() * inner[1].norm()).clamp(min=1e-12)
        psnr, _ = image_quality(x[0], case.truth[0])
        print(
            f"{case.scan} {what}: tilt correlation {corr:.3f}, rms {inner[0].std():.2f} px, PSNR {psnr:.2f}", flush=True
        )

    blank = Known.of(case.y, case.noise, kernel_prior(), KERNEL_SIZE)
    data = blank.with_parameters({"kernel": case.kernel, "tilt": torch.zeros_like(true_tilt)})
    found, solver = data.parameters, BlindDPS(zeta_kernel=0.0, zeta_tilt=0.05)
    for _ in range(60):
        found = solver._parameters(found, case.truth, 0.02, data=data, noise=Noise([0]))
    report("image and kernel known", found["tilt"], case.truth)
    for zeta, level in ((0.0, 0.1), (0.02, 0.1), (0.05, 0.1), (0.05, 0.3)):
        noise = Noise([0])
        solver = BlindDPS(zeta_kernel=0.0, zeta_tilt=zeta, sigma_kernel=level)
        start = case.edge + BLIND_START * noise.like(case.edge)
        made = sample_blind(solver, case.prior(), data, karras(BLIND_START, 0.005, steps), noise=noise, start=start)
        report(f"kernel known, steps of {zeta} px below {level}", made.data.parameters["tilt"], made.x)


def finished(store: Path) -> list[dict]:
    """Cells of the store."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def table(cells: list[dict]) -> None:
    """Print means and standard deviations over images."""
    print("| case | row | n | PSNR | SSIM | kernel correlation (lowest) | seconds |\n" + "| --- " * 7 + "|")
    for case in CASES:
        for row in ROWS:
            some = [cell for cell in cells if (cell["case"], cell["row"]) == (case, row)]
            if not some:
                continue
            values = np.array([[cell[key] for key in ("psnr", "ssim", "corr", "seconds")] for cell in some])
            (psnr, ssim_, corr, seconds), spread = (
                values.mean(0),
                values.std(0, ddof=1) if len(some) > 1 else np.zeros(4),
            )
            print(
                f"| {case} | {row} | {len(some)} | {psnr:.2f} ± {spread[0]:.2f} | {ssim_:.3f} ± {spread[1]:.3f} "
                f"| {corr:.3f} ± {spread[2]:.3f} ({values[:, 2].min():.2f}) | {seconds:.0f} |"
            )
    gains(cells)


def gains(cells: list[dict]) -> None:
    """Print how many decibels the blind solvers gain over other rows, on the same images."""
    psnr = {(cell["case"], cell["row"], cell["index"]): cell["psnr"] for cell in cells}
    for case, row, other in product(CASES, ("blinddps", "gibbsddrm"), ("input", "dps-wrong")):
        first, second = (
            {i: value for (c, r, i), value in psnr.items() if (c, r) == (case, name)} for name in (row, other)
        )
        pairs = [first[i] - second[i] for i in first if i in second]
        if pairs:
            better = sum(gain > 0 for gain in pairs)
            print(f"{case}: {row} - {other}: {np.mean(pairs):+.2f} dB, better on {better} of {len(pairs)}")


def picture(path: Path, case: Case, x: Tensor, kernel: Tensor) -> None:
    """Truth, data and result, and the two kernels, as PNG."""
    import matplotlib.pyplot as plt

    def fitted(k: Tensor) -> Tensor:
        return F.pad(F.interpolate(k / k.max(), scale_factor=3)[0, 0], (0, 29, 0, 29)) if k.ndim == 4 else k

    parts = [case.truth[0, 0], F.pad(case.y, (REACH,) * 4)[0, 0], x[0, 0], fitted(case.kernel), fitted(kernel)]
    plt.imsave(path, torch.cat(parts, dim=1).numpy(), cmap="gray", vmin=0, vmax=1.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("blind.jsonl"))
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--count", type=int, default=4, help="images per case")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the blind solvers")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--table", action="store_true", help="print the table of the store and stop")
    parser.add_argument("--tilt", action="store_true", help="estimate tilts with known kernels and stop")
    parser.add_argument("--spectrum", action="store_true", help="fit the power of training slices and stop")
    arguments = parser.parse_args()
    if arguments.spectrum:
        for scan in ("mr", "ct"):
            print("{}: {:.2e} f^{:.2f}".format(scan, *spectrum(scan)))
        return
    if arguments.tilt:
        for scan in ("mr", "ct"):
            tilts(Case(f"{scan}-turbulence", 0, arguments.count, arguments.noise), arguments.steps)
        return
    if arguments.table:
        table(finished(arguments.store))
        return
    settings = {name: json.loads(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    done = {(cell["case"], cell["row"], cell["index"]) for cell in finished(arguments.store)}
    start, failures, computed = time.perf_counter(), 0, 0
    # Image by image, so that a run that is cut short has all rows of the first images.
    todo = [(name, i, row) for i in range(arguments.count) for name in arguments.cases for row in arguments.only]
    for name, index, row in todo:
        if (name, row, index) in done:
            continue
        case = Case(name, index, arguments.count, arguments.noise)
        began = time.perf_counter()
        try:
            x, kernel = case.run(row, arguments.steps, settings if row in ("blinddps", "gibbsddrm") else {})
        except (RuntimeError, ValueError, TypeError) as error:
            failures += 1
            print(f"{name} {row} {index}: {error}", flush=True)
            continue
        seconds = time.perf_counter() - began
        psnr, similarity = image_quality(x[0], case.truth[0])
        cell = {"case": name, "row": row, "index": index, "psnr": psnr, "ssim": similarity}
        cell |= {"corr": best_shift(kernel[0], case.kernel[0]), "seconds": seconds}
        with arguments.store.open("a") as file:
            file.write(json.dumps(cell) + "\n")
        computed += 1
        print(
            " ".join(f"{key} {value:.3f}" if isinstance(value, float) else str(value) for key, value in cell.items()),
            flush=True,
        )
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            picture(arguments.pictures / f"{name}-{row}-{index}.png", case, x, kernel)
    print(f"seeds from {FIRST_SEED}; {computed} cells in {time.perf_counter() - start:.0f} s, {failures} failures")
    table(finished(arguments.store))


if __name__ == "__main__":
    main()
