"""Coil maps from few calibration lines: ESPIRiT, NLINV and joint estimation, with classical solvers and with a prior.

    python benchmarks/maps.py --store maps.jsonl [--cases t1,3,6 gre,4,12] [--only nlinv "joint + dds"]
    python benchmarks/maps.py --store maps.jsonl --table

Scans: ``t1`` (brain_t1_8ch_sliceA, 8 coils, 230 x 180), ``gre`` (brain_gre_16ch_96, 16 coils, 96 x 96), fully sampled, and
``simulated`` (the same size as gre, 8 loop coils, noise of 0.01, known maps). Mask: columns 0, R, 2 R, ... and the ``ACS``
columns from ``n // 2 - ACS // 2`` on, of n columns (the last axis). PSNR of the magnitude against the root sum of squares of the
fully sampled coil images, both after the best real scale, over the pixels where the reference exceeds 6 % of its largest value.
Error of the maps (simulated only): fraction of the true coil images in the object that is not along the estimated maps.

Results in the store are not computed again. Solvers with a prior use the bundle brain_mri, its default settings and seed 0.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
from problems import DATA

from medrecon import reconstruct
from medrecon.data.coils import from_kspace
from medrecon.data.masks import achieved_acceleration
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.scan import CartesianScan
from medrecon.formats import load_kspace
from medrecon.problems import physics_of, problem
from medrecon.problems.cartesian import Cartesian
from medrecon.solvers import CGSense

BART = {
    ("t1", 3, 24): 33.6, ("t1", 3, 6): 30.9, ("t1", 4, 24): 30.9, ("t1", 4, 12): 27.7, ("t1", 4, 6): 26.0,
}  # fmt: skip
"""PSNR of ``bart nlinv -S -i 8`` (BART 0.8.00) with the same masks and metric."""
CASES = [(scan, R, acs) for scan in ("t1", "gre") for R in (3, 4) for acs in (24, 12, 10, 8, 6, 4)]
CASES += [("simulated", 4, acs) for acs in (24, 12, 6)]
SEED = 0


class Data(NamedTuple):
    """A scan.

    Args:
        kspace: fully sampled k-space ``(coils, y, x)``.
        reference: magnitude image.
        maps: true maps, where they are known.
    """

    kspace: np.ndarray
    reference: np.ndarray
    maps: np.ndarray | None


def data_of(scan: str) -> Data:
    """A scan by its name."""
    maps = None
    if scan == "simulated":
        shape = (96, 96)
        y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
        image = ((y[:, None] ** 2 + x**2) < 0.7) * (1 + 0.3 * np.cos(9 * y[:, None]) * np.cos(7 * x))
        maps = loop_coils(shape, 8)
        kspace = simulate_kspace(image, maps, 0.01, np.random.default_rng(SEED))
    else:
        name = {"t1": "brain_t1_8ch_sliceA", "gre": "brain_gre_16ch_96"}[scan]
        kspace = load_kspace(DATA / "kspace" / f"{name}.h5").kspace[0]
    return Data(kspace, np.sqrt((np.abs(from_kspace(kspace, (-2, -1))) ** 2).sum(0)), maps)


def mask_of(n: int, R: int, acs: int) -> np.ndarray:
    """Equispaced columns from 0 on, and the calibration lines."""
    mask = np.zeros(n, bool)
    mask[::R] = True
    mask[n // 2 - acs // 2 : n // 2 - acs // 2 + acs] = True
    return mask


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """PSNR, dB, after the best scale, inside the object."""
    inside = reference > 0.06 * reference.max()
    a, b = image[inside].astype(float), reference[inside].astype(float)
    error = (a @ b) / (a @ a) * a - b
    return float(20 * np.log10(b.max() / np.sqrt((error**2).mean())))


def nlinv_maps(kspace: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Maps of NLINV ``(coils, y, x)``."""
    scan = CartesianScan(path=Path("scan"), format="array", kspace=kspace[None], mask=mask)
    made = problem(scan, physics_of(scan, maps="joint")).suited_to(CGSense())
    assert isinstance(made, Cartesian)
    return made.maps(slice(None))[0].numpy()


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, Any]]] = {
    "zero-filled": lambda k, m: {"solver": "zero-filled"},
    "ESPIRiT + cg-sense": lambda k, m: {"solver": "cg-sense", "maps": "espirit"},
    "nlinv": lambda k, m: {"solver": "nlinv"},
    "nlinv maps + cg-sense": lambda k, m: {"solver": "cg-sense", "maps": "joint"},
    "ESPIRiT + dds": lambda k, m: {"solver": "dds", "maps": "espirit"},
    "nlinv maps + dds": lambda k, m: {"solver": "dds", "maps": nlinv_maps(k, m)},
    "joint + dds": lambda k, m: {"solver": "dds", "maps": "joint"},
    "auto + dds": lambda k, m: {"solver": "dds", "maps": "auto"},
}


def map_error(options: dict[str, Any], kspace: np.ndarray, mask: np.ndarray, data: Data, made: Any) -> float | None:
    """Fraction of the true coil images that is not along the estimated maps, for simulated data."""
    if data.maps is None or options["solver"] not in ("cg-sense", "dds"):
        return None
    if made.parameters:
        maps = maps_of(made.parameters["map_coefficients"], kspace.shape[1:])
    elif isinstance(options["maps"], np.ndarray):
        maps = options["maps"]
    else:
        scan = CartesianScan(path=Path("scan"), format="array", kspace=kspace[None], mask=mask)
        fixed = problem(scan, physics_of(scan, maps=options["maps"])).suited_to(CGSense())
        assert isinstance(fixed, Cartesian)
        maps = fixed.maps(slice(None))[0].numpy()
    along = (maps.conj() * data.maps).sum(0) * maps
    inside = data.reference > 0.06 * data.reference.max()
    return float(np.linalg.norm((data.maps - along)[:, inside]) / np.linalg.norm(data.maps[:, inside]))


def maps_of(coefficients: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps of unit sum of squares from the coefficients that a run returns."""
    import torch

    from medrecon.operators.nlinv import SmoothMaps

    maps = SmoothMaps(shape)(torch.from_numpy(coefficients))[0].numpy()
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0))


def row(case: tuple[str, int, int], method: str) -> dict[str, Any]:
    """An entry of the store; ``error`` says why there is no image."""
    scan, R, acs = case
    data = data_of(scan)
    mask = mask_of(data.kspace.shape[-1], R, acs)
    kspace = data.kspace * mask
    out = {"case": list(case), "method": method, "net": achieved_acceleration(mask), "seed": SEED}
    began = time.time()
    try:
        options = METHODS[method](kspace, mask)
        made = reconstruct(kspace[None], mask, seed=SEED, device="cpu", **options)
    except (ValueError, RuntimeError) as error:
        return {**out, "error": str(error), "seconds": time.time() - began}
    out |= {"psnr": psnr(made.image[0], data.reference), "source": made.record["maps_source"]}
    out |= {"seconds": made.record["seconds"], "map_error": map_error(options, kspace, mask, data=data, made=made)}
    return out


def table(rows: list[dict[str, Any]]) -> None:
    """Print the results in the store."""
    found = {(*one["case"], one["method"]): one for one in rows}
    print("| scan, R, ACS (net R) | BART's nlinv | " + " | ".join(METHODS) + " |\n" + "|---" * (len(METHODS) + 2) + "|")
    for case in dict.fromkeys(tuple(one["case"]) for one in rows):
        each = {name: found.get((*case, name)) for name in METHODS}
        net = next(one["net"] for one in each.values() if one is not None)
        bart = BART.get(case)  # type: ignore[arg-type]
        cells = []
        for one in each.values():
            if one is None or "error" in one:
                cells.append("" if one is None else "refused")
                continue
            error = "" if one["map_error"] is None else f" ({one['map_error']:.3f})"
            cells.append(f"{one['psnr']:.1f}{error}")
        label = "{}, {}, {} ({:.2f})".format(*case, net)
        print(f"| {label} | {'' if bart is None else f'{bart:.1f}'} | " + " | ".join(cells) + " |")
    failures = sum("error" in one for one in rows)
    seconds = {
        name: [one["seconds"] for one in rows if one["method"] == name and one["case"][0] == "t1"] for name in METHODS
    }
    print("seconds on t1: " + ", ".join(f"{name} {np.mean(s):.1f}" for name, s in seconds.items() if s))
    print(f"seed {SEED}, {len(rows)} images, {failures} refused, {sum(one['seconds'] for one in rows):.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=[",".join(map(str, case)) for case in CASES])
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--table", action="store_true", help="print the stored results without running anything")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.store.read_text().splitlines()] if arguments.store.exists() else []
    held = {(*one["case"], one["method"]) for one in rows}
    for text in () if arguments.table else arguments.cases:
        scan, R, acs = text.split(",")
        for method in arguments.only:
            case = (scan, int(R), int(acs))
            if (*case, method) in held:
                continue
            rows.append(row(case, method))
            with open(arguments.store, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    table(rows)


if __name__ == "__main__":
    main()
