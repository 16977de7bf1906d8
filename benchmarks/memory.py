"""Measure the memory of ``medrecon recon`` for scans of several sizes (Linux).

    python benchmarks/memory.py [--slices 32 64 128]

The files have the fastMRI layout and contain copies of slice A, undersampled by columns at R = 4. They are
reconstructed by cg-sense. The peak counts the memory of the process itself, without pages of the file, which the system
can reclaim. Further rows are for compressed coils, for which the scan is copied, and for one slice only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from problems import slice_a


def written(path: Path, slices: int) -> float:
    """Write a file and return its size in MB."""
    case = slice_a(4)
    with h5py.File(path, "w") as file:
        held = file.create_dataset("kspace", (slices, *case.kspace.shape[1:]), np.complex64)
        for k in range(slices):
            held[k] = case.kspace[0]
        file["mask"] = case.mask
    return path.stat().st_size / 1e6


def peak(command: list[str]) -> tuple[float, float]:
    """Peak of anonymous memory in MB, and time in seconds.

    Raises:
        RuntimeError: if the command fails.
    """
    start, highest = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
            highest = max([highest, *(int(line.split()[1]) for line in found)])
            time.sleep(0.02)
        said = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise RuntimeError(said)
    return highest / 1e3, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="*", default=[32, 64, 128])
    arguments = parser.parse_args()
    began, runs, failures = time.perf_counter(), 0, 0
    print("| slices | file, MB | reconstruction | peak, MB | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for slices in arguments.slices:
            path = Path(name) / f"scan{slices}.h5"
            size = written(path, slices)
            ways = {"all": [], "one slice": ["--slices", "3:4"], "compressed to 4": ["--compress", "4"]}
            for what, more in ways.items():
                command = [sys.executable, "-m", "medrecon", "recon", str(path), "-o", name, "--solver", "cg-sense"]
                runs += 1
                try:
                    highest, took = peak([*command, "--overwrite", *more])
                except RuntimeError as error:
                    failures += 1
                    print(f"| {slices} | {size:.0f} | {what} | failed: {error} | |")
                    continue
                print(f"| {slices} | {size:.0f} | {what} | {highest:.0f} | {took:.1f} |", flush=True)
            path.unlink()
    print(f"\nseed 0, {runs} runs, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
