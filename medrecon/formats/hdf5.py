"""Safe reading of HDF5 files; all HDF5 files are opened here.

HDF5 can refer to bytes outside the file: external storage, external links, virtual datasets and user-defined links. An untrusted
file could thus refer to any file of this machine (or a pipe, which blocks). Such files are refused before anything is read. Soft
links are followed, since their target is in the same file. Object and region references are never followed. Only the four filters
below are supported; HDF5 would load others as plug-ins.
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
from h5py import h5d, h5l, h5o, h5t  # type: ignore[attr-defined]

from medrecon.data.errors import InputError, one_line, os_error_advice
from medrecon.formats.contents import missing_file_reason
from medrecon.formats.limits import FREE_BYTES, MAX_RATIO, BoundedReader, check_claim, inflate, open_bounded
from medrecon.formats.mapped import is_mappable, mapped

__all__ = ["check_dataset", "open_hdf5", "read_attribute", "read_dataset", "read_table", "refuse_outside", "text_of"]

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_MAX_LINKS = 200_000
"""Largest number of links in a file."""
_MAX_DEPTH = 64
"""Largest nesting depth of groups; the library recurses into each."""
_CHUNK = 4096
"""Bytes that the library allocates per chunk, stored or not, when it reads a dataset."""


@contextmanager
def open_hdf5(path: str | Path, below: str = "/") -> Iterator[h5py.File]:
    """Open a file for reading, after checking that it does not refer to data outside the file.

    Args:
        path: path of the file.
        below: group that will be read; other links are not checked, and soft links in the group are refused.

    Raises:
        InputError: if it is not an HDF5 file, is damaged, or refers to data outside the file.
    """
    if not os.path.isfile(path):  # a pipe would block
        raise InputError(f"{path}: {missing_file_reason(Path(path))}")
    try:
        with open_bounded(path) as start:
            has_signature = b"\x89HDF\r\n\x1a\n" in start.read(2**20)
        file = h5py.File(path, "r")
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # from the operating system, not the content
            problem = f"cannot be read ({os.strerror(error.errno)}); {os_error_advice(error, 'copy it again')}"
        elif has_signature:
            problem = f"not a readable HDF5 file ({one_line(error)}); copy it again"
        else:
            problem = "not an HDF5 file; give one, or copy it again if it is damaged"
        raise InputError(f"{path}: {problem}") from error
    with file:
        try:
            refuse_outside(file, path, below)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: damaged HDF5 file ({one_line(error)}); copy it again") from error
        yield file


def refuse_outside(file: h5py.File, path: str | Path, below: str = "/") -> None:
    """Refuse an open file that refers to data outside the file; see :func:`open_hdf5`.

    Args:
        file: file opened for reading, from which nothing was read yet.
        path: path of the file.
        below: group that will be read; other links are not checked, and soft links in the group are refused.

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
        _check_links(file, path, links=links[-1:], soft=False)
    group = file.get("/".join(parts)) if parts else file["/"]
    if not isinstance(group, h5py.Group):
        return
    top = len(links)

    def visit(name: bytes, info: Any) -> bool | None:  # noqa: ANN401 - called by the C library, which exceptions cannot cross
        links.append(("/".join([*parts, name.decode("utf-8", "replace")]), info.type, info.u))
        return True if len(links) > _MAX_LINKS or name.count(b"/") > _MAX_DEPTH else None

    group.id.links.visit(visit, info=True)
    if links and links[-1][0].count("/") > _MAX_DEPTH + len(parts):
        raise InputError(f"{path}: has groups nested deeper than {_MAX_DEPTH}; give a file with the data alone")
    if len(links) > _MAX_LINKS:
        raise InputError(f"{path}: holds more than {_MAX_LINKS} datasets and groups; give a file with the data alone")
    _check_links(file, path, links=links[top:], soft=not parts)


def _check_links(file: h5py.File, path: str | Path, links: Sequence[tuple[str, int, int]], soft: bool) -> None:
    """Refuse links (name, kind, address) that lead out of the file, and datasets whose data are outside.

    ``soft`` allows soft links: their targets are checked if all links of the file are, but not if only one group is. Object
    headers are parsed here, since the library would already follow their references.
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
            for message, data in _messages(content, address, base=file.userblock_size, widths=widths):
                if message == 0x07:
                    raise _outside(path, name, "stored externally")
                if message == 0x08 and len(data) > 1 and data[0] >= 3 and data[1] == 3:
                    raise _outside(path, name, "a virtual dataset")


def _messages(file: BoundedReader, address: int, base: int, widths: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
    """Type and content of the messages in an object header; see the HDF5 File Format Specification, IV.A.1.

    Args:
        file: open file.
        address: address of the header, relative to ``base``.
        base: size of the user block in bytes.
        widths: sizes of an address and of a length in bytes.

    Raises:
        ValueError: if there is no valid header.
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
        raise ValueError("an object has no header")
    blocks, n_blocks = [(address + first, size)], 0
    while blocks:
        start, size = blocks.pop()
        file.seek(base + start)
        block, at = file.read(size), 0
        n_blocks += 1
        if n_blocks > 4096:
            raise ValueError("an object header does not end")
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
                blocks.append((place + 4, length - 8) if modern else (place, length))  # without signature and checksum
            yield kind, data


def _outside(path: str | Path, name: str, what: str) -> InputError:
    return InputError(
        f"{path}: '{name}' is {what}, so its data are outside the file; give a file that contains its data"
    )


def check_dataset(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that would allocate more memory than its file accounts for, or that has unsupported filters.

    Raises:
        InputError: naming the file.
    """
    path = dataset.file.filename
    size = os.path.getsize(path)
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(k) for k in range(properties.get_nfilters())]
    codes = [code for code, *_ in filters]
    for code, _, _, label in filters:
        if code not in _FILTERS:
            known = label.decode("ascii", "replace").strip("\0 ") if isinstance(label, bytes) else ""
            raise InputError(
                f"{path}: '{dataset.name}' is compressed by filter {code}{f' ({known})' if known.isalnum() else ''}, which is "
                "not supported; store it with gzip, e.g. by h5repack -f GZIP=4"
            )
    if len(set(codes)) < len(codes) or (1 in codes and set(codes[codes.index(1) + 1 :]) - {3}):
        raise InputError(f"{path}: '{dataset.name}' has filters in an invalid order; store it with gzip alone")
    if not _is_plain(dataset.id.get_type()):
        raise InputError(f"{path}: '{dataset.name}' has an unsupported number format; store e.g. float32")
    stored = min(int(dataset.id.get_storage_size()), size)
    item = dataset.id.get_type().get_size()
    check_claim(math.prod(dataset.shape) * item, stored, name=path, what=f"'{dataset.name}'")
    if properties.get_layout() == h5d.CHUNKED:
        chunk = math.prod(properties.get_chunk()) * item
        check_claim(chunk, stored, name=path, what=f"a chunk of '{dataset.name}'")
        n_chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, properties.get_chunk(), strict=True))
        if _CHUNK * n_chunks > FREE_BYTES + MAX_RATIO * size:
            raise InputError(
                f"{path}: '{dataset.name}' is divided into {n_chunks} chunks, few of which are stored; store it contiguously, "
                "e.g. by h5repack -l CONTI"
            )
        if filters:
            _check_chunks(dataset, chunk, codes=codes, path=path)


def _is_plain(kind: h5t.TypeID) -> bool:
    """Whether the members of a compound type have the same size in numpy and in the file.

    Some unusual floating-point formats do not, and h5py would write them beyond the end of the array.
    """
    if not isinstance(kind, h5t.TypeCompoundID):
        return True
    for k in range(kind.get_nmembers()):
        inner, at = kind.get_member_type(k), kind.get_member_offset(k)
        is_reference = isinstance(inner, h5t.TypeVlenID | h5t.TypeStringID | h5t.TypeReferenceID)
        size = inner.get_size()
        if at + size > kind.get_size() or not (is_reference or (inner.dtype.itemsize == size and _is_plain(inner))):
            return False
    return True


def _check_chunks(dataset: h5py.Dataset, chunk: int, codes: list[int], path: str) -> None:
    """Refuse compressed chunks that are longer than their uncompressed size: the library would allocate all of it."""
    chunks: list[tuple] = []
    dataset.id.chunk_iter(lambda info: chunks.append((info.chunk_offset, info.filter_mask, info.size)))
    if any(length > 2 * chunk + 1024 for *_, length in chunks):
        raise InputError(f"{path}: '{dataset.name}' is damaged (a compressed chunk is too long); copy it again")
    large = [(offset, mask) for offset, mask, length in chunks if 1 in codes and length > FREE_BYTES // 1032]
    for offset, mask in large:
        if mask & (1 << codes.index(1)):
            continue
        _, packed = dataset.id.read_direct_chunk(offset)
        tail = 4 if 3 in codes[codes.index(1) + 1 :] and not mask & (1 << codes.index(3)) else 0
        try:
            inflate(packed[: len(packed) - tail], chunk + 4)
        except Exception as error:
            raise InputError(f"{path}: '{dataset.name}' is damaged ({one_line(error)}); copy it again") from error


def _raw(dataset: h5py.Dataset) -> Iterator[bytes]:
    """Elements of a dataset as stored in the file, uncompressed, chunk by chunk.

    Raises:
        ValueError: if the bytes cannot be found.
    """
    properties, path = dataset.id.get_create_plist(), dataset.file.filename
    codes = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    kind, base = dataset.id.get_type(), dataset.file.userblock_size
    widths = dataset.file.id.get_create_plist().get_sizes()
    if widths[0] != 8:
        raise ValueError("lists in a file with addresses of other than 8 bytes are not supported")
    # Types give the size of texts in memory; in the file they are a length, an address and a number. Lists have one size in both.
    item = 16 if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str() else kind.get_size()
    with open_bounded(path) as file:
        if properties.get_layout() == h5d.COMPACT:
            for message, data in _messages(file, h5o.get_info(dataset.id).addr, base=base, widths=widths):
                if message == 0x08 and len(data) > 4 and data[0] >= 3 and data[1] == 0:
                    yield data[4 : 4 + int.from_bytes(data[2:4], "little")]
            return
        if properties.get_layout() == h5d.CONTIGUOUS:
            start = dataset.id.get_offset()
            if start is None:
                return
            file.seek(start)
            yield file.read(math.prod(dataset.shape) * item)
            return
        chunks: list[tuple] = []
        dataset.id.chunk_iter(
            lambda info: chunks.append((info.byte_offset, info.chunk_offset, info.filter_mask, info.size))
        )
        size = math.prod(properties.get_chunk()) * item
        for start, offset, mask, length in chunks:
            if base:  # versions of the library differ in whether offsets include the user block
                data = dataset.id.read_direct_chunk(offset)[1]
            else:
                file.seek(start)
                data = file.read(length)
            yield _undo_filters(
                data, [code for k, code in enumerate(codes) if not mask & (1 << k)], size=size, item=item
            )


def _undo_filters(data: bytes, codes: Sequence[int], size: int, item: int) -> bytes:
    """Undo the filters ``codes`` of a chunk with ``size`` bytes in elements of ``item`` bytes."""
    for code in reversed(codes):
        if code == 3:
            data = data[:-4]
        elif code == 1:
            data = inflate(data, size + 4)
        elif code == 2:
            data = np.frombuffer(data[: len(data) // item * item], np.uint8).reshape(item, -1).T.tobytes()
        else:
            data = _unpack_lzf(data, size + 4)
    return data


def _unpack_lzf(data: bytes, limit: int) -> bytes:
    """Unpack LZF (format of LibLZF): literal runs of bytes, and copies of output up to 8192 bytes earlier.

    Raises:
        ValueError: if the data are damaged or unpack to more than ``limit`` bytes.
    """
    out, at = bytearray(), 0
    try:
        while at < len(data):
            control, at = data[at], at + 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            n, high = control >> 5, control & 31
            if n == 7:
                n, at = 7 + data[at], at + 1
            start, at = len(out) - (high << 8) - data[at] - 1, at + 1
            if start < 0 or len(out) > limit:
                raise ValueError("compressed data that are damaged")
            for k in range(start, start + n + 2):  # a copy may overlap its own output
                out.append(out[k])
    except IndexError as error:
        raise ValueError("compressed data that end early") from error
    return bytes(out)


class _Heap:
    """Texts and lists of variable length, which are stored in collections of the file ("global heap").

    They are parsed here since the library allocates any length that a descriptor claims, and hangs on some damaged collections.
    See the HDF5 File Format Specification, III.E.
    """

    def __init__(self, file: h5py.File, content: BoundedReader) -> None:
        self.content = content
        self.base = file.userblock_size
        self.width, self.size = file.id.get_create_plist().get_sizes()
        self.collections: dict[int, dict[int, memoryview]] = {}

    def get(self, descriptor: bytes, unit: int) -> memoryview:
        """Bytes that a descriptor (length, address of the collection, number) refers to, in elements of ``unit`` bytes.

        Raises:
            ValueError: if they are missing.
        """
        n, address = (int.from_bytes(part, "little") for part in (descriptor[:4], descriptor[4 : 4 + self.width]))
        number = int.from_bytes(descriptor[4 + self.width : 8 + self.width], "little")
        if not n:
            return memoryview(b"")
        if address not in self.collections:
            self.collections[address] = self._collection(address)
        data = self.collections[address].get(number)
        if data is None or len(data) != n * unit:
            raise ValueError("a text or list is missing or has another length")
        return data

    def _collection(self, address: int) -> dict[int, memoryview]:
        self.content.seek(self.base + address)
        head = self.content.read(8 + self.size)
        if head[:5] != b"GCOL\x01":
            raise ValueError("a heap of texts and lists is damaged")
        data, at, found = memoryview(self.content.read(int.from_bytes(head[8:], "little") - len(head))), 0, {}
        while at + 8 + self.size <= len(data):
            number, n = (
                int.from_bytes(part, "little") for part in (data[at : at + 2], data[at + 8 : at + 8 + self.size])
            )
            if not number:  # the rest is free
                break
            at += 8 + self.size
            found[number] = data[at : at + n]
            at += -(-n // 8) * 8
        return found


def _list_type(kind: h5t.TypeID) -> np.dtype | None:
    """Element type of a list of numbers; ``None`` for types of fixed length.

    Raises:
        ValueError: for references, texts, and lists of anything but numbers.
    """
    if isinstance(kind, h5t.TypeVlenID):
        if not isinstance(kind.get_super(), h5t.TypeFloatID | h5t.TypeIntegerID):
            raise ValueError("lists of lists are not supported")
        return kind.get_super().dtype
    if kind.dtype.hasobject:
        raise ValueError("references, texts, and nested lists in a table are not supported")
    return None


def read_table(dataset: h5py.Dataset) -> np.ndarray:
    """Read a table that may contain lists of numbers of variable length, in the form that ``h5py`` returns.

    Args:
        dataset: dataset with one axis and a compound type.

    Raises:
        InputError: if it is not such a table or is damaged; all lists together must not be longer than the file.
    """
    path = dataset.file.filename
    check_dataset(dataset)
    try:
        kind, n = dataset.id.get_type(), dataset.shape[0] if dataset.ndim == 1 else 0
        if dataset.ndim != 1 or not isinstance(kind, h5t.TypeCompoundID):
            raise ValueError("it is not a table")
        raw = np.frombuffer(b"".join(_raw(dataset)), np.uint8)
        item = kind.get_size()
        if len(raw) < n * item:
            raise ValueError("rows are missing")
        raw, total = raw[: n * item].reshape(n, item), 0
        members = range(kind.get_nmembers())
        types = {k: _list_type(kind.get_member_type(k)) for k in members}
        names = [kind.get_member_name(k).decode() for k in members]
        plain: list[tuple[str, Any]] = [
            (names[k], kind.get_member_type(k).dtype if types[k] is None else object) for k in members
        ]
        out = np.empty(n, plain)
        with open_bounded(path) as content:
            heap = _Heap(dataset.file, content)
            for k in members:
                at, size, dtype = kind.get_member_offset(k), kind.get_member_type(k).get_size(), types[k]
                part = np.ascontiguousarray(raw[:, at : at + size])
                if dtype is None:
                    out[names[k]] = part.view(plain[k][1]).reshape(n, *plain[k][1].shape)
                    continue
                for row in range(n):
                    data = heap.get(part[row].tobytes(), dtype.itemsize)
                    total += len(data)
                    out[names[k]][row] = np.frombuffer(data, dtype)
                if total > os.path.getsize(path):
                    raise ValueError("its lists are longer than the file")
        return out
    except Exception as error:
        raise InputError(f"{path}: '{dataset.name}' cannot be read ({one_line(error)}); convert it again") from error


def read_dataset(file: h5py.Group, key: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a dataset of numbers (or a single text), after :func:`check_dataset`.

    Raises:
        InputError: if it is a group or not numeric.
    """
    path, item = file.file.filename, file[key]
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{path}: '{key}' is a group, not a dataset; name the array itself '{key}'")
    if item.shape is None:
        raise InputError(f"{path}: '{key}' is empty; export the data again")
    check_dataset(item)
    if not item.dtype.hasobject:
        offset = _contiguous_offset(item) if is_mappable(item.dtype, item.shape) else None
        return item[()] if offset is None else mapped(path, offset, dtype=item.dtype, shape=item.shape)
    if math.prod(item.shape) != 1 or not isinstance(item.id.get_type(), h5t.TypeStringID):
        raise InputError(f"{path}: '{key}' is not numeric; store an array of numbers")
    try:
        with open_bounded(path) as content:
            return bytes(_Heap(file.file, content).get(b"".join(_raw(item)), 1))
    except Exception as error:
        raise InputError(f"{path}: '{key}' cannot be read ({one_line(error)}); store it again") from error


def _contiguous_offset(dataset: h5py.Dataset) -> int | None:
    """Offset of the numbers of a dataset in the file if they are contiguous and stored as in memory; otherwise ``None``."""
    kind = dataset.id.get_type()
    pair = isinstance(kind, h5t.TypeCompoundID)
    parts = [kind.get_member_type(k) for k in range(kind.get_nmembers())] if pair else [kind]
    plain = all(isinstance(part, h5t.TypeFloatID) and h5t.py_create(part.dtype) == part for part in parts)
    packed = kind.get_size() == dataset.dtype.itemsize == sum(part.get_size() for part in parts)
    if pair:  # h5py reads members named r and i as complex numbers, in either order
        places = [(kind.get_member_name(k), kind.get_member_offset(k)) for k in range(len(parts))]
        packed = packed and places == [(b"r", 0), (b"i", kind.get_size() // 2)]
    return dataset.id.get_offset() if plain and packed else None


def text_of(value: object) -> bytes | None:
    """Bytes of a single text in a dataset or an attribute, also if stored as an array of bytes; ``None`` for anything else."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        return value.tobytes()
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, np.void) and value.dtype.names is None:  # opaque bytes
        return value.tobytes()
    return bytes(value) if isinstance(value, bytes) else None


def read_attribute(item: h5py.HLObject, name: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a single number or text of an attribute; ``None`` if it is anything else or missing.

    Raises:
        ValueError: if it is damaged.
    """
    if name not in item.attrs:
        return None
    attribute = item.attrs.get_id(name)
    if attribute.shape not in ((), (1,)) or attribute.get_storage_size() > 1024:
        return None
    kind = attribute.get_type()
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        with open_bounded(item.file.filename) as content:
            heap = _Heap(item.file, content)
            texts = {bytes(heap.get(descriptor, 1)) for descriptor in _descriptors(item, name, content)}
        if len(texts) != 1:
            raise ValueError(f"the attribute {name} of {item.name} is damaged")
        return texts.pop()
    if not isinstance(kind, h5t.TypeStringID | h5t.TypeIntegerID | h5t.TypeFloatID):
        return None
    value = item.attrs[name]
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) else value


def _descriptors(item: h5py.HLObject, name: str, content: BoundedReader) -> list[bytes]:
    """Descriptors of the text of an attribute; see :class:`_Heap`.

    They are in the object header. Objects with many attributes store them elsewhere, so the file is searched.
    """
    word, widths = name.encode() + b"\0", item.file.id.get_create_plist().get_sizes()
    messages = _messages(content, h5o.get_info(item.id).addr, base=item.file.userblock_size, widths=widths)
    in_header = [d for kind, data in messages if kind == 0x0C and (d := _descriptor(data, word)) is not None]
    if in_header:
        return in_header[:1]
    found = []
    with mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(word)
        while at >= 0:
            found += [_descriptor(data[max(at - head, 0) : at + 2**16], word) for head in (8, 9)]
            at = data.find(word, at + 1)
    return [descriptor for descriptor in found if descriptor is not None]


def _descriptor(message: bytes, word: bytes) -> bytes | None:
    """Data of an attribute message; ``None`` if it belongs to another attribute.

    The message consists of version, flags, three sizes of two bytes (name, type, space), in version 3 the character set, then
    name, type and space (in version 1 padded to multiples of eight) and data; see the HDF5 File Format Specification, IV.A.2.m.
    """
    version = message[0] if message else 0
    head = {1: 8, 2: 8, 3: 9}.get(version)
    if head is None or not message.startswith(word, head):
        return None
    sizes = [int.from_bytes(message[k : k + 2], "little") for k in (2, 4, 6)]
    place = head + sum(-(-n // 8) * 8 if version == 1 else n for n in sizes)
    return message[place : place + 16]
