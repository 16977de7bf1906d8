"""The prior of unknown blur kernels: a small network trained on simulated kernels, and its file of weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from medrecon.blur import KERNEL_STD
from medrecon.networks import ResidualUNet
from medrecon.priors.base import Prior
from medrecon.priors.nets import EDMNet
from medrecon.weights import read_weights

__all__ = ["KERNEL_SIZE", "kernel_network", "kernel_prior"]

KERNEL_SIZE = 33
"""Side of the kernels, pixels."""
WEIGHTS = Path(__file__).with_name("blur_kernels.pt")
SHA256 = "c4fa03a8b3a14269fe3a1779c9f5f92bc5d13f085b7e20426defd2c8ab8b815f"


def kernel_network() -> ResidualUNet:
    """The network, with random weights; ``benchmarks/blur_kernels.py`` trains it."""
    return ResidualUNet(1, channels=(48, 80), blocks=(1, 2), unshuffle=2, embedding=64, heads=4)


@cache
def _network() -> ResidualUNet:
    network = kernel_network()
    network.load_state_dict(read_weights(WEIGHTS, SHA256, limit=2_000_000))
    return network.eval().requires_grad_(False)


def kernel_prior(device: torch.device | str = "cpu") -> Prior:
    """The trained prior of kernels divided by their largest value, ``(B, 1, 33, 33)``.

    Raises:
        InputError: if the weights are missing or damaged.
    """
    return EDMNet(_network().to(device), KERNEL_STD, multiple=4)
