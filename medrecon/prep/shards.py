"""Cases in HDF5: staged one by one, then packed into shards; every file appears whole, and tells what it holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medrecon.data.errors import InputError

__all__ = ["LoadPreparedd", "pack", "prepared", "read_rows", "stage", "staged_path", "write_lines"]


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


def stage(path: Path, arrays: Mapping[str, np.ndarray], row: Mapping[str, Any], compression: str | None = None) -> None:
    """Write one case, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                packed = compression if np.ndim(array) else None
                file.create_dataset(name, data=array, compression=packed)
            file.attrs["row"] = json.dumps(row)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(group: h5py.Group) -> dict[str, Any]:
    return json.loads(group.attrs["row"])


def read_rows(destination: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The rows of cases in shards, and of those staged; leftovers of a killed run are removed.

    Raises:
        InputError: for a shard that cannot be read.
    """
    packed: dict[str, dict[str, Any]] = {}
    for path in sorted(destination.glob("shards/*.h5")):
        try:
            with h5py.File(path, "r") as file:
                for group in file.values():
                    row = _row(group)
                    packed[row["case"]] = {**row, "shard": f"shards/{path.name}"}
        except (OSError, RuntimeError, LookupError, ValueError) as error:
            raise InputError(f"{path}: damaged shard ({error}); delete it and run again") from error
    staged: dict[str, dict[str, Any]] = {}
    for path in (destination / ".staged").glob("*"):
        if path.suffix == ".part":
            path.unlink(missing_ok=True)
            continue
        try:
            with h5py.File(path, "r") as file:
                row = _row(file)
        except (OSError, RuntimeError, LookupError, ValueError):
            path.unlink(missing_ok=True)  # not ours, or of a machine that lost power
            continue
        if row["case"] in packed:  # killed after a shard was renamed
            path.unlink(missing_ok=True)
        else:
            staged[row["case"]] = row
    for path in (destination / "shards").glob(".*.part"):
        path.unlink(missing_ok=True)
    return packed, staged


def pack(destination: Path, staged: Mapping[str, Mapping[str, Any]], limit: int) -> None:
    """Move staged cases into new shards of about ``limit`` bytes, split by split, in the order of their names."""
    (destination / "shards").mkdir(exist_ok=True)
    for split in sorted({str(row["split"]) for row in staged.values()}):
        waiting = sorted(case for case, row in staged.items() if row["split"] == split)
        while waiting:
            taken, size = [], 0
            while waiting and (not taken or size < limit):
                taken.append(waiting.pop(0))
                size += staged_path(destination, taken[-1]).stat().st_size
            numbers = [int(p.stem.rpartition("-")[2]) for p in (destination / "shards").glob(f"{split}-*.h5")]
            path = destination / "shards" / f"{split}-{max(numbers, default=-1) + 1:05d}.h5"
            temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
            with h5py.File(temporary, "w") as shard:
                for case in taken:
                    with h5py.File(staged_path(destination, case), "r") as file:
                        file.copy(file["/"], shard, name=group_of(case))
            os.replace(temporary, path)
            for case in taken:
                staged_path(destination, case).unlink()


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON, a row a line, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    except OSError as error:
        raise InputError(f"{path}: no manifest; run 'medrecon prep' first, to its end") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged manifest ({error}); run 'medrecon prep' again") from error
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise InputError(f"{path}: holds no case{'' if split is None else f' of split {split!r}'}")
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
        """The rows' case, subject and split stay; the rest of the row is replaced by the arrays."""
        out: dict[Hashable, Any] = {key: data[key] for key in ("case", "subject", "split")}
        with h5py.File(data["prepared"], "r") as file:
            group = file[group_of(data["case"])]
            for key in self.keys:
                if key not in group:
                    if self.allow_missing_keys:
                        continue
                    raise InputError(f"{data['case']}: holds no {key!r}; it holds {', '.join(group)}")
                value = group[key][()]  # type: ignore[index]
                tensor = torch.as_tensor(value)
                about = data["arrays"][key]
                if tensor.ndim:  # of numbers there is nothing more to tell
                    z, y, x = about.get("spacing_mm") or (1.0, 1.0, 1.0)
                    known = {
                        "affine_known": bool(about.get("affine_known")),
                        "spacing_known": bool(about.get("spacing_mm")),
                    }
                    affine = np.array(about["affine"], float) if known["affine_known"] else np.diag([x, y, z, 1.0])
                    meta = {
                        "filename_or_obj": data["case"],
                        "spacing": np.array([z, y, x]),
                        **known,
                        **about.get("meta", {}),
                    }
                    tensor = MetaTensor(tensor, affine=torch.from_numpy(affine), meta=meta)
                out[key] = tensor
        return out
