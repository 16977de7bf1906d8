"""Overhead of a step beside the network, and DPS, DiffPIR and PiGDM beside those of deepinv on the same prior, data and steps.

    python benchmarks/steps.py [--only overhead deepinv] [--seeds 3]

``overhead``: DDS with five conjugate-gradient steps for 8 coils and 256 x 256, without its network, beside the network
of brain_mri (in the fastest floating-point type of this device, and in single precision) and a small network of MONAI.

``deepinv`` (extra ``bench``): the real slice A at R = 4 with 50 evaluations of the plain brain_mri prior, mean over the
seeds. The weights of deepinv are chosen here on a simulated validation scan; the weights of medrecon are the bundle's,
which benchmarks/tune.py chose on such scans. The overhead of a step is its time with a prior that costs nothing,
``0.9 x``, and equal conjugate-gradient iterations. Images of deepinv have the range [-1, 1] (or [0, 1]), so data and noise
are scaled, and the complex image is shifted if it must be positive.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

warnings.filterwarnings("ignore")

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet
from operators import available
from problems import Problem, bundle_prior, slice_a, validation
from torch import Tensor, nn

from medrecon.bundle import load_prior
from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.likelihood import Gaussian
from medrecon.metrics import scores
from medrecon.noise import Noise, karras
from medrecon.operators import AsComplex, sense
from medrecon.posterior import fast_dtype
from medrecon.priors import Prior
from medrecon.sample import sample
from medrecon.solvers import DDS, SOLVERS
from medrecon.solvers.multistep import Multistep
from medrecon.training.objectives import EDM

STEPS = 50
N_CG = 10


def free(x: Tensor, sigma: float | Tensor) -> Tensor:
    """A prior that costs nothing."""
    return 0.9 * x


def medians(calls: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Ms of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeat + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i > 1:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: float(np.median(each)) for name, each in times.items()}


@torch.no_grad()
def overhead(repeat: int = 15) -> None:
    """Time of DDS without its network, and of the networks."""
    shape = (256, 256)
    maps = torch.from_numpy(loop_coils(shape, 8))[None]
    prior, network, _ = bundle_prior("brain_mri")
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    single = EDM().prior(network, 16, None)
    monai = DiffusionModelUNet(
        spatial_dims=2, in_channels=2, out_channels=2, channels=(32, 64, 96, 128), num_res_blocks=1,
        attention_levels=(False,) * 4, norm_num_groups=16, num_head_channels=16,
    ).eval().to(memory_format=torch.channels_last)  # fmt: skip
    another = EDM().prior(monai, 16, fast_dtype("cpu"))
    calls: dict[str, Callable[[], object]] = {
        "brain_mri's network": lambda: prior(x, 0.1),
        "in single precision": lambda: single(x, 0.1),
        "MONAI's DiffusionModelUNet, 3.5 M": lambda: another(x, 0.1),
    }
    networks = list(calls)
    for name, mask in {
        "columns": torch.from_numpy(undersampling_mask(shape, "gaussian1d", 4, 24, 0))[None, None, None],
        "any mask": torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1)) < 0.25,
    }.items():
        A = sense(maps, mask)
        data = Gaussian(A, A(x), 0.01)
        noise = Noise([0])
        calls[name] = lambda data=data, noise=noise: DDS(n_cg=5).step(
            Multistep(x), 0.1, 0.09, prior=free, data=data, noise=noise
        )
    found = medians(calls, repeat)
    print("| 8 x 256² | ms | " + " | ".join(f"of {name}" for name in networks) + " |\n|---|---|---|---|---|")
    for name, ms in found.items():
        kind = name if name in networks else f"DDS, five CG steps, {name}"
        print(f"| {kind} | {ms:.1f} | {' | '.join(f'{ms / found[one]:.0%}' for one in networks)} |")


class Scan(NamedTuple):
    """Data at unit scale for medrecon, and deepinv's operator with data of half the size."""

    case: Problem
    data: Gaussian
    scale: float
    physics: object
    halved: Tensor


def scan(case: Problem) -> Scan:
    """A problem in the form of both libraries."""
    from deepinv.physics import GaussianNoise, MultiCoilMRI

    kspace, mask = torch.from_numpy(case.kspace), torch.from_numpy(case.mask)[None, None, None]
    A = sense(case.maps, mask)
    scale = float(torch.quantile(A.adjoint(kspace).norm(dim=1), 0.99))
    data = Gaussian(A, kspace / scale, case.noise_std / scale)
    shape = tuple(case.maps.shape[2:])
    physics = MultiCoilMRI(
        mask=mask.float().expand(1, 2, *shape), coil_maps=case.maps, img_size=(2, *shape), max_iter=N_CG
    )
    physics.noise_model = GaussianNoise(data.noise_std / 2)
    x = torch.randn(1, 2, *shape)
    theirs = torch.complex(*physics.A(x).unbind(1))
    assert float((theirs - A(x)).abs().max()) < 1e-4
    return Scan(case, data, scale, physics, torch.view_as_real(data.y / 2).movedim(-1, 1).contiguous())


class Denoiser(nn.Module):
    """A prior for images at unit scale, applied to images ``(x / 2 - shift) * gain``."""

    def __init__(self, prior: Prior, gain: float, shift: float) -> None:
        super().__init__()
        self.prior, self.gain, self.shift = prior, gain, shift

    def forward(self, v: Tensor, sigma: float | Tensor, *args: object, **kwargs: object) -> Tensor:
        """Of deepinv's range."""
        level = torch.as_tensor(sigma, dtype=torch.float32).flatten()
        level = 2 * level / self.gain
        x = 2 * (v.float() / self.gain + self.shift)
        return self.gain * (self.prior(x, level if len(level) > 1 else float(level)) / 2 - self.shift)


def theirs(method: str, prior: Prior, one: Scan, seed: int, weight: float, zeta: float = 0.3) -> Tensor:
    """A sample of deepinv, at unit scale."""
    import deepinv
    from deepinv.sampling import (
        DPS,
        DDPMSolver,
        DiffPIR,
        PiGDMDataFidelity,
        PosteriorDiffusion,
        VariancePreservingDiffusion,
    )

    torch.manual_seed(seed)
    if method == "diffpir":  # in [0, 1]
        model = DiffPIR(
            Denoiser(prior, 0.5, -1.0), deepinv.optim.data_fidelity.L2(), max_iter=STEPS, zeta=zeta, lambda_=weight,
            sigma=float(one.data.noise_std) / 4,
        )  # fmt: skip
        one.physics.noise_model.sigma = torch.tensor(float(one.data.noise_std) / 4)
        half = torch.full((1, 2, *one.case.maps.shape[2:]), 0.5)
        y = one.halved / 2 + one.physics.A(half)
        begin = one.physics.A_adjoint(one.halved) / 2 + 0.5
        return 2 * (2 * model(y, one.physics, x_init=begin) - 1)
    one.physics.noise_model.sigma = torch.tensor(float(one.data.noise_std) / 2)
    denoiser = Denoiser(prior, 1.0, 0.0)
    # Everything in single precision, as in medrecon.
    more = {"minus_one_one": False, "dtype": torch.float32, "rng": torch.Generator().manual_seed(seed)}
    if method == "dps":
        model = DPS(denoiser, num_steps=STEPS + 1, weight=weight, **more)
    else:
        rng = more.pop("rng")
        solver = DDPMSolver(timesteps=torch.linspace(1, 0, STEPS + 1), rng=rng)
        fidelity = PiGDMDataFidelity(weight=weight, cg_max_iter=N_CG)
        model = PosteriorDiffusion(
            fidelity, denoiser, VariancePreservingDiffusion(alpha=1.0, dtype=torch.float32), solver, **more
        )
    shape = (1, 2, *one.case.maps.shape[2:])
    return 2 * model(one.halved, one.physics, x_init=shape).detach().float()


def quality(x: Tensor, one: Scan) -> tuple[float, float]:
    """PSNR and SSIM."""
    image = (AsComplex()(x)[0] * one.scale).abs().numpy()
    found = scores(image * (np.abs(one.case.maps.numpy()[0]).max(0) > 0), one.case.reference)
    return found["psnr"], found["ssim"]


GRIDS = {
    "dps": [{"weight": w} for w in (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)],
    "diffpir": [{"weight": w, "zeta": z} for w in (1.0, 7.0, 30.0, 100.0) for z in (0.1, 0.5, 1.0)],
    "pigdm": [{"weight": w} for w in (0.5, 1.0, 2.0, 4.0)],
}


def deepinv(seeds: int, repeat: int = 3) -> None:
    """Quality, time and overhead."""
    prior, *_ = bundle_prior("brain_mri")
    tuned = load_prior("brain_mri").tuned
    choose, real = scan(validation(4)[0]), scan(slice_a(4))
    print(
        "\n| method | library | PSNR dB / SSIM | seconds | overhead of a step, ms |\n|---|---|---|---|---|", flush=True
    )
    for method, grid in GRIDS.items():
        tried = [(quality(theirs(method, prior, choose, 0, **one), choose)[0], one) for one in grid]
        best = max((t for t in tried if np.isfinite(t[0])), key=lambda t: t[0])[1]
        mine = dict(tuned.get(method, {}))
        sigmas = karras(mine.pop("sigma_max", 1.5), 0.005, STEPS)
        solver = SOLVERS[method](**mine)
        alike = SOLVERS[method](**{**mine, **({"n_cg": N_CG} if method != "dps" else {})})

        def ours(prior: Prior, seed: int = 0, solver: object = solver, sigmas: Tensor = sigmas) -> Tensor:
            return sample(solver, prior, real.data, sigmas, noise=Noise([seed]))  # type: ignore[arg-type]

        runs = {
            "medrecon": ours,
            f"deepinv, {best}": lambda prior, seed=0, method=method, best=best: theirs(
                method, prior, real, seed, **best
            ),
        }
        empty = {
            "medrecon": lambda alike=alike: ours(free, solver=alike),
            f"deepinv, {best}": lambda method=method, best=best: theirs(method, free, real, 0, **best),
        }
        spare = medians(empty, repeat)
        for name, call in runs.items():
            start = time.perf_counter()
            found = [quality(call(prior, seed), real) for seed in range(seeds)]
            took = (time.perf_counter() - start) / seeds
            psnr, ssim = np.mean(found, axis=0)
            print(
                f"| {method} | {name} | {psnr:.1f} / {ssim:.3f} | {took:.1f} | {spare[name] / STEPS:.1f} |", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=("overhead", "deepinv"), default=("overhead", "deepinv"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if "overhead" in arguments.only:
        overhead()
    if "deepinv" in arguments.only and available("deepinv"):
        deepinv(arguments.seeds)


if __name__ == "__main__":
    main()
