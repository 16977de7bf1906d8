"""Files of an earlier run with the same name: only files that its sidecar lists and that have not changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medrecon.data.errors import warn
from medrecon.data.files import has_sha256, read_sidecar, sha256
from medrecon.writers.base import MAP_NAMES
from medrecon.writers.bids import bids_files
from medrecon.writers.registry import WRITERS, all_parts

if TYPE_CHECKING:
    from medrecon.writers.output import Output

__all__ = ["earlier_files", "is_finished", "other_sidecar"]


class _Listed(NamedTuple):
    """Images that a sidecar lists.

    Args:
        files: their names.
        digests: SHA-256 of the images that version 0.3 or later wrote.
        request: SHA-256 of the options and inputs.
    """

    files: list[str]
    digests: dict[str, str]
    request: str | None = None


def _listed(sidecar: Path) -> _Listed:
    """Images that a sidecar lists; none if this package did not write it."""
    record = None if sidecar.is_symlink() else read_sidecar(sidecar)
    if record is None:
        return _Listed([], {})
    files = [name for name in record["files"] if isinstance(name, str)]
    digests = record.get("sha256")
    digests = digests if isinstance(digests, dict) else {}
    digests = {name: digests[name] for name in files if isinstance(digests.get(name), str)}
    return _Listed(files, digests, record.get("request_sha256"))


def is_finished(output: Output) -> bool:
    """Whether the images of an output, and the page if one is requested, exist unchanged, of the same options and inputs."""
    folder = Path(output.folder)
    images = _listed(folder / f"{output.stem}.json")
    if not images.files or output.request is None or images.request != output.request:
        return False
    if output.report and f"{output.stem}.html" not in images.files:
        return False
    return all(has_sha256(folder / name, images.digests.get(name, "")) for name in images.files)


def _endings() -> list[str]:
    """Regular expressions of the text after the stem in all file names of this package."""
    return [r"\.html", *(ending for writer in WRITERS.values() for ending in writer.endings)]


def other_sidecar(output: Output, path: Path) -> Path | None:
    """The sidecar of another stem that lists ``path``: slice 1 of ``P1`` has the same name as the scan ``P1_001``.

    So has a map of ``P1`` and the scan ``P1_std``. Every ending is tried, since ``_spread`` also ends ``_null_spread``.
    """
    folder = Path(output.folder)
    name = path.relative_to(folder).as_posix()
    for ending in _endings():
        match = re.fullmatch(rf"(.+){ending}", name, re.DOTALL)
        if match is not None and match[1] != output.stem and name in _listed(folder / f"{match[1]}.json").files:
            return folder / f"{match[1]}.json"
    return None


def _names(output: Output) -> tuple[list[Path], Callable[[str], object]]:
    """Possible sidecars of an earlier run with this stem (or BIDS name), and a test for names of its images."""
    folder = Path(output.folder)
    if output.bids is None:
        pattern = re.compile(rf"{re.escape(output.stem)}(?:{'|'.join(_endings())})")
        return [folder / f"{output.stem}.json"], pattern.fullmatch
    runs = [bids_files(output.bids, output.label, samples=True, part=part, maps=MAP_NAMES) for part in all_parts()]
    known = {name for files in runs for name in (*files[:-1], files[-1].removesuffix(".json") + ".html")}
    return [folder / files[-1] for files in runs], known.__contains__


def earlier_files(output: Output, paths: Iterable[Path]) -> dict[Path, str]:
    """Files of an earlier run with this stem, in any format, that the new run does not replace, and their SHA-256.

    A sidecar counts only for names that this package gives to the stem, so a forged sidecar, or the sidecar of another scan,
    cannot remove other files. Files that have changed, or were written without checksums (version 0.2), stay with a warning.

    Args:
        output: output of the new run.
        paths: files of the new run.
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
                    f"{path}: was kept, since {sidecar.name} was written without checksums; remove it if it is not needed"
                )
            elif not has_sha256(path, digests[name]):
                warn(
                    f"{path}: was kept, since it differs from what {sidecar.name} describes; remove it if it is not needed"
                )
            else:
                found[path] = digests[name]
                continue
            left = True
        if files and sidecar not in paths and not left:
            found[sidecar] = sha256(sidecar)
    return found
