"""Measure how many files per second ``medrecon prep`` prepares, with one worker and with two.

    python benchmarks/prep.py [--files 48] [--slices 8] [--read]

The files are copies of the real slice A (``brain_t1_8ch_sliceA.npz``) with several slices each, prepared with the
recipe ``kspace`` (load, noise level, adaptive combination, write). The time is that of the whole run, including the
start of the workers; a second run finds everything done. ``--read`` skips the noise level and the combination, so that
only reading, checksums, writing and the overhead of the child processes are measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA

from medrecon.formats import load_kspace
from medrecon.prep import RunOptions, load_recipe, prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--read", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one worker is one thread
    kspace = np.repeat(load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.npz").kspace, arguments.slices, axis=0)
    megabytes = arguments.files * kspace.nbytes / 1e6
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.mkdir()
        for k in range(arguments.files):
            np.save(source / f"scan{k:03d}.npy", kspace * np.float32(1 + k))
        recipe = load_recipe("kspace")
        if arguments.read:
            recipe["transform"] = {"_target_": "medrecon.transforms.LoadKSpaced", "keys": "image"}
            recipe["write"] = {"kspace": "image"}
        print(
            f"{arguments.files} files, {megabytes:.0f} MB\n\n"
            "| workers | seconds | files per second | MB per second | second run, s |\n|---|---|---|---|---|"
        )
        for workers in (1, 2):
            destination = Path(name) / str(workers)
            start = time.perf_counter()
            report = prepare(source, destination, recipe, run=RunOptions(workers=workers))
            took = time.perf_counter() - start
            assert report.prepared == arguments.files, report
            start = time.perf_counter()
            assert prepare(source, destination, recipe, run=RunOptions(workers=workers)).prepared == 0
            again = time.perf_counter() - start
            print(
                f"| {workers} | {took:.1f} | {arguments.files / took:.1f} | {megabytes / took:.0f} | {again:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
