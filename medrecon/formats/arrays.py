"""Arrays in NumPy and MATLAB files, read as untrusted input."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.lib import format as npy

from medrecon.data.errors import InputError, redacted
from medrecon.formats.hdf5 import open_hdf5, read_dataset
from medrecon.formats.limits import FREE_BYTES, MAX_RATIO, BoundedReader, check_claim, inflate, open_bounded
from medrecon.formats.mapped import is_mappable, mapped

__all__ = ["matlab_arrays", "numpy_array", "numpy_arrays"]


# NumPy


class _NotNumbersError(ValueError):
    """An intact array that is not numeric."""


def _array(file: BinaryIO, stored: int, kinds: str = "biufc") -> np.ndarray:
    """Read one array in NumPy's format, which takes ``stored`` bytes including its header; see :func:`_header`."""
    return _content(file, *_header(file, stored, kinds))


def _content(file: BinaryIO, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> np.ndarray:
    """Read the numbers or texts after a header.

    Raises:
        ValueError: if they are cut off, or not valid text.
    """
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(size)
    view, n_read = memoryview(data), 0
    while n_read < size:
        n = file.readinto(view[n_read:])  # type: ignore[attr-defined]
        if not n:
            raise ValueError("it is cut off")
        n_read += n
    if dtype.kind == "U" and (np.frombuffer(data, dtype.byteorder + "u4") > 0x10FFFF).any():
        raise ValueError("it contains invalid text")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: BinaryIO, stored: int, kinds: str = "biufc") -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an array of ``stored`` bytes: shape, whether in Fortran order, and type.

    Raises:
        ValueError: if the type is not of the ``kinds``, or the array is longer than what is stored.
    """
    version = npy.read_magic(file)
    # Versions 2 and 3 differ in the encoding of field names, which plain arrays do not have.
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
    shape, fortran, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.kind not in kinds or not dtype.itemsize or dtype.subdtype is not None:
        content = "Python objects, which are never loaded" if dtype.hasobject else f"{dtype} values, not numbers"
        raise _NotNumbersError(f"holds {content}; save an array of numbers")
    if any(n < 0 for n in shape) or len(shape) > 32:
        raise ValueError(f"its shape {shape} is impossible")
    size = math.prod(shape) * dtype.itemsize
    if size > stored - file.tell():
        raise ValueError(f"its header claims {size} bytes of shape {shape}, but fewer are stored")
    return shape, fortran, dtype


@contextmanager
def _numpy_file(path: Path, function: str) -> Iterator[BoundedReader]:
    """Open a file written by ``numpy.<function>``; any exception becomes an :class:`InputError`."""
    try:
        with open_bounded(path) as file:
            yield file
    except InputError:
        raise
    except _NotNumbersError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NumPy file ({redacted(error)}); save it again with numpy.{function}"
        ) from error


def numpy_arrays(
    path: Path, keys: Sequence[str] | None, kinds: str = "biufc"
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of an npz file by name; also return the names of all arrays.

    Args:
        path: path of the file.
        keys: names of the arrays to read, if they exist; ``None``: all.
        kinds: NumPy's one-letter kinds of data types that are allowed: numbers, or also text.

    Raises:
        InputError: if it is not an npz file, is damaged, or unpacks to far more than it stores.
    """
    with _numpy_file(path, "savez") as file, zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        arrays = {
            key: _member(archive, name, path=path, kinds=kinds)
            for key, name in members.items()
            if keys is None or key in keys
        }
    return arrays, list(members)


def _member(archive: zipfile.ZipFile, name: str, path: Path, kinds: str) -> np.ndarray:
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} has a compression that numpy does not write")
    check_claim(info.file_size, min(info.compress_size, path.stat().st_size), name=path, what=f"'{name}'")
    with archive.open(info) as file:
        try:
            array = _array(file, info.file_size, kinds)  # type: ignore[arg-type]
        except _NotNumbersError as error:
            raise _NotNumbersError(f"'{name.removesuffix('.npy')}' {error}") from error
        file.read()  # zipfile compares the checksum at the end
    return array


def numpy_array(path: Path) -> np.ndarray:
    """Read the array of an npy file.

    Raises:
        InputError: if it is not an npy file, is not numeric, or is cut off.
    """
    with _numpy_file(path, "save") as file:
        shape, fortran, dtype = _header(file, path.stat().st_size)
        if is_mappable(dtype, shape):
            return mapped(path, file.tell(), dtype=dtype, shape=shape, order="F" if fortran else "C")
        return _content(file, shape, fortran=fortran, dtype=dtype)


# MATLAB: versions 4 and 5 are parsed here, since scipy's compiled reader crashes on damaged files


_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of stored numbers by their code in a tag; small integers are stored in a smaller type than that of their variable."""
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of numeric variables by their class code."""
_PRECISIONS = ("f8", "f4", "i4", "i2", "u2", "u1")
"""Types of numbers in version 4 by their code."""


def _element(data: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """Type and content of the element at ``at``, and the position of the next element.

    Raises:
        ValueError: if it is cut off.
    """
    if len(data) < at + 8:
        raise ValueError("it is cut off")
    kind, size = struct.unpack(order + "II", data[at : at + 8])
    if kind >> 16:  # up to four bytes within the tag
        return kind & 0xFFFF, data[at + 4 : at + 4 + min(kind >> 16, 4)], at + 8
    if size > len(data) - at - 8:
        raise ValueError("it is cut off")
    return kind, data[at + 8 : at + 8 + size], at + 8 + (size if kind == 15 else -(-size // 8) * 8)


def _values(kind: int, content: memoryview, order: str, n: int, dtype: str) -> np.ndarray:
    """Convert ``n`` stored numbers to the type of their variable."""
    if kind not in _STORED:
        raise ValueError(f"number type {kind} is unknown")
    stored = np.dtype(order + _STORED[kind])
    if len(content) != n * stored.itemsize:
        raise ValueError(f"it claims {n} numbers, but {len(content) // stored.itemsize} are stored")
    return np.frombuffer(content, stored).astype(dtype)


def _matrix(data: memoryview, order: str, keys: Sequence[str]) -> tuple[str, np.ndarray | int | None]:
    """Name and value of a variable in version 5: its numbers, the class code if not numeric, ``None`` if not one of ``keys``.

    MAT-File Format (The MathWorks, R2024), "Level 5 MAT-File Format".
    """
    _, flags, at = _element(data, 0, order)
    _, sizes, at = _element(data, at, order)
    _, label, at = _element(data, at, order)
    word = struct.unpack(order + "I", flags[:4])[0]
    name, kind = bytes(label).decode("latin1"), word & 0xFF
    if name not in keys:
        return name, None
    if kind not in _NUMERIC:
        return name, kind
    shape = np.frombuffer(sizes, order + "i4").tolist()
    if not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise ValueError(f"the shape {shape} of '{name}' is impossible")
    n, parts = math.prod(shape), []
    for _ in range(2 if word & 0x800 else 1):
        code, content, at = _element(data, at, order)
        parts.append(_values(code, content, order=order, n=n, dtype=_NUMERIC[kind]))
    return name, _combine_parts(parts).reshape(shape, order="F")


def _combine_parts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Combine a real and an imaginary part to complex numbers; a real part alone is returned unchanged."""
    if len(parts) == 1:
        return parts[0]
    out = np.empty(parts[0].shape, np.result_type(parts[0].dtype, np.complex64))
    out.real, out.imag = parts  # a sum would turn Inf into NaN
    return out


def _version5(data: memoryview, keys: Sequence[str]) -> dict[str, np.ndarray | int | None]:
    """Variables of a file in version 5; see :func:`_matrix`."""
    order, at, limit, variables = "<" if data[126:128] == b"IM" else ">", 128, FREE_BYTES + MAX_RATIO * len(data), {}
    while at < len(data):
        kind, content, at = _element(data, at, order)
        if kind == 15:  # compressed
            unpacked = inflate(bytes(content), limit)
            limit -= len(unpacked)
            kind, content, _ = _element(memoryview(unpacked), 0, order)
        if kind == 14:
            name, value = _matrix(content, order, keys)
            variables[name] = value
    return variables


def _version4(data: memoryview, keys: Sequence[str]) -> dict[str, np.ndarray | int | None]:
    """Variables of a file in version 4, in the form that :func:`_version5` returns."""
    at, variables = 0, {}
    while at < len(data):
        order = "<" if 0 <= struct.unpack("<i", data[at : at + 4])[0] < 5000 else ">"
        code, rows, columns, imaginary, n = struct.unpack(order + "5i", data[at : at + 20])
        machine, rest = divmod(code, 1000)
        zero, rest = divmod(rest, 100)
        precision, kind = divmod(rest, 10)
        if machine not in (0, 1) or zero or precision > 5 or kind > 2 or min(rows, columns) < 0 or not 0 < n < 256:
            raise ValueError("it has an unknown version")
        dtype, size = np.dtype(order + _PRECISIONS[precision]), rows * columns
        name, at = bytes(data[at + 20 : at + 19 + n]).decode("latin1"), at + 20 + n
        parts = []
        for _ in range(2 if imaginary and not kind else 1):
            if size * dtype.itemsize > len(data) - at:
                raise ValueError("it is cut off")
            parts.append(data[at : at + size * dtype.itemsize])
            at += size * dtype.itemsize
        if name not in keys or kind:
            variables[name] = {0: None, 1: 4, 2: 5}[kind]  # class codes of version 5 for text and sparse matrices
            continue
        variables[name] = _combine_parts([np.frombuffer(part, dtype) for part in parts]).reshape(
            (rows, columns), order="F"
        )
    return variables


def _numbers(value: Any, key: str, path: Path) -> np.ndarray:  # noqa: ANN401 - whatever MATLAB stores
    if isinstance(value, int):
        if value == 5:
            raise InputError(f"{path}: '{key}' is a sparse matrix; save full({key})")
        raise InputError(f"{path}: '{key}' is not numeric; save an array of numbers under that name")
    array = np.asarray(value)
    if array.dtype.names and set(array.dtype.names) == {"real", "imag"}:
        array = _combine_parts([array["real"], array["imag"]])
    if array.dtype.kind not in "biufc":
        raise InputError(f"{path}: '{key}' is not numeric; save an array of numbers under that name")
    return array


def matlab_arrays(path: Path, keys: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read those of ``keys`` that exist in a MATLAB file, with MATLAB's axes; also return the names of all variables.

    Raises:
        InputError: if it is not a MATLAB file, is damaged, or a variable is not numeric.
    """
    try:
        if h5py.is_hdf5(path):  # version 7.3: axes reversed, complex numbers as pairs
            with open_hdf5(path) as file:
                names = [name for name in map(str, file) if not name.startswith("#")]
                arrays = {key: _numbers(read_dataset(file, key), key, path).T for key in keys if key in file}
            return arrays, names
        with open_bounded(path) as stored:
            data = memoryview(stored.read())
        variables = _version5(data, keys) if data[126:128] in (b"IM", b"MI") else _version4(data, keys)
        arrays = {key: _numbers(variables[key], key, path) for key in keys if key in variables}
        return arrays, [name for name in variables if name]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable MATLAB file ({redacted(error)}); save it again, e.g. with -v7.3"
        ) from error
