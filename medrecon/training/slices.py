"""Two-dimensional training slices kept in ``npz`` archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, one_line
from medrecon.formats.arrays import numpy_arrays

__all__ = ["load_slices", "sampling_weights", "share", "subject_weights"]


def load_slices(
    paths: str | Path | Sequence[str | Path],
    select: Mapping[str, Sequence] | None = None,
    exclude: Mapping[str, Sequence] | None = None,
) -> list[dict[str, Any]]:
    """Read magnitude or CT slices as a list of dictionaries for a MONAI dataset.

    Every archive holds ``img`` ``(n, y, x)`` of integers and any per-row keys (``subject``, ``contrast``, ``stripped``,
    ``licence`` ...), which are carried over, with ``archive``, the name of the file. Of several archives the keys that all have
    are carried over, since rows are put together into batches.

    Args:
        paths: one archive or several.
        select: keep only rows whose key is one of the values, e.g. ``{"subject": ["omsL_12"]}``.
        exclude: drop rows whose key is one of the values.

    Returns:
        dictionaries with ``image`` ``(1, y, x)``, uint8 or int16.

    Raises:
        InputError: naming the archive that is missing or not of this kind, or the key that it lacks.
    """
    rows: list[dict[str, Any]] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; it should be an npz archive of training slices")
        try:
            data, _ = numpy_arrays(Path(path), None, "biufcUS")
            images = data.pop("img")
            if images.ndim != 3 or images.dtype.kind not in "ui" or images.max(initial=0) > 32767:
                raise ValueError(f"img is {images.dtype} of shape {images.shape}, or exceeds 32767")
            for key, values in data.items():
                if values.shape != (len(images),):
                    raise ValueError(f"{key} has shape {values.shape} for {len(images)} slices")
        except Exception as error:
            raise InputError(
                f"{path}: not an npz archive with integer 'img' (n, y, x) and one value a slice ({one_line(error)})"
            ) from error
        if images.dtype != np.uint8:
            images = images.astype(np.int16)  # torch has few operations for uint16
        keep = np.ones(len(images), dtype=bool)
        for wanted, choice in ((True, select), (False, exclude)):
            for key, values in (choice or {}).items():
                if key not in data:
                    raise InputError(f"{path}: has no key {key!r} to select rows by; it has {', '.join(data)}")
                keep &= np.isin(data[key], list(values)) == wanted
        rows += [
            {
                "image": images[i][None],
                **{key: values[i].item() for key, values in data.items()},
                "archive": Path(path).stem,
            }
            for i in np.flatnonzero(keep)
        ]
    common = set.intersection(*map(set, rows)) if rows else set()
    return [{key: value for key, value in row.items() if key in common} for row in rows]


def sampling_weights(rows: Sequence[Mapping], shares: Mapping[str, Mapping]) -> list[float]:
    """One weight a row: for every key, rows with ``row[key] == value`` are drawn with probability ``shares[key][value]``.

    Several keys are met at once by raking (iterative proportional fitting, Deming and Stephan 1940).

    Raises:
        ValueError: if a key is missing, a value of it has no share, or the shares cannot be met together.
    """
    codes, wanted = [], []
    for key, parts in shares.items():
        if any(key not in row for row in rows):
            raise ValueError(f"not all archives have a key {key!r}, for which shares are given")
        values = [row[key] for row in rows]
        missing = set(values) - set(parts)
        if missing:
            raise ValueError(f"no share given for {key} = {', '.join(sorted(map(str, missing)))}")
        present = [value for value in parts if value in set(values)]
        target = np.array([parts[value] for value in present], dtype=float)
        codes.append(np.array([present.index(value) for value in values]))
        wanted.append(target / target.sum())
    weights = np.full(len(rows), 1 / len(rows))
    for _ in range(200):
        for code, target in zip(codes, wanted, strict=True):
            weights *= (target / np.bincount(code, weights, len(target)))[code]
    for key, code, target in zip(shares, codes, wanted, strict=True):
        if not np.allclose(np.bincount(code, weights, len(target)), target, atol=1e-3):
            raise ValueError(f"the shares of {key} cannot be met together with the others")
    return weights.tolist()


def subject_weights(rows: Sequence[Mapping], key: str = "subject", power: float = 0.5) -> list[float]:
    """One weight a row, so that a subject of ``n`` rows is drawn in proportion to ``n ** power``, one row like another.

    0 treats subjects alike, 1 rows; in between, a large series neither rules the training nor is thrown away.
    """
    counts = Counter(row[key] for row in rows)
    total = sum(n**power for n in counts.values())
    return [counts[row[key]] ** (power - 1) / total for row in rows]


def share(rows: list[dict[str, Any]], rank: int = 0, processes: int = 1) -> list[dict[str, Any]]:
    """Every ``processes``-th row from ``rank`` on: the part of one process.

    Raises:
        InputError: if a process would get none; it would leave the others waiting.
    """
    if len(rows) < processes:
        raise InputError(
            f"{len(rows)} slices to validate on are too few for {processes} processes; choose other val_subjects"
        )
    return rows[rank::processes]
