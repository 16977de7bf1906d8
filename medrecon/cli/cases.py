"""Scans in files and folders: which there are, what their images are called, and which were reconstructed before."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError
from medrecon.data.files import sha256

__all__ = ["Case", "CaseReport", "check_names", "digest_of", "find_cases", "named", "several_cases"]


def files_of(path: Path) -> list[Path]:
    """All regular files that are read from a path, in a fixed order: of a folder, and of a BART pair, several."""
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    beside = [path.with_suffix(end) for end in (".hdr", ".HDR") if path.suffix.lower() == ".cfl"]
    return [one for one in (path, *beside) if one.is_file()]  # a pipe would block


@dataclass(frozen=True)
class Case:
    """A scan to reconstruct.

    Args:
        path: of its file, or of the folder of its DICOM files.
        stem: of the names of its images, without what ``--name`` adds.
        folder: name of the folder that it was found in.
        select: which of several series of the folder.
    """

    path: Path
    stem: str
    folder: str = ""
    select: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CaseReport:
    """How a case went: a row of ``run.json``.

    Args:
        path: of the scan.
        name: of its images.
        status: ``done``, ``finished before`` or ``failed``.
        facts: files, seconds, warnings, or the error.
    """

    path: Path
    name: str
    status: str
    facts: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As JSON, with names of files alone: folders may name patients."""
        facts = dict(self.facts)
        if "error" in facts:
            for folder in (self.path.parent, self.path.resolve().parent):
                facts["error"] = facts["error"].replace(f"{folder}{os.sep}", "")
        if "files" in facts:
            facts["files"] = [Path(file).name for file in facts["files"]]
        return {"input": self.path.name, "name": self.name, "status": self.status, **facts}


def _suffixes() -> tuple[str, ...]:
    from medrecon.formats import FORMATS

    return tuple({suffix for one in FORMATS for suffix in one.SUFFIXES if suffix})


def _stem(path: Path) -> str:
    """The file's name without the suffix of its format; of a folder its name."""
    if path.is_dir():
        return path.resolve().name
    for suffix in sorted(_suffixes(), key=len, reverse=True):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def several_cases(inputs: Sequence[str], select: Mapping[str, Any], output: Path) -> list[Case] | None:
    """The scans of :func:`find_cases`; ``None`` where one is asked for: one file, or a folder of which one DICOM series is read.

    Raises:
        InputError: see :func:`find_cases`.
    """
    from medrecon.formats import dicom, format_of

    if len(inputs) == 1:
        path = Path(inputs[0])
        if not path.is_dir() or (select and format_of(path) is dicom):
            return None
    cases = find_cases(inputs, select, output)
    return None if len(inputs) == 1 and len(cases) == 1 and cases[0].path.is_dir() else cases


def find_cases(inputs: Sequence[str], select: Mapping[str, Any], output: Path) -> list[Case]:
    """The scans of files and folders, in the order of their names.

    Of a folder, and of those below it, every file whose content or suffix is that of a known format is one, and every series of
    DICOM files; hidden ones, ``output``, and everything else are passed over.

    Args:
        inputs: files and folders.
        select: which of several, for all of them.
        output: folder of the images.

    Raises:
        InputError: for what does not exist, and where there is nothing to reconstruct.
    """
    cases: list[Case] = []
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            if not path.exists() and not path.with_name(f"{path.name}.cfl").is_file():
                raise InputError(f"{path}: no such file or folder; check the path")
            cases.append(Case(path=path, stem=_stem(path), folder=path.resolve().parent.name, select=dict(select)))
            continue
        found = list(_below(path, output))
        if not found:
            raise InputError(f"{path}: holds no scan of a known format; see 'medrecon info FILE' for one of its files")
        cases += [
            Case(path=one.path, stem=one.stem, folder=one.folder, select={**one.select, **select}) for one in found
        ]
    same = {case.path.resolve(): case for case in reversed(cases) if not case.select}
    return [case for case in cases if case.select or same[case.path.resolve()] is case]


def _below(folder: Path, output: Path | None) -> Iterator[Case]:
    """The scans in a folder and those below it."""
    from medrecon.formats import dicom, format_of

    known = _suffixes()
    avoided = None if output is None else output.resolve()
    for at, folders, names in os.walk(folder):
        here = Path(at)
        folders[:] = sorted(one for one in folders if one[0] != "." and (here / one).resolve() != avoided)
        images = []
        for name in sorted(names):
            path = here / name
            if name[0] == "." or not path.is_file():
                continue
            found = format_of(path)
            if found is dicom:
                images.append(path)
            elif path.suffix.lower() == ".hdr" or (found is None and not name.lower().endswith(known)):
                continue  # of a pair, or nothing of ours
            else:
                yield Case(path, _stem(path), here.resolve().name)
        if images:
            yield from _series(here, images)


def _series(folder: Path, images: Sequence[Path]) -> Iterator[Case]:
    """The DICOM series in a folder."""
    from medrecon.formats.dicom import find_series

    name = folder.resolve().name
    try:
        series = find_series(images)
    except InputError:  # said when it is read
        series = {}
    if len(series) < 2:
        yield Case(folder, name, folder.resolve().parent.name)
        return
    for uid, held in series.items():
        number = str(held[0][1].get("SeriesNumber") or "")
        stem = f"{name}_{number}" if number.isdigit() else f"{name}_{uid.rpartition('.')[2]}"
        yield Case(path=folder, stem=stem, folder=folder.resolve().parent.name, select={"SeriesInstanceUID": uid})


def named(template: str, case: Case, **fields: str) -> str:
    """The stem of a case's images: the template with its ``{fields}`` replaced by what they say.

    Args:
        template: e.g. ``{stem}_{solver}``.
        case: whose ``stem`` and ``folder`` are fields.
        **fields: others.

    Raises:
        InputError: for an unknown field, and for a name that is none.
    """
    if template == "{stem}":  # whatever the file is called
        return case.stem
    values = {"stem": case.stem, "folder": case.folder, **fields}

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InputError(f"--name {template}: there is no {{{match[1]}}}; choose among {', '.join(values)}")
        return values[match[1]]

    name = re.sub(r"\{([^{}]*)\}", replaced, template)
    if not name or name in (".", "..") or set(name) & {"/", "\\", "\0"} or name.startswith("."):
        raise InputError(f"--name {template}: {name!r} is no name of a file; give e.g. {{stem}}_{{solver}}")
    return name


def check_names(names: Sequence[str], cases: Sequence[Case]) -> None:
    """Refuse two cases whose images would have the same name.

    Raises:
        InputError: naming both.
    """
    # Some file systems take upper and lower case for the same.
    twice = next((name for name, n in Counter(name.casefold() for name in names).items() if n > 1), None)
    if twice is None:
        return
    both = [str(case.path) for name, case in zip(names, cases, strict=True) if name.casefold() == twice]
    raise InputError(
        f"{both[0]} and {both[1]}: their images would have the same name, {twice}; give --name with {{folder}}, e.g. "
        "--name '{folder}_{stem}'"
    )


def digest_of(case: Case, settings: Mapping[str, Any], paths: Sequence[Path]) -> str:
    """SHA-256 of what an image is made of: settings, the scan's files, and files and folders that settings name."""
    text = json.dumps({**settings, "select": dict(case.select)}, sort_keys=True, default=str)
    parts = [sha256(*files_of(path)) for path in (case.path, *paths)]
    return hashlib.sha256("\n".join([text, *parts]).encode()).hexdigest()
