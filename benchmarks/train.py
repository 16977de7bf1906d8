"""Continue the training of a shipped prior, here or on another machine. The same command resumes an interrupted run.

    python benchmarks/train.py brain_mri runs/brain --minutes 60                   # from the shipped weights
    python benchmarks/train.py brain_mri runs/brain --steps 20000                  # with a learning rate that decays
    python benchmarks/train.py --pack small --megabytes 30                         # smaller archives

A run is a copy of the bundle with checkpoints; its ``models`` and ``metadata.json`` get the new weights. NAME=VALUE
changes an item of its ``configs/train.yaml``, e.g. ``batch_size=32``. Networks run in bfloat16 if the device supports
it. Packed archives keep their names, so they can replace the data folder (``MEDRECON_DATA/train``). Their slices are
chosen at random, since neighbouring slices are similar, until the files are small enough.
"""

from __future__ import annotations

import argparse
import io
import math
import shutil
import time
from pathlib import Path

import monai.bundle
import numpy as np
import torch
import yaml
from problems import DATA

from medrecon.bundle import find_bundle

ARCHIVES = ("brain_slices_256", "brain_corsag_256", "brain_slices_256_val", "ct_slices_256")


def packed(arrays: dict[str, np.ndarray], rows: np.ndarray) -> bytes:
    """Bytes of an archive with some of the slices."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: values[rows] for key, values in arrays.items()})
    return buffer.getvalue()


def pack(folder: Path, megabytes: float, names: list[str], seed: int = 0) -> None:
    """Write smaller archives of ``megabytes`` in total, each with the same fraction of its slices."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {name: DATA / "train" / f"{name}.npz" for name in names}
    part = min(1.0, 1e6 * megabytes / sum(path.stat().st_size for path in sources.values()))
    for name, path in sources.items():
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        n = len(arrays["img"])
        order = np.random.default_rng(seed).permutation(n)
        # Slices differ in size; a few are dropped until the file is small enough.
        count = math.floor(n * part)
        while len(data := packed(arrays, np.sort(order[:count]))) > part * path.stat().st_size and count > 1:
            count = math.floor(0.98 * count)
        (folder / path.name).write_bytes(data)
        print(f"{name}: {count} of {n} slices, {len(data) / 1e6:.1f} MB")


def begin(bundle: str, run: Path) -> None:
    """Create a run: a copy of the bundle that starts from its weights."""
    if (run / "configs").is_dir():
        return
    shutil.copytree(find_bundle(bundle), run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "models" / "model.pt").rename(run / "models" / "start.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("run", nargs="?", type=Path, help="folder of the run")
    parser.add_argument("changes", nargs="*", help="NAME=VALUE, changes of train.yaml")
    parser.add_argument("--steps", type=int, help="steps of the whole run; the learning rate decays towards the end")
    parser.add_argument("--minutes", type=float, help="stop after this time, with a checkpoint")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write smaller archives to this folder and stop")
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--archives", nargs="*", default=list(ARCHIVES[:3]), choices=ARCHIVES, help="archives to pack")
    arguments = parser.parse_intermixed_args()
    if arguments.pack:
        pack(arguments.pack, arguments.megabytes, arguments.archives)
        return
    if not arguments.bundle or not arguments.run:
        parser.error("name a bundle and the folder of a run, or --pack a folder")
    run = arguments.run.resolve()
    begin(arguments.bundle, run)
    config = monai.bundle.ConfigParser.load_config_file(str(run / "configs" / "train.yaml"))
    changes = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in arguments.changes)}
    if arguments.steps:
        an_epoch = changes.get("iterations_per_epoch", config["iterations_per_epoch"])
        changes["max_epochs"] = math.ceil(arguments.steps / an_epoch)
    if arguments.minutes:
        changes["max_minutes"] = arguments.minutes
    latest = run / "checkpoints" / "latest.pt"
    where = torch.load(latest, map_location="cpu", weights_only=True)["trainer"]["iteration"] if latest.is_file() else 0
    print(
        f"{arguments.bundle}: from step {where}, on {'a GPU' if torch.cuda.is_available() else 'the CPU'}", flush=True
    )
    start = time.perf_counter()
    monai.bundle.run(
        config_file=str(run / "configs" / "train.yaml"),
        logging_file=str(run / "configs" / "logging.conf"),
        bundle_root=str(run),
        **{"start_from": str(run / "models" / "start.pt"), "dataset_dir": str(DATA / "train"), **changes},
    )
    end = torch.load(latest, map_location="cpu", weights_only=True)["trainer"]["iteration"]
    seconds = time.perf_counter() - start
    print(
        f"seed {config['seed']}; steps {where} to {end} in {seconds:.0f} s, {seconds / max(1, end - where):.2f} s a step"
    )


if __name__ == "__main__":
    main()
