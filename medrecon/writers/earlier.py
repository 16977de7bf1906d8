"""What an earlier run left under the same name: only files that its sidecar lists and that have not changed since."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medrecon.data.errors import warn
from medrecon.data.files import has_sha256, sha256
from medrecon.writers.bids import bids_files
from medrecon.writers.registry import WRITERS, all_parts

if TYPE_CHECKING:
    from medrecon.writers.output import Output

__all__ = ["earlier_files", "is_finished", "owner"]

_LARGEST = 1 << 26


class _Listed(NamedTuple):
    """Images that a sidecar lists, the SHA-256 of those that version 0.3 or later wrote, and that of what they were made of."""

    files: list[str]
    digests: dict[str, str]
    request: str | None = None


def _listed(sidecar: Path) -> _Listed:
    """Its images; none if it is not a sidecar of this package."""
    try:
        if sidecar.is_symlink() or not sidecar.is_file() or sidecar.stat().st_size > _LARGEST:
            return _Listed([], {})
        held = json.loads(sidecar.read_bytes())
        files = [name for name in held["files"] if isinstance(name, str)]
        digests = held.get("sha256", {})
        digests = {name: digests[name] for name in files if isinstance(digests.get(name), str)}
        return _Listed(files, digests, held.get("request_sha256"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return _Listed([], {})


def is_finished(output: Output) -> bool:
    """Whether the images of an output are there, unchanged, and were made of the same request."""
    folder = Path(output.folder)
    held = _listed(folder / f"{output.stem}.json")
    same = output.request is not None and held.request == output.request
    return bool(same and held.files) and all(
        has_sha256(folder / name, held.digests.get(name, "")) for name in held.files
    )


def _endings() -> list[str]:
    """What follows a stem in names of this package, as regular expressions."""
    return [ending for writer in WRITERS.values() for ending in writer.endings]


def owner(output: Output, path: Path) -> Path | None:
    """The sidecar of another stem that lists ``path``: slice 1 of ``P1`` is called like the scan ``P1_001``."""
    folder = Path(output.folder)
    name = path.relative_to(folder).as_posix()
    for ending in _endings():
        match = re.fullmatch(rf"(.+){ending}", name, re.DOTALL)
        if match is not None and match[1] != output.stem and name in _listed(folder / f"{match[1]}.json").files:
            return folder / f"{match[1]}.json"
    return None


def _names(output: Output) -> tuple[list[Path], Callable[[str], object]]:
    """Sidecars that an earlier run with this stem (or BIDS name) can have left, and whether a name is one of its images."""
    folder = Path(output.folder)
    if output.bids is None:
        pattern = re.compile(rf"{re.escape(output.stem)}(?:{'|'.join(_endings())})")
        return [folder / f"{output.stem}.json"], pattern.fullmatch
    runs = [bids_files(output.bids, output.label, True, part) for part in all_parts()]
    known = {name for files in runs for name in files[:-1]}
    return [folder / files[-1] for files in runs], known.__contains__


def earlier_files(output: Output, paths: Iterable[Path]) -> dict[Path, str]:
    """Files of an earlier run with this stem, in any format, that the new run does not replace, with their SHA-256.

    A sidecar counts only for names that this package gives to the stem, so a forged one, or that of another scan, removes
    nothing else. Files that have changed since, or were written without checksums (version 0.2), stay, with a warning.

    Args:
        output: of the new run.
        paths: its files.
    """
    folder, paths = Path(output.folder), set(paths)
    sidecars, known = _names(output)
    found: dict[Path, str] = {}
    for sidecar in sidecars:
        files, digests, _ = _listed(sidecar)
        left = False
        for name in filter(known, files):
            path = folder / name
            if path in paths or not os.path.lexists(path):
                continue
            if name not in digests:
                warn(
                    f"{path}: stays, since {sidecar.name} was written without checksums; remove it if it is not needed"
                )
            elif not has_sha256(path, digests[name]):
                warn(f"{path}: stays, since it is not what {sidecar.name} describes; remove it if it is not needed")
            else:
                found[path] = digests[name]
                continue
            left = True
        if files and sidecar not in paths and not left:
            found[sidecar] = sha256(sidecar)
    return found
