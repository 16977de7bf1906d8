"""Arrays of NumPy's and MATLAB's files, read as untrusted input."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.lib import format as npy

from medrecon.data.errors import InputError, redacted
from medrecon.data.hdf5 import open_hdf5, read_dataset
from medrecon.data.limits import FREE, RATIO, BoundedReader, check_claim, inflated, open_bounded

__all__ = ["matlab_arrays", "numpy_array", "numpy_arrays"]


# NumPy


class _NotNumbersError(ValueError):
    """A good array of something else."""


def _array(file: BinaryIO, stored: int) -> np.ndarray:
    """One array in NumPy's format, of ``stored`` bytes with its header.

    Raises:
        ValueError: if it does not hold numbers, or is longer than what is stored.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not of numbers")
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.kind not in "biufc" or dtype.subdtype is not None:
        what = "Python objects, which are never loaded" if dtype.hasobject else f"{dtype} values"
        raise _NotNumbersError(f"holds {what}, which are no numbers; save an array of numbers")
    if any(n < 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"its shape {shape} is impossible")
    size = math.prod(shape) * dtype.itemsize
    if size > stored - file.tell():
        raise ValueError(f"its header announces {size} bytes of shape {shape}, but fewer are stored")
    data = bytearray(size)
    view, held = memoryview(data), 0
    while held < size:
        n = file.readinto(view[held:])  # type: ignore[attr-defined]
        if not n:
            raise ValueError("it is cut off")
        held += n
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def numpy_arrays(path: Path, keys: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of ``keys`` that an npz file holds, and the names of all arrays.

    Raises:
        InputError: if it is no npz file, is damaged, or unpacks to far more than it stores.
    """
    try:
        with open_bounded(path) as file, zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            held = {key: _member(archive, members[key], path) for key in keys if key in members}
    except InputError:
        raise
    except _NotNumbersError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NumPy file ({redacted(error)}); save it again with numpy.savez"
        ) from error
    return held, list(members)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    about = archive.getinfo(name)
    if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    check_claim(about.file_size, min(about.compress_size, path.stat().st_size), path, f"'{name}'")
    with archive.open(about) as file:
        try:
            array = _array(file, about.file_size)  # type: ignore[arg-type]
        except _NotNumbersError as error:
            raise _NotNumbersError(f"'{name.removesuffix('.npy')}' {error}") from error
        file.read()  # to the end, where the checksum is compared
    return array


def numpy_array(path: Path) -> np.ndarray:
    """The array of an npy file.

    Raises:
        InputError: if it is no npy file, does not hold numbers, or is cut off.
    """
    try:
        with open_bounded(path) as file:
            return _array(file, path.stat().st_size)
    except _NotNumbersError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NumPy file ({redacted(error)}); save it again with numpy.save"
        ) from error


# MATLAB


def _version5(file: BoundedReader, size: int) -> BinaryIO:
    """A MATLAB file of version 5 with its elements unpacked, none longer than what unpacks.

    Raises:
        ValueError: for elements that are cut off or unpack to far more than they store.
    """
    head = file.read(128)
    if len(head) < 128 or head[126:128] not in (b"IM", b"MI"):
        file.seek(0)
        return file  # of version 4, without compression
    order = "<" if head[126:128] == b"IM" else ">"
    parts, packed, most = [head], False, FREE + RATIO * size
    while len(tag := file.read(8)) == 8:
        kind, length = struct.unpack(order + "II", tag)
        if length > size - file.tell():
            raise ValueError("it is cut off")
        content = file.read(length)
        if kind == 15:  # compressed
            content = inflated(content, most)
            most -= len(content)
            packed = True
            parts.append(content)
        else:
            parts += [tag, content]
    if not packed:
        file.seek(0)
        return file
    return io.BytesIO(b"".join(parts))


def _numbers(value: Any, key: str, path: Path) -> np.ndarray:  # noqa: ANN401 - whatever MATLAB stores
    from scipy.sparse import issparse

    if issparse(value):
        raise InputError(f"{path}: '{key}' is a sparse matrix; save full({key})")
    array = np.asarray(value)
    if array.dtype.names and set(array.dtype.names) == {"real", "imag"}:
        array = array["real"] + 1j * array["imag"]
    if array.dtype.kind not in "biufc":
        raise InputError(f"{path}: '{key}' does not hold numbers; save an array of numbers under that name")
    return array


def matlab_arrays(path: Path, keys: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of ``keys`` that a MATLAB file holds, with MATLAB's axes, and the names of all variables.

    Raises:
        InputError: if it is no MATLAB file, is damaged, or a variable does not hold numbers.
    """
    from scipy.io import loadmat, whosmat

    try:
        if h5py.is_hdf5(path):  # version 7.3: axes reversed, complex numbers as pairs
            with open_hdf5(path) as file:
                names = [name for name in file if not name.startswith("#")]
                held = {key: _numbers(read_dataset(file, key), key, path).T for key in keys if key in file}
            return held, names
        with open_bounded(path) as stored:
            size = path.stat().st_size
            content = _version5(stored, size)
            shapes = whosmat(content)
            names = [name for name, *_ in shapes]
            for name, shape, _ in shapes:
                if name in keys:
                    check_claim(math.prod(shape), size, path, f"'{name}'")
            content.seek(0)
            variables = loadmat(content, variable_names=[key for key in keys if key in names])
            return {key: _numbers(variables[key], key, path) for key in keys if key in variables}, names
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable MATLAB file ({redacted(error)}); save it again, e.g. with -v7.3"
        ) from error
