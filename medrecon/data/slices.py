"""Two-dimensional training slices kept in ``npz`` archives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["load_slices", "sampling_weights"]


def load_slices(
    paths: str | Path | Sequence[str | Path], select: Mapping[str, Sequence] | None = None
) -> list[dict[str, np.ndarray | str | int]]:
    """Read magnitude slices as a list of dictionaries for a MONAI dataset.

    Every archive holds ``img`` ``(n, y, x)`` uint8 where 200 is the volume's 99.5th percentile (image unit 1.0), and
    per-row keys; ``subject``, ``contrast`` and ``stripped`` (skull-stripped: 1) are carried over, with ``archive``,
    the name of the file.

    Args:
        paths: one archive or several.
        select: keep only rows whose key is one of the values, e.g. ``{"subject": ["omsL_12"]}``.

    Returns:
        dictionaries with ``image`` ``(1, y, x)`` uint8.

    Raises:
        FileNotFoundError: naming the archive that is missing.
    """
    rows = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; it should be an npz archive of training slices")
        with np.load(path) as archive:
            data = {key: archive[key] for key in ("img", "subject", "contrast", "stripped")}
        keep = np.ones(len(data["img"]), dtype=bool)
        for key, values in (select or {}).items():
            keep &= np.isin(data[key], values)
        rows += [
            {
                "image": data["img"][i][None],
                "subject": str(data["subject"][i]),
                "contrast": str(data["contrast"][i]),
                "stripped": int(data["stripped"][i]),
                "archive": Path(path).stem,
            }
            for i in np.flatnonzero(keep)
        ]
    return rows


def sampling_weights(rows: Sequence[Mapping], key: str, shares: Mapping) -> list[float]:
    """One weight a row so that the rows with ``row[key] == value`` are drawn with probability ``shares[value]``.

    Raises:
        ValueError: if a value of ``key`` has no share.
    """
    counts: dict = {}
    for row in rows:
        counts[row[key]] = counts.get(row[key], 0) + 1
    missing = set(counts) - set(shares)
    if missing:
        raise ValueError(f"no share given for {key} = {', '.join(sorted(map(str, missing)))}")
    total = sum(shares[value] for value in counts)
    return [shares[row[key]] / total / counts[row[key]] for row in rows]
