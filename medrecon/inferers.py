"""MONAI inferers: how a network or a solver is called inside MONAI's engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import Scan
from medrecon.posterior import PriorSpec, Reconstruction, fast_dtype
from medrecon.reconstruction import plan
from medrecon.training.objectives import Objective

__all__ = ["AutocastInferer", "DenoisingInferer", "PosteriorInferer"]


class AutocastInferer(Inferer):
    """Call the network under autocast with channels-last tensors, on any device, and return float32.

    MONAI's engines offer autocast for CUDA only, but CPUs with bfloat16 units gain from it as well.

    Args:
        dtype: autocast type; ``"auto"`` is :func:`medrecon.posterior.fast_dtype` of the device, ``None`` no autocast.
    """

    def __init__(self, dtype: torch.dtype | Literal["auto"] | None = "auto") -> None:
        self.dtype: torch.dtype | Literal["auto"] | None = dtype

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """``network(inputs, *args, **kwargs)``."""
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        dtype = fast_dtype(inputs.device) if self.dtype == "auto" else self.dtype
        with torch.autocast(inputs.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return network(inputs, *args, **kwargs).float()


class DenoisingInferer(Inferer):
    """Call the network as the denoiser that it is inside a prior, to validate it.

    Args:
        objective: what the network is trained for.
        multiple: sides are padded to a multiple of it.
    """

    def __init__(self, objective: Objective, multiple: int = 16) -> None:
        self.objective = objective
        self.multiple = multiple

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The clean estimate of ``inputs`` at the noise level ``args[0]``; ``kwargs`` is MONAI's and stays unused."""
        return self.objective.prior(network, self.multiple, fast_dtype(inputs.device))(inputs, args[0])


class PosteriorInferer(Inferer):
    """Reconstruct a scan with the engine's network as prior, or by a classical solver; as ``medrecon recon`` does.

    Args:
        prior: of the bundle, see :func:`medrecon.bundle.load_prior`.
        physics: options of the scan's physics, see :mod:`medrecon.settings`.
        progress: called with (steps done, steps in all) after every step.
        **options: other fields of :class:`medrecon.settings.PriorSettings` and :class:`medrecon.settings.SamplingSettings`.

    Raises:
        medrecon.InputError: for physics that are no mapping, or a bundle, which ``prior`` is from.
    """

    def __init__(
        self,
        prior: PriorSpec,
        physics: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if physics is not None and not isinstance(physics, Mapping):
            raise InputError(f"physics are names and values, such as {{'compress': 8}}; got {shown(physics)}")
        self.prior = prior
        self.options = {**(physics or {}), **options}
        if "bundle" in self.options:
            raise InputError("the inferer's prior is that of its own bundle; leave bundle out of its options")
        self.progress = progress

    def __call__(self, inputs: Scan, network: nn.Module, *args: Any, **kwargs: Any) -> Reconstruction:  # noqa: ANN401
        """Images and record of one scan, worked out on the network's device.

        Args:
            inputs: a scan, see :class:`medrecon.transforms.LoadScand`.
            network: of the prior.
            *args: of MONAI's engines, unused.
            **kwargs: options of this scan's physics.

        Raises:
            medrecon.InputError: for data or options that cannot be used.
        """
        twice = [name for name in kwargs if self.options.get(name) is not None]
        if twice:
            raise InputError(f"{twice[0]} comes with every scan here; leave it out of physics")
        prior = replace(self.prior, network=lambda: network)
        device = next((one.device for one in network.parameters()), torch.device("cpu"))
        return plan(inputs, bundle=prior, **{**self.options, **kwargs}).run(device, self.progress)
