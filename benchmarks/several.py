"""Reconstruct a folder of ten scans, two of them bad: with one command, ten commands, two processes, and a resumed run.

    python benchmarks/several.py [--solver dds] [--steps 15]

The scans are slice A, undersampled by columns at R = 4 with ten seeds; one file is truncated and one contains only
zeros. Every process has one thread, so all images must be equal byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from problems import ACS, DATA

from medrecon.data.masks import undersampling_mask
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace, save_fastmri


def write_scans(folder: Path) -> None:
    """The ten files."""
    full = load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5")
    for seed in range(10):
        mask = undersampling_mask(full.matrix, "gaussian1d", 4, ACS[4], seed=seed)
        scan = CartesianScan(path=Path("x"), format="array", kspace=full.kspace * mask, mask=mask)
        save_fastmri(folder / f"scan{seed}.h5", scan)
    cut = (folder / "scan3.h5").read_bytes()[:200_000]
    (folder / "scan3.h5").write_bytes(cut)
    (folder / "scan7.h5").unlink()
    np.savez(folder / "scan7.npz", kspace=np.zeros((2, 8, 8), np.complex64))


def images(folder: Path) -> dict[str, str]:
    """Checksums of the images."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.nii.gz"))}


def run(command: Sequence[str], kill_after: int | None = None) -> tuple[float, int]:
    """Time and exit code of a run, which is killed as soon as the given number of images exists."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        out = Path(command[command.index("-o") + 1])
        while process.poll() is None:
            if kill_after is not None and len(list(out.glob("*.json"))) >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
    return time.perf_counter() - start, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", default="dds")
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    began, failures = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        write_scans(root / "in")
        base = [sys.executable, "-m", "medrecon", "recon"]
        more = ["--solver", arguments.solver, "--steps", str(arguments.steps), "--threads", "1"]
        print("| run | seconds | seconds per scan | images | exit code |\n|---|---|---|---|---|")
        singles = [
            run([*base, str(path), "-o", str(root / "single"), *more]) for path in sorted((root / "in").iterdir())
        ]
        expected = images(root / "single")
        took = sum(one for one, _ in singles)
        codes = ", ".join(f"{n} times {code}" for code in (0, 2) if (n := sum(c == code for _, c in singles)))
        print(f"| ten commands | {took:.1f} | {took / 10:.1f} | {len(expected)} | {codes} |", flush=True)
        ways = {
            "one command": (["-o", str(root / "one")], None),
            "two processes": (["-o", str(root / "two"), "--workers", "2"], None),
            "killed after three": (["-o", str(root / "killed")], 3),
            "and run again": (["-o", str(root / "killed")], None),
            "and again": (["-o", str(root / "killed")], None),
        }
        for way, (options, kill) in ways.items():
            took, code = run([*base, str(root / "in"), *options, *more], kill)
            made = images(Path(options[1]))
            equal = made == expected if kill is None else made.items() <= expected.items()
            failures += not equal
            said = f"{len(made)}, {'the same bytes' if equal else 'OTHER BYTES'}"
            print(f"| {way} | {took:.1f} | {took / 10:.1f} | {said} | {code} |", flush=True)
    print(f"\nseeds 0 to 9, 15 commands, {failures} failures, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
