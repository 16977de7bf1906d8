"""Compare the spread of posterior samples with their error, on simulated scans of held-out subjects.

    python benchmarks/calibration.py search brain_mri --store calibration        # every setting of GRIDS, three samples
    python benchmarks/calibration.py compare brain_mri --store calibration -k 9  # `tuned` against `posterior` of prior.yaml

Scans: brains with eight coils (R = 4 and 8, another subject each) or chests (23 and 10 views, other patients than in
benchmarks/solvers.py); ``--scans check`` is another subject, on which nothing is chosen (R = 8 or 23 views). Slice A, the knee
and chest 0 are not used. Samples are kept in the store, so a run can be interrupted, and more samples (``-k``) reuse those that
are there.

What is compared: the magnitude of a sample (CT: its attenuation in units of water) with the simulated image before noise was
added, pixel by pixel inside the head or body. The reference of the other benchmarks would not do, since it is combined from noisy
k-space. A magnitude does not depend on the phase of the maps, and the true maps have sum |S|^2 = 1 as the estimated ones do, so
both have the same scale. Maps and noise are estimated from the data; their errors count as errors of the samples.

Ranks, coverage, spread over error: `medrecon.coverage`. Pixels are correlated, so the distance of the ranks from uniform has no
p-value. Where K samples are too few for a level, the coverage is that of Student's interval, which is exact for normal pixels,
marked by ``t``. Sharpness is the rms standard deviation of the samples over the largest value. The PSNR is that of the mean of
infinitely many samples, inside the mask, with the range 0 to the largest value.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
from problems import Problem, Tomogram, chest, prior_of, run, validation
from scipy import ndimage

from medrecon.bundle import load_prior
from medrecon.coverage import (
    central_coverage,
    distance_from_uniform,
    rank_frequencies,
    rms_error_of_mean,
    spread_over_error,
    student_coverage,
)
from medrecon.data.errors import InputError

LEVELS = (0.5, 0.8, 0.9, 0.95)
OUTER = ("sigma_max", "sigma_min", "spacing", "steps")
"""Settings of the ladder; all others are the solver's."""
GUARD = 1.0
"""Largest loss of PSNR of the mean, in dB, against the best of a solver's settings."""
SOLVERS = ("dds", "daps", "diffpir", "pnpdm", "ald", "tmpd")
HIGH = {"sigma_max": 4.0, "steps": 100}
GRIDS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "brain_mri": {
        "dds": [
            *({**HIGH, "kernel": "ddim", "sigma_scale": 1.0, "prior_weight": w} for w in (10.0, 3.0, 1.0)),
            {**HIGH, "kernel": "ddim", "sigma_scale": 1.0},
            *({**HIGH, "steps": 50, "kernel": "ddim", "sigma_scale": 1.0, "prior_weight": w} for w in (10.0, 7.0, 5.0)),
            {"sigma_max": 1.0, "steps": 100, "kernel": "ddim", "sigma_scale": 1.0},
        ],
        "daps": [{**HIGH, "n_ode": 1, "image_std": 0.1}, {**HIGH, "n_ode": 1, "image_std": 0.25}],
        "diffpir": [{**HIGH, "lam": 1.0, "fresh_noise_fraction": 0.3}],
        "pnpdm": [{"sigma_max": 1.5, "steps": 20 * n, "n_inner": n} for n in (5, 10)],
        "ald": [{**HIGH, "n_inner": 1, "step_size": a} for a in (0.5, 0.2)],
        "tmpd": [{"sigma_max": 4.0, "steps": 110, "n_cg": 5}],
    },
    "brain_mri_magnitude": {
        "dds": [{**HIGH, "kernel": "ddim", "sigma_scale": 1.0, "prior_weight": 10.0}],
        "daps": [{**HIGH, "n_ode": 1, "image_std": 0.1}],
        "diffpir": [{**HIGH, "lam": 1.0, "fresh_noise_fraction": 0.3}],
        "pnpdm": [{"sigma_max": 1.5, "steps": 100, "n_inner": 5}],
        "ald": [{**HIGH, "n_inner": 1, "step_size": 0.5}],
    },
    "chest_ct": {
        "dds": [{**HIGH, "n_cg": 30, "kernel": "ddim", "sigma_scale": 1.0, "prior_weight": 10.0}],
        "daps": [{**HIGH, "n_cg": 20, "n_ode": 1, "image_std": 0.1}],
        "diffpir": [{**HIGH, "n_cg": 20, "lam": 1.0, "fresh_noise_fraction": 0.3}],
        "pnpdm": [{"sigma_max": 1.5, "steps": 100, "n_cg": 20, "n_inner": 5}],
        "ald": [{**HIGH, "n_inner": 1, "step_size": 0.5}],
    },
}
"""Settings that ``search`` tries: those that give the posterior of a Gaussian prior its spread, and neighbours."""


class Draw(NamedTuple):
    """One sample ``(y, x)`` and the seconds that it took."""

    image: np.ndarray
    seconds: float


class Store:
    """Samples in a folder: one array each, and a line of JSON that describes it.

    Args:
        folder: folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.index = folder, folder / "samples.jsonl"
        lines = self.index.read_text().splitlines() if self.index.exists() else []
        self.rows = {row["file"]: row for row in map(json.loads, lines)}

    def get(self, case: Problem | Tomogram, bundle: str, solver: str, choice: Mapping[str, Any], k: int) -> Draw | None:
        """Sample ``k``, drawn unless it is stored; ``None`` if the solver fails."""
        what = {"bundle": bundle, "scan": scan_name(case), "solver": solver, "choice": dict(choice), "k": k}
        text = json.dumps({**what, "weights": load_prior(bundle).weights_sha256}, sort_keys=True)
        file = hashlib.sha256(text.encode()).hexdigest()[:20]
        if file not in self.rows:
            began = time.perf_counter()
            try:
                image, failure = draw(case, bundle, solver, choice, k), None
                np.save(self.folder / f"{file}.npy", image)
            except InputError as error:
                failure = str(error)
            row = {**what, "file": file, "seconds": time.perf_counter() - began, "failure": failure}
            with open(self.index, "a") as stream:
                stream.write(json.dumps(row) + "\n")
            self.rows[file] = row
        row = self.rows[file]
        return None if row["failure"] else Draw(np.load(self.folder / f"{file}.npy"), row["seconds"])


def scan_name(case: Problem | Tomogram) -> str:
    """Name of a scan with its sampling."""
    kept = len(case.angles) if isinstance(case, Tomogram) else int(case.mask.sum())
    return f"{case.name}, {kept} {'views' if isinstance(case, Tomogram) else 'columns'}"


@functools.cache
def scans(bundle: str) -> dict[str, Problem | Tomogram]:
    """Validation scans by name, of different subjects; on ``check``, no settings are chosen."""
    if bundle == "chest_ct":
        return {"23 views": chest(23, 4), "10 views": chest(10, 9), "check": chest(23, 9)}
    return {"R=4": validation(4, 1)[0], "R=8": validation(8, 1)[1], "check": validation(8, 1)[2]}


def draw(case: Problem | Tomogram, bundle: str, solver: str, choice: Mapping[str, Any], k: int) -> np.ndarray:
    """Sample ``k``, ``(y, x)`` float32, with the given settings and otherwise the solver's defaults."""
    outer = {name: choice[name] for name in OUTER if name in choice}
    settings = {name: value for name, value in choice.items() if name not in OUTER}
    prior = replace(prior_of(case, bundle), tuned={}, quality={})
    return run(case, prior, solver=solver, settings=settings, seed=k, **outer).image[0].astype(np.float32)


def truth_of(case: Problem | Tomogram) -> tuple[np.ndarray, np.ndarray]:
    """Simulated image without noise ``(y, x)``, and the mask of head or body without its outermost pixels.

    Pixels where estimated maps are 0 are excluded: there, all images are 0.
    """
    image = case.reference if isinstance(case, Tomogram) else case.truth
    assert image is not None
    image = np.asarray(image, np.float64).squeeze()
    low = ndimage.gaussian_filter(image, 2.0)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(low > (0.5 if isinstance(case, Tomogram) else 0.08)))
    inside = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    inside = ndimage.binary_erosion(inside, iterations=3)
    if isinstance(case, Problem):
        inside &= np.abs(case.maps.numpy()[0]).max(0) > 0
    return image, inside


def judge(case: Problem | Tomogram, draws: list[Draw]) -> dict[str, Any]:
    """Coverage, ranks, spread over error, PSNR of the mean of many samples, and seconds per sample."""
    image, inside = truth_of(case)
    samples = np.stack([one.image for one in draws]).astype(np.float64)[:, inside]
    truth = image[inside]
    frequencies = rank_frequencies(truth, samples)
    covered = {}
    for level in LEVELS:
        value = central_coverage(frequencies, level)
        text = f"{student_coverage(truth, samples, level):.2f}t" if value is None else f"{value:.2f}"
        covered[f"{level:.0%}"] = text
    return {
        **covered,
        "ranks": [round(float(f), 3) for f in frequencies],
        "distance": distance_from_uniform(frequencies),
        "ratio": spread_over_error(truth, samples),
        "sharpness": float(samples.var(0, ddof=1).mean() ** 0.5 / image.max()),
        "psnr": float(20 * np.log10(image.max() / max(rms_error_of_mean(truth, samples), 1e-6))),
        "seconds": float(np.mean([one.seconds for one in draws])),
    }


HEADER = (
    "| solver | settings | scan | K | 50 % | 80 % | 90 % | 95 % | distance of ranks | truth below all, above all | "
    "spread / error | sharpness | PSNR of the mean, dB | seconds per sample |\n" + "|---" * 14 + "|"
)


def row_of(solver: str, name: str, scan: str, k: int, found: Mapping[str, Any]) -> str:
    """A line of the table."""
    low, high = found["ranks"][0], found["ranks"][-1]
    covered = " | ".join(found[f"{level:.0%}"] for level in LEVELS)
    return (
        f"| {solver} | {name} | {scan} | {k} | {covered} | {found['distance']:.3f} | {low:.2f}, {high:.2f} | "
        f"{found['ratio']:.2f} | {100 * found['sharpness']:.1f} % | {found['psnr']:.2f} | {found['seconds']:.1f} |"
    )


def judged(
    store: Store, bundle: str, solver: str, name: str, choice: Mapping[str, Any], k: int, only: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Judgement of every scan, printed; nothing where a sample failed."""
    for scan, case in scans(bundle).items():
        if scan not in (only or list(scans(bundle))[:2]):
            continue
        draws = [store.get(case, bundle, solver, choice, i) for i in range(k)]
        good = [one for one in draws if one is not None]
        if len(good) < k:
            print(f"| {solver} | {name} | {scan} | {k} | {k - len(good)} of {k} samples failed" + " |" * 10, flush=True)
            continue
        found = judge(case, good)
        print(row_of(solver, name, scan, k, found), flush=True)
        yield found


def choose(tried: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> dict[str, Any] | None:
    """The settings with the smallest mean distance of ranks, of those whose mean image loses at most ``GUARD`` dB.

    Args:
        tried: settings, and their judgements on every scan; settings that failed have none.
    """
    scores = [
        (choice, np.mean([one["distance"] for one in found]), np.mean([one["psnr"] for one in found]))
        for choice, found in tried
        if found
    ]
    if not scores:
        return None
    best = max(psnr for *_, psnr in scores)
    return min((s for s in scores if s[2] >= best - GUARD), key=lambda s: s[1])[0]


def tuned_of(bundle: str, solver: str) -> dict[str, Any]:
    """Settings of `tuned` and the ladder of the bundle."""
    spec = load_prior(bundle)
    return {"sigma_max": 8.0, "steps": spec.n_steps, "sigma_min": spec.sigma_min, **spec.tuned.get(solver, {})}


def search(store: Store, bundle: str, only: list[str], k: int, where: list[str] | None) -> None:
    """Try `tuned` and all settings of the grid, and print the best of each solver's grid."""
    chosen = {}
    for solver in only:
        tried = []
        list(judged(store, bundle, solver, "tuned", tuned_of(bundle, solver), k, where))
        for choice in GRIDS[bundle].get(solver, []):
            tried.append((choice, list(judged(store, bundle, solver, json.dumps(choice), choice, k, where))))
        chosen[solver] = choose(tried)
    print("\nposterior:")
    for solver, choice in chosen.items():
        if choice is not None:
            print(f"  {solver}: {json.dumps(choice)}".replace('"', ""), flush=True)


def compare(store: Store, bundle: str, only: list[str], k: int, where: list[str] | None) -> None:
    """`tuned` against `posterior`."""
    spec = load_prior(bundle)
    for solver in only:
        blocks = {"tuned": tuned_of(bundle, solver)}
        if solver in spec.posterior:
            blocks["posterior"] = dict(spec.posterior[solver])
        for name, choice in blocks.items():
            list(judged(store, bundle, solver, name, choice, k, where))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("search", "compare"))
    parser.add_argument("bundle", choices=("brain_mri", "brain_mri_magnitude", "chest_ct"))
    parser.add_argument("--store", type=Path, required=True, help="folder of the samples")
    parser.add_argument("--only", nargs="*", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--scans", nargs="*", help="names of scans, e.g. R=4 (default: the first two)")
    parser.add_argument("-k", type=int, default=3, help="samples per scan (default: 3)")
    arguments = parser.parse_args()
    began, store = time.perf_counter(), Store(arguments.store)
    print(f"{arguments.bundle}: samples 0 to {arguments.k - 1} (seed = number)\n\n{HEADER}", flush=True)
    run_mode = search if arguments.mode == "search" else compare
    run_mode(store, arguments.bundle, arguments.only, arguments.k, arguments.scans)
    failed = sum(bool(row["failure"]) for row in store.rows.values())
    print(f"\n{time.perf_counter() - began:.0f} s, {failed} failed samples in the store")


if __name__ == "__main__":
    main()
