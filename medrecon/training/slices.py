"""Two-dimensional training slices in ``npz`` archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, one_line
from medrecon.formats.arrays import numpy_arrays

__all__ = ["load_slices", "rows_of_process", "sampling_weights", "subject_weights"]


def load_slices(
    paths: str | Path | Sequence[str | Path],
    select: Mapping[str, Sequence] | None = None,
    exclude: Mapping[str, Sequence] | None = None,
) -> list[dict[str, Any]]:
    """Read magnitude or CT slices as a list of dictionaries for a MONAI dataset.

    Every archive has ``img`` ``(n, y, x)`` of integers, and keys with one value per slice (``subject``, ``contrast``,
    ``stripped``, ``licence`` ...), which are copied to the rows, with ``archive``, the name of the file. With several archives
    only their common keys are copied, since rows are collated into batches.

    Args:
        paths: one archive or several.
        select: values of a key to select rows, e.g. ``{"subject": ["omsL_12"]}``.
        exclude: values of a key to exclude rows.

    Returns:
        dictionaries with ``image`` ``(1, y, x)``, uint8 or int16.

    Raises:
        InputError: naming the archive that is missing or has another content, or the missing key.
    """
    rows: list[dict[str, Any]] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file; give an npz archive of training slices")
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
                f"{path}: not an npz archive with integer 'img' (n, y, x) and one value per slice ({one_line(error)})"
            ) from error
        if images.dtype != np.uint8:
            images = images.astype(np.int16)  # torch has few operations for uint16
        kept = np.ones(len(images), dtype=bool)
        for keep_matches, choice in ((True, select), (False, exclude)):
            for key, values in (choice or {}).items():
                if key not in data:
                    raise InputError(f"{path}: has no key {key!r} to select rows by; it has {', '.join(data)}")
                kept &= np.isin(data[key], list(values)) == keep_matches
        rows += [
            {
                "image": images[i][None],
                **{key: values[i].item() for key, values in data.items()},
                "archive": Path(path).stem,
            }
            for i in np.flatnonzero(kept)
        ]
    common = set.intersection(*map(set, rows)) if rows else set()
    return [{key: value for key, value in row.items() if key in common} for row in rows]


def sampling_weights(rows: Sequence[Mapping], fractions: Mapping[str, Mapping]) -> list[float]:
    """Weights of rows so that rows with ``row[key] == value`` are drawn with probability ``fractions[key][value]``.

    Several keys are satisfied together by raking (iterative proportional fitting, Deming and Stephan 1940).

    Raises:
        ValueError: if a key is missing, a value of a key has no fraction, or the fractions cannot be satisfied together.
    """
    codes, targets = [], []
    for key, parts in fractions.items():
        if any(key not in row for row in rows):
            raise ValueError(f"not all archives have the key {key!r}, for which fractions are given")
        values = [row[key] for row in rows]
        missing = set(values) - set(parts)
        if missing:
            raise ValueError(f"no fraction given for {key} = {', '.join(sorted(map(str, missing)))}")
        present = [value for value in parts if value in set(values)]
        target = np.array([parts[value] for value in present], dtype=float)
        codes.append(np.array([present.index(value) for value in values]))
        targets.append(target / target.sum())
    weights = np.full(len(rows), 1 / len(rows))
    for _ in range(200):
        for code, target in zip(codes, targets, strict=True):
            weights *= (target / np.bincount(code, weights, len(target)))[code]
    for key, code, target in zip(fractions, codes, targets, strict=True):
        if not np.allclose(np.bincount(code, weights, len(target)), target, atol=1e-3):
            raise ValueError(f"the fractions of {key} cannot be satisfied together with the others")
    return weights.tolist()


def subject_weights(rows: Sequence[Mapping], key: str = "subject", power: float = 0.5) -> list[float]:
    """Weights of rows so that a subject with ``n`` rows is drawn in proportion to ``n ** power``.

    With 0 subjects are equally likely, with 1 rows; in between, a large series neither dominates the training nor is lost.
    """
    counts = Counter(row[key] for row in rows)
    total = sum(n**power for n in counts.values())
    return [counts[row[key]] ** (power - 1) / total for row in rows]


def rows_of_process(rows: list[dict[str, Any]], rank: int = 0, processes: int = 1) -> list[dict[str, Any]]:
    """The rows of one process: every ``processes``-th row, starting with number ``rank``.

    Raises:
        InputError: if there are fewer rows than processes; a process without rows would leave the others waiting.
    """
    if len(rows) < processes:
        raise InputError(
            f"{len(rows)} slices to validate on are too few for {processes} processes; choose other val_subjects"
        )
    return rows[rank::processes]
