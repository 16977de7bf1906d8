"""Denoise held-out subjects with a bundle's prior and with classical methods: PSNR (unit range) for several noise levels.

    python benchmarks/denoising.py [brain_mri | brain_mri_magnitude | chest_ct | denoise_selfsup] [--levels 0.05 0.1 0.2]

The classical methods are those of scikit-image, applied channel by channel. For every noise level, the table shows the
strength that is best on the test images themselves, so the classical methods are slightly better here than in practice.
"""

from __future__ import annotations

import argparse
import time
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, bundle_prior
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from medrecon.data.phase import smooth_phase
from medrecon.training.slices import load_slices

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0)
# Subjects that were not used for training.
BRAINS = {"omsL_12 (skull on)": ["omsL_12"], "omsC_26 (skull-stripped)": ["omsC_26"]}


def classical(image: np.ndarray, sigma: float) -> dict[str, dict[float, np.ndarray]]:
    """Results of all methods and strengths for one noisy channel."""
    size = float(np.abs(image).max())  # scikit-image's wavelets clip at 1
    return {
        "TV": {w: denoise_tv_chambolle(image, weight=w * sigma, max_num_iter=60) for w in (0.8, 1.2, 1.8, 2.6, 4.0)},
        "wavelet": {
            w: size * denoise_wavelet(image / size, method="VisuShrink", sigma=w * sigma / size, wavelet="db4", wavelet_levels=5)
            for w in (0.3, 0.5, 0.7, 1.0)
        },
        "non-local means": {
            w: denoise_nl_means(image, patch_size=5, patch_distance=6, h=w * sigma, sigma=sigma, fast_mode=True)
            for w in (0.4, 0.6, 0.8, 1.1, 1.5)
        },
    }  # fmt: skip


def _some(rows: list, n: int = 4) -> list:
    """Evenly spaced slices, without the first and the last."""
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, n + 2)[1:-1]]


def groups(bundle: str, held_out: list[str]) -> dict[str, list[np.ndarray]]:
    """Clean images ``(C, y, x)`` of each held-out group."""
    if bundle == "chest_ct":
        rows = load_slices(DATA / "train" / "ct_slices_256.npz", {"subject": held_out})
        return {f"{len(held_out)} patients": [row["image"] / np.float32(1000) for row in _some(rows)]}
    out = {}
    for name, subjects in BRAINS.items():
        images = []
        rows = load_slices(DATA / "train" / "brain_slices_256_val.npz", {"subject": subjects})
        for i, row in enumerate(_some(rows)):
            image = row["image"] / np.float32(200)
            if bundle == "brain_mri":
                phase = smooth_phase((256, 256), np.random.RandomState(i))
                image = np.concatenate([image * np.cos(phase), image * np.sin(phase)])
            images.append(image)
        out[name] = images
    return out


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", default="brain_mri")
    parser.add_argument("--only-prior", action="store_true", help="skip the classical methods")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="noise levels")
    arguments = parser.parse_args()
    levels = arguments.levels
    prior, network, held_out = bundle_prior(arguments.bundle)
    print("| subject | method | " + " | ".join(f"σ {s:g}" for s in levels) + " |\n|---|---|" + "---|" * len(levels))
    for name, images in groups(arguments.bundle, held_out).items():
        table: dict[str, list[float]] = {}
        for sigma in levels:
            errors: dict[tuple[str, float], list[float]] = {}
            for i, x0 in enumerate(images):
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(i)).numpy()
                noisy = (x0 + sigma * noise).astype(np.float32)
                results = {("noisy", 0.0): noisy}
                results["prior", 0.0] = prior(torch.from_numpy(noisy)[None], sigma)[0].numpy()
                if not arguments.only_prior:
                    channels = [classical(channel, sigma) for channel in noisy]
                    results |= {
                        (method, strength): np.stack([channel[method][strength] for channel in channels])
                        for method, strengths in channels[0].items()
                        for strength in strengths
                    }
                for key, value in results.items():
                    errors.setdefault(key, []).append(-10 * np.log10(((value - x0) ** 2).mean()))
            for method in dict.fromkeys(method for method, _ in errors):
                best = max(np.mean(values) for (m, _), values in errors.items() if m == method)
                table.setdefault(method, []).append(float(best))
        for method, cells in table.items():
            print(
                f"| {name}, {len(images)} slices | {method} | " + " | ".join(f"{c:.1f}" for c in cells) + " |",
                flush=True,
            )
    x = torch.randn(1, len(images[0]), 256, 256)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        prior(x, 0.3)
        times.append(time.perf_counter() - start)
    n = sum(p.numel() for p in network.parameters())
    print(f"\n{n / 1e6:.1f} M parameters, {1000 * np.median(times):.0f} ms an evaluation at 256 x 256 "
          f"({torch.get_num_threads()} threads)")  # fmt: skip


if __name__ == "__main__":
    main()
