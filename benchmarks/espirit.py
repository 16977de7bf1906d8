"""Compare ESPIRiT with the implementations of sigpy and BART in one run: time, and agreement of the maps.

    python benchmarks/espirit.py [--repeat 5]

The data are real slices of the data folder and a simulated slice, with calibration 24 x 24, kernel 6, threshold 0.02
and one set. Agreement is the absolute cosine between the maps of medrecon and sigpy in every pixel above 5 % of the
largest magnitude: median and first percentile. BART is included if its program is on the path; its time includes the
start of the process.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA
from sigpy.mri.app import EspiritCalib

from medrecon.data.coils import combine_coils
from medrecon.data.espirit import espirit_maps
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.formats import load_kspace


def bart(kspace: np.ndarray) -> np.ndarray | None:
    """The maps of ``bart ecalib``, or ``None`` if BART is not installed."""
    if shutil.which("bart") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "k")
        array = np.ascontiguousarray(
            kspace.transpose(0, 2, 1)[:, None]
        )  # (coils, z, x, y), the reverse of BART's order
        Path(name + ".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
        array.astype(np.complex64).tofile(name + ".cfl")
        subprocess.run(["bart", "ecalib", "-m1", "-r24", "-k6", name, name + "m"], check=True, capture_output=True)
        return np.fromfile(name + "m.cfl", np.complex64).reshape(array.shape)[:, 0].transpose(0, 2, 1)


def cases() -> dict[str, np.ndarray]:
    """k-space ``(coils, y, x)`` by name."""
    shape = (256, 256)
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    image = ((y[:, None] ** 2 + x**2) < 0.7) * (1 + 0.3 * np.cos(9 * y[:, None]) * np.cos(7 * x))
    return {
        "slice A": load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace[0],
        "gradient echo": load_kspace(DATA / "kspace" / "brain_gre_16ch_96.h5").kspace[0],
        "simulated": simulate_kspace(image, loop_coils(shape, 8), 0.01, np.random.default_rng(0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    if shutil.which("bart") is None:
        print("bart is skipped, since its program is not on the path")
    print(
        f"{torch.get_num_threads()} threads\n\n"
        "| k-space | software | ms | relative time | cosine with sigpy's maps: median, 1 % |"
    )
    print("|---|---|---|---|---|")
    for name, kspace in cases().items():
        mask = np.zeros(kspace.shape[1:], bool)
        mask[tuple(slice(n // 2 - 12, n // 2 + 12) for n in mask.shape)] = True
        calibration = kspace * mask
        calls: dict[str, Callable[[], np.ndarray]] = {
            "medrecon": lambda c=calibration, m=mask: espirit_maps(c, m).numpy(),
            "sigpy": lambda k=kspace: EspiritCalib(k, calib_width=24, crop=0.8, show_pbar=False).run(),
        }
        if shutil.which("bart"):
            calls["bart"] = lambda k=kspace: bart(k)
        maps = {who: call() for who, call in calls.items()}
        times: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(arguments.repeat):
            for who, call in calls.items():
                start = time.perf_counter()
                call()
                times[who].append(1000 * (time.perf_counter() - start))
        size = combine_coils(kspace[None])[0]
        seen = (size > 0.05 * size.max()) & maps["sigpy"].any(0)
        base = np.median(times["medrecon"])
        for who, found in maps.items():
            both = seen & found.any(0)
            cosine = np.abs((found.conj() * maps["sigpy"]).sum(0))[both]
            cosine /= (np.linalg.norm(found, axis=0) * np.linalg.norm(maps["sigpy"], axis=0))[both]
            middle = np.median(times[who])
            shape = " x ".join(map(str, kspace.shape))
            print(f"| {name}, {shape} | {who} | {middle:.0f} | {middle / base:.1f} | {np.median(cosine):.5f}, "
                  f"{np.percentile(cosine, 1):.4f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
