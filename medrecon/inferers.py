"""MONAI inferers that call networks and solvers inside MONAI's engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import Scan
from medrecon.posterior import PriorSpec, Reconstruction, fast_dtype
from medrecon.reconstruction import plan
from medrecon.training.objectives import MeasuredObjective, Objective

__all__ = ["AutocastInferer", "DenoisingInferer", "MeasuredInferer", "PosteriorInferer"]


class AutocastInferer(Inferer):
    """Call the network under autocast with channels-last tensors, on any device, and return float32.

    MONAI's engines support autocast on CUDA only; CPUs with bfloat16 units benefit from it as well.

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
    """Call the network as a denoiser, as a prior does, for validation.

    Args:
        objective: what the network is trained for.
        multiple: multiple to which sides are padded.
    """

    def __init__(self, objective: Objective | MeasuredObjective, multiple: int = 16) -> None:
        self.objective = objective
        self.multiple = multiple

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The clean estimate of ``inputs`` at the noise level ``args[0]``; ``kwargs`` from MONAI is not used."""
        return self.objective.prior(network, self.multiple, fast_dtype(inputs.device))(inputs, args[0])


class MeasuredInferer(Inferer):
    """The loss of every item under an objective of measurements; the network alone runs under autocast.

    Args:
        objective: what the network is trained for.
        dtype: autocast type, see :class:`AutocastInferer`; not used for an objective with ``full_precision``.
        seed: random seed of the loss, for validation: the same random numbers for every batch, no gradients for the network, and
            random numbers of the training left alone; ``None``: training.
        multiple: multiple to which sides are padded with zeros for the network, whose output is cropped.
    """

    def __init__(
        self,
        objective: MeasuredObjective,
        dtype: torch.dtype | Literal["auto"] | None = "auto",
        seed: int | None = None,
        multiple: int = 16,
    ) -> None:
        self.objective = objective
        self.multiple = multiple
        exact = getattr(objective, "full_precision", False)
        self.autocast = AutocastInferer(None if exact else dtype)
        # Fast attention has no second derivative.
        self.attention = partial(sdpa_kernel, SDPBackend.MATH) if exact else nullcontext
        self.seed = seed

    def __call__(self, inputs: Mapping[str, Tensor], network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """The losses ``(B,)`` of data by name, see :class:`medrecon.training.objectives.MeasuredObjective`."""

        def run(x: Tensor, timesteps: Tensor) -> Tensor:
            spatial = x.shape[2:]
            inside = F.pad(x, [side for n in reversed(spatial) for side in (0, -n % self.multiple)])
            with self.attention():
                return self.autocast(inside, network, timesteps)[(..., *[slice(n) for n in spatial])]

        if self.seed is None:
            return self.objective.loss(run, inputs)
        device = next(iter(inputs.values())).device
        # Some losses differentiate the network with respect to its input, which MONAI's evaluator would forbid.
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(self.seed)
            return self.objective.loss(run, inputs).detach()


class PosteriorInferer(Inferer):
    """Reconstruct a scan with the engine's network as prior, or with a classical solver, as ``medrecon recon`` does.

    Args:
        prior: prior of the bundle, see :func:`medrecon.bundle.load_prior`.
        physics: options of the scan's physics, see :mod:`medrecon.settings`.
        progress: function called with (steps done, total steps) after every step.
        **options: other fields of :class:`medrecon.settings.PriorSettings` and :class:`medrecon.settings.SamplingSettings`.

    Raises:
        medrecon.InputError: for ``physics`` that is not a mapping, or the option ``bundle``, which ``prior`` replaces.
    """

    def __init__(
        self,
        prior: PriorSpec,
        physics: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if physics is not None and not isinstance(physics, Mapping):
            raise InputError(f"physics must be names and values, such as {{'compress': 8}}; got {shown(physics)}")
        self.prior = prior
        self.options = {**(physics or {}), **options}
        if "bundle" in self.options:
            raise InputError("the inferer uses the prior of its own bundle; leave bundle out of its options")
        self.progress = progress

    def __call__(self, inputs: Scan, network: nn.Module, *args: Any, **kwargs: Any) -> Reconstruction:  # noqa: ANN401
        """Images and record of one scan, computed on the device of the network.

        Args:
            inputs: a scan, see :class:`medrecon.transforms.LoadScand`.
            network: network of the prior.
            *args: arguments from MONAI's engines, not used.
            **kwargs: physics options of this scan.

        Raises:
            medrecon.InputError: for data or options that cannot be used.
        """
        repeated = [name for name in kwargs if self.options.get(name) is not None]
        if repeated:
            raise InputError(f"{repeated[0]} is set for every scan by the config; leave it out of physics")
        prior = replace(self.prior, network=lambda: network)
        device = next((one.device for one in network.parameters()), torch.device("cpu"))
        return plan(inputs, bundle=prior, **{**self.options, **kwargs}).run(device, self.progress)
