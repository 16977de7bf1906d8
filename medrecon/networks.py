"""Networks by name, and a network that MONAI does not have. All are called as ``network(x, timesteps)``."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from medrecon.data.errors import InputError, innermost, one_line

__all__ = ["NETWORKS", "ResidualUNet", "check_images", "network_class", "network_on_meta_device"]

NETWORKS = {
    "ResidualUNet": "medrecon.networks",
    "DiffusionModelUNet": "monai.networks.nets",
}
"""Class names that ``configs/prior.yaml`` may use, with their modules, which are imported on use."""

MAX_PARAMETERS = 2**30
MAX_PARTS = 10_000
"""Modules, parameters and buffers of one network; the largest diffusion networks in use have a few thousand."""


class _ResidualBlock(nn.Module):
    """Two convolutions around a noise-dependent gain; the second is initialised to zero, so the block starts as the identity."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.gain = nn.Linear(embedding, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain = 1 + self.gain(embedding)[:, :, None, None]
        return x + self.second(F.relu(self.first(x) * gain))


class _SelfAttention(nn.Module):
    """Self-attention over all pixels of the coarsest scale; starts as the identity."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        qkv = self.qkv(F.layer_norm(tokens, tokens.shape[-1:])).unflatten(-1, (3, self.heads, -1))
        seen = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind())
        return x + self.out(seen.transpose(1, 2).flatten(2)).mT.unflatten(-1, x.shape[2:])


class ResidualUNet(nn.Module):
    """Norm-free residual U-Net on pixel-unshuffled images, for priors that train and run on a CPU.

    Without normalisation nearly all work is dense 3 x 3 convolution, which matrix units of CPUs and GPUs run at full speed. The
    architecture follows DRUNet (Zhang et al., IEEE TPAMI 2021), with an embedding of the noise level that scales the features of
    every block, and self-attention at the coarsest scale, where the layout of the whole slice is decided and attention is cheap.

    Args:
        in_channels: channels of input and output (2 for a complex image).
        channels: width of each scale; every scale halves the resolution of the one before.
        blocks: residual blocks of each scale.
        unshuffle: factor by which pixels move into channels before the first convolution.
        embedding: width of the noise-level embedding.
        heads: heads of the self-attention before and after the blocks of the coarsest scale; 0: no self-attention.
        num_class_embeds: number of class labels, as in MONAI's ``DiffusionModelUNet``; the last means no label, for
            classifier-free guidance (Ho & Salimans, 2022). ``None``: the network takes no labels.
    """

    def __init__(
        self,
        in_channels: int = 2,
        channels: Sequence[int] = (64, 128, 224, 192),
        blocks: Sequence[int] = (2, 2, 2, 1),
        unshuffle: int = 2,
        embedding: int = 128,
        heads: int = 0,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.num_class_embeds = num_class_embeds
        if len(channels) != len(blocks):
            raise ValueError(f"channels and blocks need one entry per scale; got {channels} and {blocks}")
        if heads < 0 or (heads and channels[-1] % heads):
            raise ValueError(f"heads must divide the channels of the coarsest scale; got {heads} and {channels[-1]}")
        self.unshuffle = unshuffle
        self.multiple = unshuffle * 2 ** (len(channels) - 1)
        # Wavelengths from the whole range of 250 ln(sigma)/4 (about 1000) down to a few units.
        self.register_buffer("frequencies", torch.logspace(-3, -0.4, 32), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds, embedding)
            nn.init.zeros_(self.class_embedding.weight)

        def stage(width: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(_ResidualBlock(width, embedding) for _ in range(n))

        pixels = in_channels * unshuffle**2
        self.head = nn.Conv2d(pixels, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(stage(c, n) for c, n in zip(channels, blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(channels))
        self.attention = nn.ModuleList(_SelfAttention(channels[-1], heads) for _ in range(2 if heads else 0))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(channels))
        self.decoder = nn.ModuleList(stage(c, n) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        for parameter in self.up.parameters():
            # A coarser scale contributes nothing at first, so it can be added to a trained network.
            nn.init.zeros_(parameter)
        self.tail = nn.Conv2d(channels[0], pixels, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.constant_(self.tail.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor, timesteps: Tensor | None = None, *, class_labels: Tensor | None = None) -> Tensor:
        """Map ``x`` ``(B, C, y, x)`` and ``timesteps`` ``(B,)`` (noise level on MONAI's 0...1000 scale) to ``(B, C, y, x)``.

        ``class_labels`` are ``(B,)`` integers; ``None`` means the last label (no label).

        Raises:
            ValueError: if a side is not a multiple of ``self.multiple`` (``EDMNet`` pads and crops), or ``class_labels`` are
                given to a network without labels.
        """
        if class_labels is not None and self.num_class_embeds is None:
            raise ValueError("this ResidualUNet takes no class_labels; give it num_class_embeds")
        if any(n % self.multiple for n in x.shape[2:]):
            raise ValueError(
                f"ResidualUNet needs sides that are multiples of {self.multiple}; got {tuple(x.shape[2:])}"
            )
        if timesteps is None:
            timesteps = x.new_zeros(x.shape[0])
        angles = timesteps.to(self.frequencies.dtype)[:, None] * self.frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        if self.num_class_embeds is not None:
            label = self.class_embedding.weight[-1] if class_labels is None else self.class_embedding(class_labels)
            embedding = embedding + label
        embedding = F.silu(embedding)
        x = self.head(F.pixel_unshuffle(x, self.unshuffle))
        skips = []
        before, after = self.attention or (nn.Identity(), nn.Identity())
        for scale, stage in enumerate(self.encoder):
            coarsest = scale == len(self.down)
            if coarsest:
                x = before(x)
            for block in stage.children():
                x = block(x, embedding)
            if not coarsest:
                skips.append(x)
                x = self.down[scale](x)
        x = after(x)
        for scale in reversed(range(len(self.up))):
            x = self.up[scale](x) + skips[scale]
            for block in self.decoder[scale].children():
                x = block(x, embedding)
        return F.pixel_shuffle(self.tail(x), self.unshuffle)


class _OnMetaDevice(TorchFunctionMode):
    """Create weights on the meta device, without initialisation.

    ``torch.device("meta")`` would do the same for all tensors, but its random numbers and sequences import torch's compiler,
    which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        if name in ("empty", "zeros", "ones", "rand", "randn"):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def _limited_size(where: str) -> Iterator[None]:
    """Limit networks that are built in this thread to ``MAX_PARAMETERS`` and ``MAX_PARTS``.

    Raises:
        InputError: as soon as a network exceeds a limit.
    """
    count = {"parameters": 0, "parts": 0}
    thread = threading.get_ident()

    def register(parent: nn.Module, name: str, part: Any) -> None:  # noqa: ANN401
        if threading.get_ident() != thread:
            return
        count["parts"] += 1
        count["parameters"] += part.numel() if isinstance(part, Tensor) else 0
        if count["parameters"] > MAX_PARAMETERS:
            raise InputError(
                f"{where}: the network would have more than {MAX_PARAMETERS:.1e} parameters; make its arguments smaller"
            )
        if count["parts"] > MAX_PARTS:
            raise InputError(f"{where}: the network would have more than {MAX_PARTS} parts; make its arguments smaller")

    hooks = [
        registration.register_module_parameter_registration_hook(register),
        registration.register_module_buffer_registration_hook(register),
        registration.register_module_module_registration_hook(register),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def network_class(name: str) -> type[nn.Module]:
    """The class of a name in ``NETWORKS``."""
    return getattr(importlib.import_module(NETWORKS[name]), name)


def _check_names(name: str, arguments: Mapping[str, Any], where: str) -> None:
    known = [key for key in inspect.signature(network_class(name)).parameters if key != "self"]
    for key in arguments:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.6)
            advice = f"did you mean {near[0]!r}?" if near else f"its arguments are {', '.join(known)}"
            raise InputError(f"{where}: {name} does not take the argument {key[:40]!r}; {advice}")


def network_on_meta_device(name: str, arguments: Mapping[str, Any], where: str = "network") -> nn.Module:
    """A network with weights on the meta device: they have names and shapes, but take no memory.

    Args:
        name: name in ``NETWORKS``.
        arguments: arguments of the class.
        where: file of the arguments, for errors.

    Raises:
        InputError: if the class does not take the arguments, or the network has more than ``MAX_PARAMETERS`` parameters.
    """
    _check_names(name, arguments, where)
    try:
        with _limited_size(where), _OnMetaDevice():
            return network_class(name)(**arguments)
    except InputError:
        raise
    except Exception as error:  # classes raise errors of many types
        reason = one_line(innermost(error))
        raise InputError(f"{where}: {name} cannot be built ({reason}); correct its arguments") from error


def check_images(
    network: nn.Module, channels: int, multiple: int, where: str = "network", variances: bool = False
) -> None:
    """Check that a network maps images of ``channels`` channels and sides of ``multiple`` pixels to images of the same shape.

    Args:
        network: network to check, called once on a small image of zeros.
        channels: channels of the images.
        multiple: side of the image, pixels.
        where: file that describes the network, for errors.
        variances: accept twice as many output channels, as of a DDPM with learned variances, which are not used.

    Raises:
        InputError: if it does not accept such images, or returns another shape.
    """
    x = torch.zeros(1, channels, multiple, multiple)
    images = f"images of {channels} channel{'s' * (channels > 1)} with sides that are multiples of {multiple}"
    correct = "correct its arguments, 'images' or 'multiple'"
    try:
        with torch.no_grad():
            out = network(x, torch.zeros(1))
    except Exception as error:  # networks raise errors of many types
        raise InputError(
            f"{where}: the network does not take {images} ({one_line(innermost(error))}); {correct}"
        ) from error
    if (
        not isinstance(out, Tensor)
        or out.shape[2:] != x.shape[2:]
        or out.shape[1] not in ((channels, 2 * channels) if variances else (channels,))
    ):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"{where}: the network maps {images}, {tuple(x.shape)}, to {found}; {correct}")
