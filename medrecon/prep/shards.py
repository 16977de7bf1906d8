"""Cases in HDF5: staged one by one, then packed into shards; files are written atomically and hold checksums.

Rows of shards and of staged files are verified whenever they are read. Arrays of staged files from an earlier run are verified
before they are used (:func:`check_staged`), and arrays of shards when :class:`LoadPreparedd` reads them. Shards of version 0.2
have no checksums and are read without verification; :func:`load_manifest` warns about them.
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
from medrecon.data.files import new_file, recover, write_atomically
from medrecon.formats.hdf5 import refuse_outside

__all__ = ["LoadPreparedd", "check_staged", "load_manifest", "pack", "read_rows", "stage", "staged_path", "write_lines"]

_SHARD = re.compile(r"(?:train|val|test)-\d{5,}\.h5")
_STAGED = re.compile(r"[0-9a-f]{32}\.h5")
_KEYS = {"case", "subject", "split", "arrays", "shard"}
"""Keys of every row of a manifest."""


class _DamagedError(ValueError):
    """Content that differs from what was written."""


def group_of(case: str) -> str:
    """A case's name as a valid name in HDF5; different cases have different names."""
    name = case.replace("%", "%25").replace("/", "%2F")
    name = "".join(
        f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name
    )  # bytes that are not UTF-8
    return "%2E" if name == "." else name


def staged_path(destination: Path, case: str) -> Path:
    """Path of a case before it is packed."""
    name = hashlib.sha256(case.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return destination / ".staged" / f"{name}.h5"


def checksum(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and values."""
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def stage(path: Path, arrays: Mapping[str, np.ndarray], row: Mapping[str, Any], compression: str | None = None) -> None:
    """Write one case atomically and sync it; the arrays' checksums are added to its row."""
    about = row.get("arrays", {})
    with_checksums = {name: {**about.get(name, {}), "sha256": checksum(array)} for name, array in arrays.items()}
    text = json.dumps({**row, "arrays": with_checksums})
    with new_file(path, overwrite=True) as part, h5py.File(part, "w") as file:
        for name, array in arrays.items():
            packed = compression if np.ndim(array) else None
            file.create_dataset(name, data=array, compression=packed)
        file.attrs["row"] = text
        file.attrs["row_sha256"] = hashlib.sha256(text.encode()).hexdigest()


def _row(group: object) -> dict[str, Any]:
    """The verified row of a case.

    Raises:
        _DamagedError: if it differs from what was written.
    """
    if not isinstance(group, h5py.Group) or "row" not in group.attrs:
        raise _DamagedError("it holds something other than cases")
    text = str(group.attrs["row"])
    expected = group.attrs.get("row_sha256")  # version 0.2 wrote none
    if expected is not None and hashlib.sha256(text.encode()).hexdigest() != expected:
        raise _DamagedError("the checksum of a row differs")
    row = json.loads(text)
    if not isinstance(row, dict) or not isinstance(row.get("case"), str):
        raise _DamagedError("a row names no case")
    return row


def _array(group: h5py.Group, name: str, expected: str | None) -> np.ndarray:
    """An array of a case, verified if its checksum is known.

    Raises:
        _DamagedError: if it differs from what was written.
    """
    dataset = group.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise _DamagedError(f"array {name!r} is missing")
    value = dataset[()]
    if expected is not None and checksum(value) != expected:
        raise _DamagedError(f"the checksum of array {name!r} differs")
    return value


def _is_content(error: BaseException) -> bool:
    """Whether the content of a file is wrong, rather than disk, memory, permissions or the number of open files."""
    return not isinstance(error, MemoryError) and getattr(error, "errno", None) is None


@contextmanager
def _open_shard(path: Path, group: str = "/") -> Iterator[h5py.File]:
    """Open an HDF5 file; pipes and folders are refused, since opening a pipe would block.

    Raises:
        _DamagedError: if it is not a regular file.
        InputError: if the content of ``group`` refers to data outside the file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise _DamagedError("it is not a regular file")
    with h5py.File(path, "r") as file:
        refuse_outside(file, path, group)
        yield file


def _unreadable(path: Path, error: BaseException) -> InputError:
    """Error for a shard: a damaged shard can be prepared again, a shard that cannot be read now must stay."""
    if _is_content(error):
        return InputError(f"{path}: damaged shard ({one_line(error)}); move it away and run 'medrecon prep' again")
    number = getattr(error, "errno", None)
    reason = os.strerror(number) if number is not None else one_line(error)
    return InputError(f"{path}: cannot be read now ({reason}), but may not be damaged; fix this and run again")


def _files(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Files whose names match the pattern."""
    return sorted(path for path in folder.glob("*.h5") if pattern.fullmatch(path.name))


def check_staged(destination: Path) -> None:
    """Remove staged cases of an earlier run whose content is damaged, so that they are prepared again.

    Files that cannot be read for another reason stay.

    Raises:
        InputError: if a file cannot be read now.
    """
    for path in _files(destination / ".staged", _STAGED):
        try:
            with _open_shard(path) as file:
                for name, about in _row(file)["arrays"].items():
                    _array(file, name, about.get("sha256"))
        except DAMAGE as error:
            _remove_damaged(path, error)


def _remove_damaged(path: Path, error: BaseException) -> None:
    """Remove a staged file whose content is damaged.

    Raises:
        InputError: if the error has another cause than its content.
    """
    if not _is_content(error):
        raise _unreadable(path, error) from error
    if path.is_file():
        path.unlink(missing_ok=True)


def read_rows(destination: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows of cases in shards, and rows of staged cases, by name; remove leftovers of a killed run.

    Files with other names than those of shards and staged cases are ignored.

    Raises:
        InputError: if a shard cannot be read.
    """
    for folder in (destination, destination / "shards", destination / ".staged"):
        recover(folder)
    packed: dict[str, dict[str, Any]] = {}
    for path in _files(destination / "shards", _SHARD):
        try:
            with _open_shard(path) as file:
                for group in file.values():
                    row = _row(group)
                    packed[row["case"]] = {**row, "shard": f"shards/{path.name}"}
        except DAMAGE as error:
            raise _unreadable(path, error) from error
    staged: dict[str, dict[str, Any]] = {}
    for path in _files(destination / ".staged", _STAGED):
        try:
            with _open_shard(path) as file:
                row = _row(file)
        except DAMAGE as error:
            _remove_damaged(path, error)
            continue
        if row["case"] in packed:  # the run was killed after it had written the shard
            path.unlink(missing_ok=True)
        elif staged_path(destination, row["case"]) == path:
            staged[row["case"]] = row
    return packed, staged


def pack(destination: Path, staged: Mapping[str, Mapping[str, Any]], limit: int) -> None:
    """Move staged cases into new shards of about ``limit`` bytes, for each split, sorted by name."""
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
                    with _open_shard(staged_path(destination, case)) as file:
                        file.copy(file["/"], shard, name=group_of(case))
            for case in taken:
                staged_path(destination, case).unlink()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, atomically."""
    write_atomically({path: "".join(json.dumps(row) + "\n" for row in rows).encode()}, overwrite=True)


def load_manifest(destination: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Rows of a manifest, with the path of the shard as ``prepared``; they are items for MONAI's data sets.

    Args:
        destination: folder that ``medrecon prep`` wrote.
        split: only the cases of this split, e.g. ``train``.

    Raises:
        InputError: if there is no manifest, or no case in the split.
    """
    destination = Path(destination)
    path = destination / "manifest.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not all(isinstance(row, dict) and row.keys() >= _KEYS for row in rows):
            raise ValueError("a row does not describe a case")
    except OSError as error:
        raise InputError(f"{path}: no manifest; run 'medrecon prep' to its end first") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged manifest ({error}); run 'medrecon prep' again") from error
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise InputError(f"{path}: holds no case{'' if split is None else f' of split {split!r}'}")
    unverified = sum(any("sha256" not in about for about in row.get("arrays", {}).values()) for row in rows)
    if unverified:
        warn(
            f"{path}: {unverified} of {len(rows)} cases were prepared by a version without checksums and cannot be verified"
        )
    return [{**row, "prepared": str(destination / row["shard"])} for row in rows]


class LoadPreparedd(MapTransform):
    """Load arrays of items of :func:`load_manifest` as ``MetaTensor`` with their affine, and numbers as plain tensors.

    Args:
        keys: names of the arrays, from the recipe's ``write`` and ``optional``.
        allow_missing_keys: whether to skip keys that a case lacks.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load and verify the arrays; of the item, ``case``, ``subject`` and ``split`` are kept.

        Raises:
            InputError: if the shard is damaged or cannot be read, or the case lacks an array.
        """
        out: dict[Hashable, Any] = {key: data[key] for key in ("case", "subject", "split")}
        path = Path(data["prepared"])
        try:
            with _open_shard(path, group_of(data["case"])) as file:
                group = file.get(group_of(data["case"]))
                if not isinstance(group, h5py.Group):
                    raise _DamagedError(f"case {data['case']} is missing")
                written = _row(group)["arrays"]
                for key in self.keys:
                    if key not in data["arrays"]:
                        if self.allow_missing_keys:
                            continue
                        raise InputError(f"{data['case']}: has no array {key!r}; it has {', '.join(data['arrays'])}")
                    about = data["arrays"][key]
                    if json.dumps(about) != json.dumps(written.get(key)):
                        raise InputError(
                            f"{path}: its description of {key!r} of {data['case']} differs from the manifest; run "
                            "'medrecon prep' again, which writes the manifest from the shards"
                        )
                    out[key] = _tensor(_array(group, str(key), about.get("sha256")), about, data["case"])
        except InputError:
            raise
        except DAMAGE as error:
            raise _unreadable(path, error) from error
        return out


def _tensor(value: np.ndarray, about: Mapping[str, Any], case: str) -> torch.Tensor:
    """A ``MetaTensor`` with its affine, or a plain tensor if ``value`` is a number."""
    tensor = torch.as_tensor(value)
    if not tensor.ndim:
        return tensor
    z, y, x = about.get("spacing_mm") or (1.0, 1.0, 1.0)
    known = {"affine_known": bool(about.get("affine_known")), "spacing_known": bool(about.get("spacing_mm"))}
    affine = np.array(about["affine"], float) if known["affine_known"] else np.diag([x, y, z, 1.0])
    meta = {"filename_or_obj": case, "spacing": np.array([z, y, x]), **known, **about.get("meta", {})}
    return MetaTensor(tensor, affine=torch.from_numpy(affine), meta=meta)
