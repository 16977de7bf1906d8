"""Measure the start-up time of the command line: ``medrecon recon --solver cg-sense`` on one slice, and ``import torch``.

    python benchmarks/start.py

Each time is the minimum over several processes. The command should take less than twice the time of ``import torch``,
plus the reconstruction (``seconds`` in the sidecar), plus 1.5 s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.scan import CartesianScan
from medrecon.formats import save_fastmri


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    shape, rng = (230, 180), np.random.default_rng(0)
    y, x = np.mgrid[-1:1:230j, -1:1:180j]
    image = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * np.exp(1j * x)
    mask = undersampling_mask(shape, "gaussian1d", 4, 24, seed=0)
    kspace = simulate_kspace(image, loop_coils(shape), 0.01, rng)[None] * mask
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        scan = CartesianScan(path=path, format="simulated", kspace=kspace, mask=mask)
        save_fastmri(path, replace(scan, attributes={}))
        command = [
            sys.executable,
            "-m",
            "medrecon",
            "recon",
            str(path),
            "-o",
            folder,
            "--solver",
            "cg-sense",
            "--overwrite",
        ]
        whole = min(seconds(command) for _ in range(arguments.repeats))
        torch = min(seconds([sys.executable, "-c", "import torch"]) for _ in range(arguments.repeats))
        solve = json.loads((Path(folder) / "scan.json").read_text())["seconds"]
    limit = 2 * torch + solve + 1.5
    print(f"medrecon recon: {whole:.2f} s; import torch: {torch:.2f} s; the solve: {solve:.2f} s; limit: {limit:.2f} s "
          f"({'held' if whole < limit else 'exceeded'}; smallest of {arguments.repeats})")  # fmt: skip


if __name__ == "__main__":
    main()
