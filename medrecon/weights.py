"""Files of weights: read as plain tensors, and compared with a checksum and with their network."""

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

from medrecon.data.errors import DAMAGE, InputError, os_error_advice

__all__ = ["difference", "encode_weights", "read_weights"]

ADVICE = "choose another bundle, or store weights with medrecon.bundle.save_weights"


def encode_weights(network: nn.Module) -> tuple[bytes, str]:
    """Content of a file with the weights of a network in half precision, and its SHA-256."""
    buffer = io.BytesIO()
    torch.save({key: value.detach().half().cpu() for key, value in network.state_dict().items()}, buffer)
    return buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest()


def read_weights(path: Path, sha256: str, limit: int) -> dict[str, Tensor]:
    """Tensors of a file of weights by name, float32.

    Args:
        path: file of the weights.
        sha256: expected SHA-256 of the file.
        limit: largest accepted size of the file, compressed and uncompressed, bytes.

    Raises:
        InputError: if the file is missing, too large or damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: the bundle's weights are missing; install medrecon again or train them (train.yaml)")
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); {os_error_advice(error, 'copy it again')}"
        ) from error
    if len(content) > limit:
        raise _too_large(path, limit)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InputError(
            f"{path}: SHA-256 is {found[:12]}..., but metadata.json has {sha256[:12]}...; the weights are damaged or belong to "
            "another bundle: install medrecon again"
        )
    return _tensors(content, path, limit)


def _too_large(path: Path, limit: int) -> InputError:
    return InputError(
        f"{path}: the weights belong to another network, they take more than {limit} bytes; correct 'arguments' in prior.yaml"
    )


def _tensors(content: bytes, path: Path, limit: int) -> dict[str, Tensor]:
    """The tensors of a state dictionary of at most ``limit`` bytes, float32.

    Raises:
        InputError: if the content is anything else, or its values are not finite real numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > limit:
            raise _too_large(path, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles, which are refused anyway
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except (*DAMAGE, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: not a state dictionary of tensors that can be loaded without running code; {ADVICE}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds objects other than tensors; {ADVICE}")
    for key, value in state.items():
        plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
        if not plain or value.is_complex() or value.dtype is torch.bool:
            raise InputError(f"{path}: {key} is a {value.dtype} tensor, not plain real numbers; {ADVICE}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # strides of 0
            raise InputError(
                f"{path}: {key} has the shape {tuple(value.shape)}, but fewer numbers are stored; {ADVICE}"
            )
        if not bool(value.isfinite().all()):
            raise InputError(f"{path}: {key} holds NaN or Inf; train the network again")
    return {str(key): value.float() for key, value in state.items()}


def difference(state: Mapping[str, Tensor], network: nn.Module) -> str | None:
    """Difference of weights and a network in names and shapes, as a phrase; ``None`` if they fit."""
    expected = network.state_dict()
    if expected.keys() != state.keys():
        return f"{len(state)} tensors, but {len(expected)} with other names in the network"
    for key, value in state.items():
        if value.shape != expected[key].shape:
            return f"{key} is {tuple(value.shape)}, but {tuple(expected[key].shape)} in the network"
    return None
