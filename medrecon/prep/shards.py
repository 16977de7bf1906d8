"""Cases in HDF5: staged one by one, then packed into shards; every file appears whole, with checksums of what it holds.

What is verified when: a row (of a shard or a staged file) whenever it is read; the arrays of a staged file that an earlier run
left, before it is trusted (:func:`check_staged`); the arrays of a shard when :class:`LoadPreparedd` reads them. Shards of version
0.2 hold no checksums: they are read as they are, and :func:`prepared` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.errors import DAMAGE, InputError, one_line, warn
from medrecon.data.files import new_file, recover, write_whole
from medrecon.formats.hdf5 import refuse_outside

__all__ = ["LoadPreparedd", "check_staged", "pack", "prepared", "read_rows", "stage", "staged_path", "write_lines"]

_SHARD = re.compile(r"(?:train|val|test)-\d{5,}\.h5")
_STAGED = re.compile(r"[0-9a-f]{32}\.h5")
_KEYS = {"case", "subject", "split", "arrays", "shard"}
"""What every row of a manifest has."""


class _DamagedError(ValueError):
    """Content that is not what was written."""


def group_of(case: str) -> str:
    """A case's name as HDF5 can have it, one to one."""
    name = case.replace("%", "%25").replace("/", "%2F")
    name = "".join(
        f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name
    )  # bytes that are not UTF-8
    return "%2E" if name == "." else name


def staged_path(destination: Path, case: str) -> Path:
    """Where a case lies before it is packed."""
    name = hashlib.sha256(case.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return destination / ".staged" / f"{name}.h5"


def checksum(array: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and values."""
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def stage(path: Path, arrays: Mapping[str, np.ndarray], row: Mapping[str, Any], compression: str | None = None) -> None:
    """Write one case, whole or not at all, and synced; its row gets the arrays' checksums."""
    about = row.get("arrays", {})
    summed = {name: {**about.get(name, {}), "sha256": checksum(array)} for name, array in arrays.items()}
    text = json.dumps({**row, "arrays": summed})
    with new_file(path, overwrite=True) as part, h5py.File(part, "w") as file:
        for name, array in arrays.items():
            packed = compression if np.ndim(array) else None
            file.create_dataset(name, data=array, compression=packed)
        file.attrs["row"] = text
        file.attrs["row_sha256"] = hashlib.sha256(text.encode()).hexdigest()


def _row(group: object) -> dict[str, Any]:
    """The row of a case, verified.

    Raises:
        _DamagedError: if it is not what was written.
    """
    if not isinstance(group, h5py.Group) or "row" not in group.attrs:
        raise _DamagedError("it holds something other than cases")
    text = str(group.attrs["row"])
    expected = group.attrs.get("row_sha256")  # of version 0.2 there is none
    if expected is not None and hashlib.sha256(text.encode()).hexdigest() != expected:
        raise _DamagedError("the checksum of a row differs")
    row = json.loads(text)
    if not isinstance(row, dict) or not isinstance(row.get("case"), str):
        raise _DamagedError("a row names no case")
    return row


def _array(group: h5py.Group, name: str, expected: str | None) -> np.ndarray:
    """An array of a case, verified if its checksum is known.

    Raises:
        _DamagedError: if it is not what was written.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise _DamagedError(f"array {name!r} is missing")
    value = dataset[()]
    if expected is not None and checksum(value) != expected:
        raise _DamagedError(f"the checksum of array {name!r} differs")
    return value


def _is_content(error: BaseException) -> bool:
    """Whether the bytes of a file are wrong, not the disk, memory, permissions or the number of open files."""
    return not isinstance(error, MemoryError) and getattr(error, "errno", None) is None


@contextmanager
def _opened(path: Path, below: str = "/") -> Iterator[h5py.File]:
    """An HDF5 file; a FIFO or a folder of that name is refused before anything waits for it.

    Raises:
        _DamagedError: if it is no regular file.
        InputError: if what is below a group refers to data outside the file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise _DamagedError("it is not a regular file")
    with h5py.File(path, "r") as file:
        refuse_outside(file, path, below)
        yield file


def _unreadable(path: Path, error: BaseException) -> InputError:
    """What to do about a shard: one that is damaged can be made again, one that cannot be read now must stay."""
    if _is_content(error):
        return InputError(f"{path}: damaged shard ({one_line(error)}); move it away and run 'medrecon prep' again")
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number is not None else one_line(error)
    return InputError(f"{path}: cannot be read now ({reason}), but may be whole; mend that and run again")


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files that are called like ours; others are passed over."""
    return sorted(path for path in folder.glob("*.h5") if pattern.fullmatch(path.name))


def check_staged(destination: Path) -> None:
    """Remove staged cases of an earlier run whose content is damaged, so that they are prepared again.

    What cannot be read for another reason stays.

    Raises:
        InputError: for a file that cannot be read now.
    """
    for path in _files(destination / ".staged", _STAGED):
        try:
            with _opened(path) as file:
                for name, about in _row(file)["arrays"].items():
                    _array(file, name, about.get("sha256"))
        except DAMAGE as error:
            _drop(path, error)


def _drop(path: Path, error: BaseException) -> None:
    """Remove a staged file whose content is damaged.

    Raises:
        InputError: if its content is not what is wrong.
    """
    if not _is_content(error):
        raise _unreadable(path, error) from error
    if path.is_file():
        path.unlink(missing_ok=True)


def read_rows(destination: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The rows of cases in shards, and of those staged; leftovers of a killed run are removed.

    Files that are not called like shards or staged cases are passed over, and stay.

    Raises:
        InputError: for a shard that cannot be read.
    """
    for folder in (destination, destination / "shards", destination / ".staged"):
        recover(folder)
    packed: dict[str, dict[str, Any]] = {}
    for path in _files(destination / "shards", _SHARD):
        try:
            with _opened(path) as file:
                for group in file.values():
                    row = _row(group)
                    packed[row["case"]] = {**row, "shard": f"shards/{path.name}"}
        except DAMAGE as error:
            raise _unreadable(path, error) from error
    staged: dict[str, dict[str, Any]] = {}
    for path in _files(destination / ".staged", _STAGED):
        try:
            with _opened(path) as file:
                row = _row(file)
        except DAMAGE as error:
            _drop(path, error)
            continue
        if row["case"] in packed:  # killed after a shard had appeared
            path.unlink(missing_ok=True)
        elif staged_path(destination, row["case"]) == path:
            staged[row["case"]] = row
    return packed, staged


def pack(destination: Path, staged: Mapping[str, Mapping[str, Any]], limit: int) -> None:
    """Move staged cases into new shards of about ``limit`` bytes, split by split, in the order of their names."""
    folder = destination / "shards"
    folder.mkdir(exist_ok=True)
    for split in sorted({str(row["split"]) for row in staged.values()}):
        waiting = sorted(case for case, row in staged.items() if row["split"] == split)
        while waiting:
            taken, size = [], 0
            while waiting and (not taken or size < limit):
                taken.append(waiting.pop(0))
                size += staged_path(destination, taken[-1]).stat().st_size
            numbers = [int(p.stem.rpartition("-")[2]) for p in _files(folder, _SHARD) if p.name.startswith(f"{split}-")]
            path = folder / f"{split}-{max(numbers, default=-1) + 1:05d}.h5"
            with new_file(path) as part, h5py.File(part, "w") as shard:
                for case in taken:
                    with _opened(staged_path(destination, case)) as file:
                        file.copy(file["/"], shard, name=group_of(case))
            for case in taken:
                staged_path(destination, case).unlink()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON, a row a line, whole or not at all."""
    write_whole({path: "".join(json.dumps(row) + "\n" for row in rows).encode()}, overwrite=True)


def prepared(destination: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """The rows of a manifest, with the path of the shard under ``prepared``: items for MONAI's data sets.

    Args:
        destination: folder that ``medrecon prep`` wrote.
        split: only these, e.g. ``train``.

    Raises:
        InputError: if there is no manifest, or no such split.
    """
    destination = Path(destination)
    path = destination / "manifest.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
            raise ValueError("a row that is not of a case")
    except OSError as error:
        raise InputError(f"{path}: no manifest; run 'medrecon prep' first, to its end") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged manifest ({error}); run 'medrecon prep' again") from error
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise InputError(f"{path}: holds no case{'' if split is None else f' of split {split!r}'}")
    unsummed = sum(any("sha256" not in about for about in row.get("arrays", {}).values()) for row in rows)
    if unsummed:
        warn(
            f"{path}: {unsummed} of {len(rows)} cases were prepared by a version without checksums and cannot be verified"
        )
    return [{**row, "prepared": str(destination / row["shard"])} for row in rows]


class LoadPreparedd(MapTransform):
    """Arrays of a prepared case: items of :func:`prepared` to ``MetaTensor`` with their affine, numbers to plain tensors.

    Args:
        keys: of the arrays, as the recipe's ``write`` names them.
        allow_missing_keys: leave out what a case does not hold.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The rows' case, subject and split stay; the rest of the row is replaced by the arrays, which are verified.

        Raises:
            InputError: if the shard is damaged or cannot be read, or the case holds no such array.
        """
        out: dict[Hashable, Any] = {key: data[key] for key in ("case", "subject", "split")}
        path = Path(data["prepared"])
        try:
            with _opened(path, group_of(data["case"])) as file:
                group = file.get(group_of(data["case"]))
                if not isinstance(group, h5py.Group):
                    raise _DamagedError(f"case {data['case']} is missing")
                written = _row(group)["arrays"]
                for key in self.keys:
                    if key not in data["arrays"]:
                        if self.allow_missing_keys:
                            continue
                        raise InputError(f"{data['case']}: holds no {key!r}; it holds {', '.join(data['arrays'])}")
                    about = data["arrays"][key]
                    if json.dumps(about) != json.dumps(written.get(key)):
                        raise InputError(
                            f"{path}: describes {key!r} of {data['case']} otherwise than the manifest; run 'medrecon prep' "
                            "again, which writes the manifest from the shards"
                        )
                    out[key] = _tensor(_array(group, str(key), about.get("sha256")), about, data["case"])
        except InputError:
            raise
        except DAMAGE as error:
            raise _unreadable(path, error) from error
        return out


def _tensor(value: np.ndarray, about: Mapping[str, Any], case: str) -> torch.Tensor:
    """A ``MetaTensor`` with its affine; of a number, a plain tensor."""
    tensor = torch.as_tensor(value)
    if not tensor.ndim:
        return tensor
    z, y, x = about.get("spacing_mm") or (1.0, 1.0, 1.0)
    known = {"affine_known": bool(about.get("affine_known")), "spacing_known": bool(about.get("spacing_mm"))}
    affine = np.array(about["affine"], float) if known["affine_known"] else np.diag([x, y, z, 1.0])
    meta = {"filename_or_obj": case, "spacing": np.array([z, y, x]), **known, **about.get("meta", {})}
    return MetaTensor(tensor, affine=torch.from_numpy(affine), meta=meta)
