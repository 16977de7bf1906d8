"""Flags against the true error in what was not measured: the real slice A at R = 4 and R = 8, and a chest of 23 views.

    python benchmarks/null_space.py [--cases R4 R8 chest] [--samples 8] [--seed 0]

Samples are drawn with the bundle's settings for posterior samples. The error is ``(I - A^+ A)(mean - reference)``, inside the
body. AUC is the probability that the score of the flags (spread of what was not measured, over 3 x 3 pixels) is larger at a
pixel whose error exceeds the threshold of the flags than at another. The reference of slice A is measured too, so its noise is
part of the error. "p05 to p95 covers" is the fraction of the body in which the magnitude or HU of the reference lies between
these maps. A case that fails is counted, and the others go on.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")

import numpy as np
import torch
from problems import DATA, Problem, Tomogram, chest, planned, slice_a
from scipy.stats import rankdata

from medrecon import problems as physics
from medrecon.formats import load_kspace
from medrecon.likelihood import linear_gaussian
from medrecon.operators import MulticoilMRI
from medrecon.posterior import Reconstruction
from medrecon.uncertainty import FLAG_THRESHOLD, local_spread, measured_part

BODY = 0.05
"""Magnitude at unit scale, or fraction of the density of water, from which a pixel is inside the body."""
CASES: dict[str, Callable[[], Problem | Tomogram]] = {
    "R4": lambda: slice_a(4),
    "R8": lambda: slice_a(8),
    "chest": lambda: chest(23),
}


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; NaN if all pixels are of one kind."""
    ranks, n, total = rankdata(score), int(positive.sum()), len(positive)
    if n in (0, total):
        return float("nan")
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (total - n)))


def reference_of(case: Problem | Tomogram) -> torch.Tensor:
    """The reference as a complex image in the unit of the data, or in units of water, ``(1, y, x)``."""
    if isinstance(case, Tomogram):
        return torch.from_numpy(case.reference).float()
    full = torch.from_numpy(load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5").kspace)
    power = case.maps.abs().square().sum(1)
    combined = MulticoilMRI(case.maps, torch.ones(1, 1, 1, full.shape[-1])).adjoint(full)[:, 0]
    return combined / torch.where(power > 0, power, 1.0)


def errors(case: Problem | Tomogram, posed: physics.Problem, made: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Error in what was not measured, in the unit of the maps, and the pixels inside the body, both ``(y, x)``."""
    items, reference = slice(0, 1), reference_of(case)
    scaled = posed.likelihood(items, torch.device("cpu"))
    if made.phase is None:
        unit, both = 1.0, torch.stack([torch.from_numpy(made.image / 1000 + 1), reference])
    else:
        mean = torch.from_numpy(made.image * np.exp(1j * made.phase))
        unit = (
            float(posed.difference_image(torch.ones(1, *scaled.likelihood.shape), items, scaled.image_scale).max())
            / 2**0.5
        )
        both = torch.view_as_real(torch.stack([mean, reference])[:, 0]).movedim(-1, 1) / unit
    wrong = both[:1] - both[1:]
    left = wrong - measured_part(linear_gaussian(scaled.likelihood), wrong)
    error = posed.difference_image(left[:, None], items, scaled.image_scale)
    return error[0, 0].numpy(), both[1].norm(dim=0).numpy() > BODY


def covered(case: Problem | Tomogram, made: Reconstruction, body: np.ndarray) -> float:
    """Fraction of the body in which the reference (magnitude or HU) lies between the maps ``p05`` and ``p95``."""
    reference = case.reference[0] if isinstance(case, Problem) else 1000 * (case.reference.squeeze() - 1)
    maps = made.uncertainty
    assert maps is not None
    return float(((maps.p05[0] <= reference) & (reference <= maps.p95[0]))[body].mean())


def row(name: str, samples: int, seed: int) -> str:
    """Row of the table for a case."""
    case, began = CASES[name](), time.perf_counter()
    job = planned(case, solver="dds", posterior=True, samples=samples, seed=seed)
    made = job.run("cpu")
    seconds, facts, maps = time.perf_counter() - began, made.record["uncertainty"], made.uncertainty
    error, body = errors(case, job.problem, made)
    noise = facts["noise_in_image"][0]
    wrong = error[body] > FLAG_THRESHOLD * noise
    score = local_spread(torch.from_numpy(maps.null_spread), torch.from_numpy(maps.null_spread > 0))[0].numpy()
    test, by = facts["self_test"], "calibrated" if made.record["calibration"] else "quantiles"
    return (
        f"| {name} | {auc(score[body], wrong):.3f} | {wrong.mean():.1%} | {maps.flags[0][body].mean():.1%} | "
        f"{wrong[maps.flags[0][body] > 0].mean():.1%} | {facts['null_energy']:.1%} | {noise:.3g} | "
        f"{test['residual_over_noise']:.2f} / {test['spread_over_noise']:.2f} | "
        f"{covered(case, made, body):.1%} ({by}) | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        "| case | AUC | error above the threshold | flagged | of these, error above it | null energy | noise in the image | "
        "self-test: residual / spread | p05 to p95 covers | seconds |"
    )
    print("|---" * 10 + "|")
    failures, began = 0, time.perf_counter()
    for name in arguments.cases:
        try:
            print(row(name, arguments.samples, arguments.seed), flush=True)
        except Exception:
            failures += 1
            traceback.print_exc()
    print(
        f"\nseed {arguments.seed}, {arguments.samples} samples a case, {len(arguments.cases)} cases, {failures} failures, "
        f"{time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
