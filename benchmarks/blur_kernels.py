"""Train the prior of unknown blur kernels, medrecon/problems/blur_kernels.pt. One thread is enough; the run resumes.

    python benchmarks/blur_kernels.py runs/kernels --steps 12000            # train, then print the errors of validation
    python benchmarks/blur_kernels.py runs/kernels --steps 12000 --install  # also replace the weights of the package

Half of the kernels are motion, half defocus, new ones in every batch, from generators seeded by the seed of the run and the
number of the step. Validation kernels have seeds from 1 000 000 (see benchmarks/blind.py).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.blur import KERNEL_STD
from medrecon.problems import kernel_prior as shipped
from medrecon.training.kernels import blur_kernels, defocus_kernels, motion_kernels
from medrecon.training.objectives import EDM, stratified
from medrecon.weights import encode_weights

VALIDATION = 1_000_000
LEVELS = (0.02, 0.05, 0.1, 0.3, 1.0)
OBJECTIVE = EDM(sigma_data=KERNEL_STD, log_mean=-1.5, log_std=1.4)


def unit(kernels: Tensor) -> Tensor:
    """Kernels divided by their largest value."""
    return kernels / kernels.amax((1, 2, 3), keepdim=True)


def batch(n: int, seed: int) -> Tensor:
    """Training kernels, ``(n, 1, 33, 33)``: motion, then defocus."""
    generator = torch.Generator().manual_seed(seed)
    motion = motion_kernels(n // 2, shipped.KERNEL_SIZE, generator=generator)
    return unit(torch.cat([motion, defocus_kernels(n - n // 2, shipped.KERNEL_SIZE, generator=generator)]))


def validate(network: torch.nn.Module, n: int = 64) -> list[float]:
    """Root-mean-square errors of the denoised kernels relative to those of the best constant, by noise level."""
    seeds = range(VALIDATION, VALIDATION + n)
    kernels = unit(torch.cat([blur_kernels(seeds, kind) for kind in ("motion", "defocus")]))
    spread = (kernels - kernels.mean(0)).square().mean().sqrt()
    prior = OBJECTIVE.prior(network, multiple=4)
    out = []
    for level in LEVELS:
        noise = torch.randn(kernels.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            error = prior(kernels + level * noise, level) - kernels
        out.append(float(error.square().mean().sqrt() / spread))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="replace the weights of the package")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    network = shipped.kernel_network()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.lr, weight_decay=0.0)
    arguments.run.mkdir(parents=True, exist_ok=True)
    latest, first, seconds = arguments.run / "latest.pt", 0, 0.0
    if latest.is_file():
        kept = torch.load(latest, weights_only=True)
        network.load_state_dict(kept["network"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
        first, seconds = kept["step"], kept["seconds"]
    start = time.perf_counter()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step in range(first, arguments.steps):
        rate = min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / arguments.steps))
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * rate
        seed = 1_000_003 * (arguments.seed + 1) + step
        clean = batch(arguments.batch, seed)
        torch.manual_seed(seed)
        pair = OBJECTIVE.pair(clean, stratified(len(clean)), torch.randn_like(clean))
        out = network(F.pad(pair.inputs, (0, 3, 0, 3)), pair.timesteps)  # padded as EDMNet does
        loss = (out[..., :-3, :-3] - pair.target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, b in zip(average.parameters(), network.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
        if (step + 1) % 500 == 0 or step + 1 == arguments.steps:
            now = seconds + time.perf_counter() - start
            state = {"network": network.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimizer": optimizer.state_dict(), "step": step + 1, "seconds": now}, latest)
            errors = " ".join(f"{error:.3f}" for error in validate(average))
            print(f"step {step + 1}: loss {float(loss):.4f}, errors {errors}, {now:.0f} s", flush=True)
    content, sha256 = encode_weights(average)
    print(
        f"seed {arguments.seed}; {arguments.steps} steps of {arguments.batch}; {len(content)} bytes, SHA-256 {sha256}; "
        f"relative errors at sigma {LEVELS}: {', '.join(f'{error:.3f}' for error in validate(average))}"
    )
    if arguments.install:
        shipped.WEIGHTS.write_bytes(content)
        print(f"written to {shipped.WEIGHTS}; write the SHA-256 into kernel_prior.py")


if __name__ == "__main__":
    main()
