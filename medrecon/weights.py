"""Files of weights: read as tensors alone, compared with a checksum and with the network that they are for."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medrecon.data.errors import DAMAGE, InputError, advised

__all__ = ["difference", "encode_weights", "read_weights"]

STORE = "choose another bundle, or store weights with medrecon.bundle.save_weights"


def encode_weights(network: nn.Module) -> tuple[bytes, str]:
    """The weights of a network in half precision, as a file, and its SHA-256."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().half().cpu() for key, value in network.state_dict().items()}, buffer)
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


def read_weights(path: Path, sha256: str, limit: int) -> dict[str, Tensor]:
    """The tensors of a file of weights, float32, by name.

    Args:
        path: file.
        sha256: expected SHA-256 of the file.
        limit: largest size of the file, packed and unpacked, bytes.

    Raises:
        InputError: if the file is missing, larger, damaged, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: the bundle's weights are missing; install medrecon again or train them (train.yaml)")
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); {advised(error, 'copy it again')}"
        ) from error
    if len(content) > limit:
        raise _too_large(path, limit)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: SHA-256 is {found[:12]}..., but metadata.json says {sha256[:12]}...; "
            "the weights are damaged or not this bundle's: install medrecon again"
        )
    return _tensors(content, path, limit)


def _too_large(path: Path, limit: int) -> InputError:
    return InputError(
        f"{path}: the weights are those of another network, they take more than {limit} bytes; correct 'arguments' in prior.yaml"
    )


def _tensors(content: bytes, path: Path, limit: int) -> dict[str, Tensor]:
    """The tensors of a state dictionary of at most ``limit`` bytes, float32.

    Raises:
        InputError: if the content is something else, or its numbers are not weights.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > limit:
            raise _too_large(path, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused anyway
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: not a state dictionary of tensors that can be loaded without running code; {STORE}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds other things than tensors; {STORE}")
    for key, value in state.items():
        plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
        if not plain or value.is_complex() or value.dtype is torch.bool:
            raise InputError(f"{path}: {key} is a {value.dtype} tensor, not plain real numbers; {STORE}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # repeated by strides of 0
            raise InputError(f"{path}: {key} has the shape {tuple(value.shape)}, but fewer numbers are stored; {STORE}")
        if not bool(value.isfinite().all()):
            raise InputError(f"{path}: {key} holds NaN or Inf; train the network again")
    return {str(key): value.float() for key, value in state.items()}


def difference(state: Mapping[str, Tensor], network: nn.Module) -> str | None:
    """How weights differ from those of a network in names and shapes, or ``None`` if they fit."""
    own = network.state_dict()
    if own.keys() != state.keys():
        return f"{len(state)} tensors, but {len(own)} with other names in the network"
    for key, value in state.items():
        if value.shape != own[key].shape:
            return f"{key} is {tuple(value.shape)}, but {tuple(own[key].shape)} in the network"
    return None
