"""What an earlier run left under the same name: only what its sidecar lists, and still is as it was written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from medrecon.data.errors import warn
from medrecon.data.files import holds, sha256
from medrecon.writers.bids import bids_files

__all__ = ["earlier_files", "owner"]

_ENDS = (
    r"\.(?:h5|mrd|png|nii\.gz)", r"_\d{3,}\.png", r"_(?:samples|part-mag|part-phase)\.nii\.gz", r"_spread\.dcm", r"/\d{4,}\.dcm",
)  # fmt: skip
"""What follows a stem in the names that :func:`medrecon.writers.output_paths` gives."""
_LARGEST = 1 << 26


class _Listed(NamedTuple):
    """Images that a sidecar lists, and the SHA-256 of those that version 0.3 or later wrote."""

    files: list[str]
    digests: dict[str, str]


def _listed(sidecar: Path) -> _Listed:
    """Nothing, unless it is a sidecar of this package."""
    try:
        if sidecar.is_symlink() or not sidecar.is_file() or sidecar.stat().st_size > _LARGEST:
            return _Listed([], {})
        held = json.loads(sidecar.read_bytes())
        files = [name for name in held["files"] if isinstance(name, str)]
        digests = held.get("sha256", {})
        return _Listed(files, {name: digests[name] for name in files if isinstance(digests.get(name), str)})
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return _Listed([], {})


def owner(folder: Path, stem: str, path: Path) -> Path | None:
    """The sidecar of another name than ``stem`` that lists ``path``: slice 1 of ``P1`` is called like the scan ``P1_001``."""
    name = path.relative_to(folder).as_posix()
    for end in _ENDS:
        match = re.fullmatch(rf"(.+){end}", name, re.DOTALL)
        if match is not None and match[1] != stem and name in _listed(folder / f"{match[1]}.json").files:
            return folder / f"{match[1]}.json"
    return None


def earlier_files(
    folder: Path,
    stem: str,
    paths: Iterable[Path],
    bids: str | None = None,
    label: str = "medrecon",
    parts: Sequence[str] = (),
) -> dict[Path, str]:
    """Files of an earlier run of this name, in any format, that the new run does not replace, with their SHA-256.

    A sidecar counts for names that this package gives to ``stem``, so a forged one, or that of another scan, removes nothing
    else. Files that have changed since, or were written without checksums (version 0.2), stay, with a warning.

    Args:
        folder: of the outputs.
        stem: name of the files without suffix.
        paths: files of the new run.
        bids: name of BIDS derivatives instead of ``stem``.
        label: BIDS' ``rec-`` entity.
        parts: those that BIDS names may have.
    """
    paths = set(paths)
    if bids is None:
        sidecars = [folder / f"{stem}.json"]
        pattern = re.compile(rf"{re.escape(stem)}(?:{'|'.join(_ENDS)})")
        known: Callable[[str], object] = pattern.fullmatch
    else:
        sidecars = [folder / bids_files(bids, label, False, part)[-1] for part in parts]
        known = {name for part in parts for name in bids_files(bids, label, True, part)[:-1]}.__contains__
    found: dict[Path, str] = {}
    for sidecar in sidecars:
        files, digests = _listed(sidecar)
        left = False
        for name in filter(known, files):
            path = folder / name
            if path in paths or not os.path.lexists(path):
                continue
            if name not in digests:
                warn(
                    f"{path}: stays, since {sidecar.name} was written without checksums; remove it if it is not needed"
                )
            elif not holds(path, digests[name]):
                warn(f"{path}: stays, since it is not what {sidecar.name} describes; remove it if it is not needed")
            else:
                found[path] = digests[name]
                continue
            left = True
        if files and sidecar not in paths and not left:
            found[sidecar] = sha256(sidecar)
    return found
