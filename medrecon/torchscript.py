"""Priors as TorchScript, for programs that have PyTorch but not this package."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from monai.data import save_net_with_metadata
from torch import Tensor, nn

from medrecon.bundle import build_network, find_bundle, load_prior, metadata, read_prior
from medrecon.data.errors import InputError, innermost, one_line
from medrecon.data.files import check_writable, write_atomically
from medrecon.prior_file import PriorFile
from medrecon.training.measured import MASKED
from medrecon.training.objectives import MeasuredObjective, Objective, objective

__all__ = ["Denoiser", "denoiser", "export_torchscript"]


class _Traced(nn.Module):
    """Module for TorchScript to compile, which calls a traced module."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.traced(x, sigma)


class Denoiser(nn.Module):
    """A network as the clean estimate ``E[x0 | x0 + sigma n = x]``, which TorchScript and MONAI's ``ckpt_export`` can compile.

    ``torch.jit.script`` receives a trace, so every network of :data:`medrecon.networks.NETWORKS` can be exported whose
    computation does not depend on input values. The trace accepts any batch size and image size. EDM and flow networks run on
    every device; a DDPM runs on the device of the trace, since the noise levels of its chain are constants.

    Args:
        network: network, called as ``network(x, timesteps)``; the state dict of this module is the state dict of the network.
        objective: what the network was trained for.
        channels: channels of the images.
        multiple: multiple to which sides are padded for the network.
    """

    def __init__(
        self, network: nn.Module, objective: Objective | MeasuredObjective, channels: int, multiple: int = 16
    ) -> None:
        super().__init__()
        self.network = network
        self.prior = objective.prior(network, multiple)
        self.channels = channels
        self.multiple = multiple

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean estimate of ``x`` ``(B, C, y, x)`` at noise levels ``sigma > 0`` ``(B,)``, in the unit of ``x``."""
        dtype = next(self.network.parameters()).dtype
        return self.prior(x.to(dtype), sigma.to(dtype))

    def state_dict(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN201 - torch's signature
        """Weights of the network."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN201 - torch's signature
        """Weights of the network."""
        return self.network.load_state_dict(*args, **kwargs)

    def __prepare_scriptable__(self) -> nn.Module:
        weight = next(self.network.parameters())
        # A batch of two, with sides that need padding, so that padding and batch size are traced.
        example = torch.zeros(2, self.channels, self.multiple + 1, 2 * self.multiple + 3).to(weight)
        with warnings.catch_warnings():  # about checks of the input, which a trace omits
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(self, (example, torch.tensor([0.3, 0.4]).to(weight)), check_trace=False)
        return _Traced(traced).eval()  # type: ignore[arg-type]


def denoiser(root: str | Path) -> Denoiser:
    """The denoiser of a bundle with random weights; the caller loads the weights, as MONAI's ``ckpt_export`` does.

    Raises:
        InputError: if the bundle's ``prior.yaml`` cannot be used, or the bundle has no network.
    """
    prior = read_prior(root)
    if prior.network is None:
        raise InputError(f"{root}: the bundle has no network; choose another bundle")
    _check_traceable(str(root), prior)
    trained_for = objective(str(prior.parameterization), float(prior.sigma_data or 0))
    return Denoiser(build_network(root).eval(), trained_for, prior.channels, prior.multiple)


def _check_traceable(name: str, prior: PriorFile) -> None:
    """Refuse priors that draw or apply masks: a trace would freeze them for one size of images, or leave them out.

    Raises:
        InputError: naming the bundle.
    """
    if prior.parameterization == MASKED:
        raise InputError(
            f"{name}: a prior trained with ambient draws sampling masks and cannot be exported; use it through medrecon"
        )
    if prior.noise is not None and prior.noise.stride is not None:
        raise InputError(
            f"{name}: a network of noise2self is evaluated on masked images and cannot be exported; use it through medrecon"
        )


def export_torchscript(bundle: str | Path, path: str | Path, overwrite: bool = False) -> None:
    """Write the denoiser of a bundle, ``forward(x, sigma)``, and its metadata as a TorchScript file.

    Args:
        bundle: name or folder of the bundle.
        path: output file, usually ``model.ts``.
        overwrite: replace an existing file.

    Raises:
        InputError: for a bundle that cannot be used or has no network, a network that cannot be traced, or an existing file.
    """
    spec, facts = load_prior(bundle), metadata(find_bundle(bundle))
    check_writable([Path(path)], overwrite)
    _check_traceable(spec.name, read_prior(find_bundle(bundle)))
    module = Denoiser(spec.network(), spec.objective, spec.channels, spec.multiple).eval()
    try:
        with torch.no_grad():
            script = torch.jit.script(module)
    except Exception as error:  # tracing raises errors of many types
        raise InputError(
            f"bundle {spec.name}: its network cannot be traced ({one_line(innermost(error))}); use it through medrecon"
        ) from error
    buffer = io.BytesIO()
    save_net_with_metadata(script, buffer, include_config_vals=False, meta_values=facts)
    write_atomically({Path(path): buffer.getvalue()}, overwrite=overwrite)
