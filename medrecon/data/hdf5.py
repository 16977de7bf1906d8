"""The one door through which HDF5 files are read.

HDF5 can refer to bytes outside the file: external storage, external links, virtual datasets and links of user-defined kinds. A
file from elsewhere could so name any file of this machine (or a pipe, which blocks). Such files are refused before anything is
read. Soft links are followed: they stay in the file, which then holds no way out. Object and region references are never
followed. Filters are the four below; HDF5 would load others as plug-ins.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t

from medrecon.data.errors import InputError, told
from medrecon.data.limits import FREE, BoundedReader, check_claim, inflated, open_bounded

__all__ = ["check_dataset", "open_hdf5", "read_attribute", "read_dataset", "refuse_outside", "text_of"]

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_MOST = 200_000
"""Links of a file that are looked through."""


@contextmanager
def open_hdf5(path: str | Path, below: str = "/") -> Iterator[h5py.File]:
    """Open a file for reading that keeps all of its data to itself.

    Args:
        path: of the file.
        below: the group that will be read; links elsewhere are not looked at, and soft links in it are refused.

    Raises:
        InputError: if it is no HDF5 file, is damaged, or refers to data outside the file.
    """
    if not os.path.isfile(path):  # a pipe would block
        raise InputError(f"{path}: no such file")
    try:
        file = h5py.File(path, "r")
    except Exception as error:
        raise InputError(f"{path}: not a readable HDF5 file ({told(error)}); check that it is complete") from error
    with file:
        try:
            refuse_outside(file, path, below)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: damaged HDF5 file ({told(error)}); copy it again") from error
        yield file


def refuse_outside(file: h5py.File, path: str | Path, below: str = "/") -> None:
    """Refuse an open file that refers to data outside, see :func:`open_hdf5`.

    Args:
        file: opened for reading, of which nothing was read yet.
        path: of it.
        below: the group that will be read; links elsewhere are not looked at, and soft links in it are refused.

    Raises:
        InputError: naming the file and the link or dataset.
    """
    parts = [part for part in below.split("/") if part]
    links: list[tuple[str, int, int]] = []
    for k, part in enumerate(parts):
        above = file["/".join(parts[:k])] if k else file["/"]
        word = part.encode("utf-8", "surrogateescape")
        if not isinstance(above, h5py.Group) or not above.id.links.exists(word):
            break
        info = above.id.links.get_info(word)
        links.append(("/".join(parts[: k + 1]), info.type, info.u))
        _check_links(file, path, links[-1:], False)
    group = file.get("/".join(parts)) if parts else file["/"]
    if not isinstance(group, h5py.Group):
        return
    top = len(links)

    def visit(name: bytes, info: Any) -> bool | None:  # noqa: ANN401 - of the C library, which errors do not cross
        links.append(("/".join([*parts, name.decode("utf-8", "replace")]), info.type, info.u))
        return True if len(links) > _MOST else None

    group.id.links.visit(visit, info=True)
    if len(links) > _MOST:
        raise InputError(f"{path}: holds more than {_MOST} datasets and groups; give a file with the data alone")
    _check_links(file, path, links[top:], not parts)


def _check_links(file: h5py.File, path: str | Path, links: Sequence[tuple[str, int, int]], soft: bool) -> None:
    """Refuse links (name, kind, address) that lead out of the file, and datasets whose data lie outside.

    Soft links stay in the file, of which all links are known then; where one group alone is looked through they are refused, too.
    Headers are read here rather than by the library, which would already follow what they say.
    """
    seen: set[int] = set()
    widths = file.id.get_create_plist().get_sizes()
    with open_bounded(path) as content:
        for name, kind, address in links:
            if kind == h5l.TYPE_SOFT and soft:
                continue
            if kind != h5l.TYPE_HARD:
                names = {h5l.TYPE_EXTERNAL: "an external link", h5l.TYPE_SOFT: "a soft link"}
                raise _outside(path, name, names.get(kind, "a link of an unknown kind"))
            if address in seen:
                continue
            seen.add(address)
            for message, data in _messages(content, address, file.userblock_size, widths):
                if message == 0x07:
                    raise _outside(path, name, "stored externally")
                if message == 0x08 and len(data) > 1 and data[0] >= 3 and data[1] == 3:
                    raise _outside(path, name, "a virtual dataset")


def _messages(file: BoundedReader, address: int, base: int, widths: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
    """Type and content of the messages of an object's header; see the HDF5 File Format Specification, IV.A.1.

    Args:
        file: the file.
        address: of the header, from ``base``.
        base: bytes of the user block.
        widths: bytes of an address and of a length.

    Raises:
        ValueError: for what is no header.
    """
    file.seek(base + address)
    head = file.read(64)
    modern = head[:5] == b"OHDR\x02"
    if modern:
        flags, at = head[5], 6
        at += 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        first, order = at + width, 2 * bool(flags & 0x04)
        size = int.from_bytes(head[at:first], "little")
    elif head[:1] == b"\x01" and len(head) > 16:
        first, size, order = 16, int.from_bytes(head[8:12], "little"), 0
    else:
        raise ValueError("an object without a header")
    blocks, taken = [(address + first, size)], 0
    while blocks:
        start, size = blocks.pop()
        file.seek(base + start)
        block, at = file.read(size), 0
        taken += 1
        if taken > 4096:
            raise ValueError("a header without an end")
        step = 4 + order if modern else 8
        while at + step <= len(block):
            kind = block[at] if modern else int.from_bytes(block[at : at + 2], "little")
            n = int.from_bytes(block[at + 1 : at + 3] if modern else block[at + 2 : at + 4], "little")
            data = block[at + step : at + step + n]
            at += step + n
            if kind == 0x10 and len(data) >= sum(widths):
                place, length = (
                    int.from_bytes(part, "little") for part in (data[: widths[0]], data[widths[0] : sum(widths)])
                )
                blocks.append((place + 4, length - 8) if modern else (place, length))  # without mark and checksum
            yield kind, data


def _outside(path: str | Path, name: str, what: str) -> InputError:
    return InputError(
        f"{path}: '{name}' is {what}, so its data lie outside the file; give a file that holds its own data"
    )


def check_dataset(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that would take more memory than its file accounts for, or whose filters are not known.

    Raises:
        InputError: naming the file.
    """
    path = dataset.file.filename
    size = os.path.getsize(path)
    held = dataset.id.get_create_plist()
    filters = [held.get_filter(k) for k in range(held.get_nfilters())]
    codes = [code for code, *_ in filters]
    for code, _, _, label in filters:
        if code not in _FILTERS:
            known = label.decode("ascii", "replace").strip("\0 ") if isinstance(label, bytes) else ""
            raise InputError(
                f"{path}: '{dataset.name}' is compressed by filter {code}{f' ({known})' if known.isalnum() else ''}, which is "
                "not read; store it with gzip, e.g. by h5repack -f GZIP=4"
            )
    if len(set(codes)) < len(codes) or (1 in codes and set(codes[codes.index(1) + 1 :]) - {3}):
        raise InputError(f"{path}: '{dataset.name}' has filters in a senseless order; store it with gzip alone")
    stored = min(int(dataset.id.get_storage_size()), size)
    item = dataset.id.get_type().get_size()
    check_claim(math.prod(dataset.shape) * item, stored, path, f"'{dataset.name}'")
    _check_lists(dataset)
    if held.get_layout() == h5d.CHUNKED:
        chunk = math.prod(held.get_chunk()) * item
        check_claim(chunk, stored, path, f"a chunk of '{dataset.name}'")
        if filters:
            _check_chunks(dataset, chunk, codes, path)


def _check_chunks(dataset: h5py.Dataset, chunk: int, codes: list[int], path: str) -> None:
    """Refuse compressed chunks that are longer than what they unpack to: the library would take memory for all of it."""
    chunks: list[tuple] = []
    dataset.id.chunk_iter(lambda info: chunks.append((info.chunk_offset, info.filter_mask, info.size)))
    if any(length > 2 * chunk + 1024 for *_, length in chunks):
        raise InputError(f"{path}: '{dataset.name}' is damaged (a compressed chunk is too long); copy it again")
    large = [(offset, mask) for offset, mask, length in chunks if 1 in codes and length > FREE // 1032]
    for offset, mask in large:
        if mask & (1 << codes.index(1)):
            continue
        _, packed = dataset.id.read_direct_chunk(offset)
        tail = 4 if 3 in codes[codes.index(1) + 1 :] and not mask & (1 << codes.index(3)) else 0
        try:
            inflated(packed[: len(packed) - tail], chunk + 4)
        except Exception as error:
            raise InputError(f"{path}: '{dataset.name}' is damaged ({told(error)}); copy it again") from error


def _parts(kind: h5t.TypeID, at: int = 0) -> list[tuple[int, int]]:
    """Where in an element the lengths of its lists and texts of variable length lie, and the bytes of what they count.

    Raises:
        ValueError: for references, and for lists of lists.
    """
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        return [(at, 1)]
    if isinstance(kind, h5t.TypeVlenID):
        inner = kind.get_super()
        if not isinstance(inner, h5t.TypeFloatID | h5t.TypeIntegerID):
            raise ValueError("lists of lists are not read")
        return [(at, inner.get_size())]
    if isinstance(kind, h5t.TypeCompoundID):
        each = ((kind.get_member_type(k), at + kind.get_member_offset(k)) for k in range(kind.get_nmembers()))
        return [part for inner, place in each for part in _parts(inner, place)]
    if isinstance(kind, h5t.TypeReferenceID):
        raise ValueError("references are not read")
    if isinstance(kind, h5t.TypeArrayID) and _parts(kind.get_super()):
        raise ValueError("lists of lists are not read")
    return []


def _raw(dataset: h5py.Dataset) -> Iterator[bytes]:
    """The elements of a dataset as they lie in the file, unpacked, chunk by chunk.

    Raises:
        ValueError: where these bytes cannot be found.
    """
    held, path = dataset.id.get_create_plist(), dataset.file.filename
    if dataset.file.userblock_size:
        raise ValueError("lists in a file with a user block are not read")
    if held.get_layout() == h5d.COMPACT:
        raise ValueError("lists in the header of a dataset are not read")
    codes = [held.get_filter(k)[0] for k in range(held.get_nfilters())]
    item = dataset.id.get_type().get_size()
    with open_bounded(path) as file:
        if held.get_layout() == h5d.CONTIGUOUS:
            start = dataset.id.get_offset()
            if start is None:
                return
            file.seek(start)
            yield file.read(math.prod(dataset.shape) * item)
            return
        chunks: list[tuple] = []
        dataset.id.chunk_iter(lambda info: chunks.append((info.byte_offset, info.filter_mask, info.size)))
        size = math.prod(held.get_chunk()) * item
        for start, mask, length in chunks:
            file.seek(start)
            data = file.read(length)
            for k, code in reversed(list(enumerate(codes))):
                if mask & (1 << k):
                    continue
                if code == 3:
                    data = data[:-4]
                elif code == 1:
                    data = inflated(data, size + 4)
                elif code == 2:
                    data = np.frombuffer(data[: len(data) // item * item], np.uint8).reshape(item, -1).T.tobytes()
                else:
                    raise ValueError("lists compressed by lzf are not read")
            yield data


def _check_lists(dataset: h5py.Dataset) -> None:
    """Refuse texts and lists of variable length that are longer than the file: the library would take memory for them first.

    Raises:
        InputError: naming the file.
    """
    path = dataset.file.filename
    try:
        kind = dataset.id.get_type()
        parts = _parts(kind)
        if not parts:
            return
        item, taken = kind.get_size(), 0
        for block in _raw(dataset):
            rows = np.frombuffer(block[: len(block) // item * item], np.uint8).reshape(-1, item)
            for at, unit in parts:
                taken += int(np.ascontiguousarray(rows[:, at : at + 4]).view("<u4").sum(dtype=np.uint64)) * unit
    except Exception as error:
        raise InputError(f"{path}: '{dataset.name}' cannot be read ({told(error)}); convert it again") from error
    if taken > os.path.getsize(path):
        raise InputError(
            f"{path}: the elements of '{dataset.name}' are longer than the file; it is damaged, convert it again"
        )


def read_dataset(file: h5py.Group, key: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """A whole dataset of numbers (or one text), after :func:`check_dataset`.

    Raises:
        InputError: if it is a group, or does not hold numbers.
    """
    path, item = file.file.filename, file[key]
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{path}: '{key}' is a group, not a dataset; name the array itself '{key}'")
    if item.shape is None:
        raise InputError(f"{path}: '{key}' is empty; export the data again")
    if item.dtype.hasobject and math.prod(item.shape) > 1:
        raise InputError(f"{path}: '{key}' does not hold numbers; store an array of numbers")
    check_dataset(item)
    return item[()]


def text_of(value: object) -> bytes | None:
    """One text of a dataset or an attribute as bytes; ``None`` for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    return bytes(value) if isinstance(value, bytes) else None


def read_attribute(item: h5py.Group | h5py.Dataset, name: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """One number or short text of an attribute; ``None`` where it is anything else, or is not there.

    The library takes memory for the length that a text claims, so that is looked up in the file first.
    """
    if name not in item.attrs:
        return None
    about = item.attrs.get_id(name)
    if about.shape not in ((), (1,)) or about.get_storage_size() > 1024:
        return None
    kind = about.get_type()
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        lengths = _text_lengths(item, name)
        if not lengths or max(lengths) > 2**16:
            raise ValueError(f"the attribute {name} of {item.name} is damaged")
    elif not isinstance(kind, h5t.TypeStringID | h5t.TypeIntegerID | h5t.TypeFloatID):
        return None
    value = item.attrs[name]
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) else value


def _text_lengths(item: h5py.Group | h5py.Dataset, name: str) -> list[int]:
    """What the messages of a file that are of attributes of this name state as the length of their text.

    An attribute message is: version, flags, three sizes of two bytes (name, type, space), in version 3 the character set, then
    name, type, space (in version 1 padded to eights) and data; see the HDF5 File Format Specification, IV.A.2.m.
    """
    found, word = [], name.encode() + b"\0"
    with open(item.file.filename, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(word)
        while at >= 0:
            for version, head in ((1, 8), (2, 8), (3, 9)):
                start = at - head
                if start < 0 or data[start] != version:
                    continue
                sizes = [int.from_bytes(data[start + k : start + k + 2], "little") for k in (2, 4, 6)]
                if sizes[0] < len(word):
                    continue
                place = at + sum(-(-n // 8) * 8 if version == 1 else n for n in sizes)
                found.append(int.from_bytes(data[place : place + 4], "little"))
            at = data.find(word, at + 1)
    return found
