"""Find scans in files and folders, and name their images."""

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

__all__ = ["Case", "CaseReport", "check_names", "find_cases", "image_stem", "request_digest", "several_cases"]


def _regular_files(path: Path) -> list[Path]:
    """Regular files that are read for a path (a file, a BART pair or a folder), in a fixed order."""
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    headers = [path.with_suffix(end) for end in (".hdr", ".HDR") if path.suffix.lower() == ".cfl"]
    return [one for one in (path, *headers) if one.is_file()]  # opening a pipe would block


@dataclass(frozen=True)
class Case:
    """A scan to reconstruct.

    Args:
        path: file of the scan, or folder of its DICOM files.
        stem: file name of the scan without suffix, ``{stem}`` in ``--name``.
        folder: name of the folder that contains the scan.
        select: attributes that choose among several series of the folder.
    """

    path: Path
    stem: str
    folder: str = ""
    select: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class CaseReport:
    """Result of a case, an entry of ``run.json``.

    Args:
        path: file or folder of the scan.
        name: file name of the images without suffix.
        status: ``done``, ``skipped`` (done by an earlier run), ``planned`` or ``failed``.
        facts: files, seconds and warnings, or the error.
    """

    path: Path
    name: str
    status: str
    facts: dict[str, Any] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """The report as JSON, without names of folders, which may contain names of patients."""
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
    """File name without the suffix of its format, or name of a folder."""
    if path.is_dir():
        return path.resolve().name
    for suffix in sorted(_suffixes(), key=len, reverse=True):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def several_cases(inputs: Sequence[str], select: Mapping[str, Any], output: Path) -> list[Case] | None:
    """The scans of :func:`find_cases`; ``None`` for a single scan: one file, or a folder with one (selected) DICOM series.

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
    """Find scans in files and folders, in the order of their names.

    In a folder and its subfolders, a scan is every DICOM series, and every other file that has the content or the suffix of a
    known format. Hidden files, ``output`` and all other files are ignored.

    Args:
        inputs: files and folders.
        select: selection that applies to all scans.
        output: folder of the images.

    Raises:
        InputError: if an input does not exist or a folder contains no scan.
    """
    cases: list[Case] = []
    for name in inputs:
        path = Path(name)
        if not path.is_dir():
            if not path.exists() and not path.with_name(f"{path.name}.cfl").is_file():
                raise InputError(f"{path}: no such file or folder; check the path")
            cases.append(Case(path=path, stem=_stem(path), folder=path.resolve().parent.name, select=dict(select)))
            continue
        found = list(_scans_in(path, output))
        if not found:
            raise InputError(
                f"{path}: contains no scan of a known format; try 'medrecon info FILE' on one of its files"
            )
        cases += [
            Case(path=one.path, stem=one.stem, folder=one.folder, select={**one.select, **select}) for one in found
        ]
    # A scan that is given twice is one case.
    first = {case.path.resolve(): case for case in reversed(cases) if not case.select}
    return [case for case in cases if case.select or first[case.path.resolve()] is case]


def _scans_in(folder: Path, output: Path | None) -> Iterator[Case]:
    """The scans in a folder and its subfolders."""
    from medrecon.formats import dicom, format_of

    suffixes = _suffixes()
    excluded = None if output is None else output.resolve()
    for current, folders, names in os.walk(folder):
        current_folder = Path(current)
        folders[:] = sorted(one for one in folders if one[0] != "." and (current_folder / one).resolve() != excluded)
        images = []
        for name in sorted(names):
            path = current_folder / name
            if name[0] == "." or not path.is_file():
                continue
            found = format_of(path)
            if found is dicom:
                images.append(path)
            elif path.suffix.lower() == ".hdr" or (found is None and not name.lower().endswith(suffixes)):
                continue  # the header of a BART pair, or not a scan
            else:
                yield Case(path, _stem(path), current_folder.resolve().name)
        if images:
            yield from _series(current_folder, images)


def _series(folder: Path, images: Sequence[Path]) -> Iterator[Case]:
    """The DICOM series in a folder."""
    from medrecon.formats.dicom import find_series

    name = folder.resolve().name
    try:
        series = find_series(images)
    except InputError:  # reported when the folder is read
        series = {}
    if len(series) < 2:
        yield Case(folder, name, folder.resolve().parent.name)
        return
    for uid, files in series.items():
        number = str(files[0][1].get("SeriesNumber") or "")
        stem = f"{name}_{number}" if number.isdigit() else f"{name}_{uid.rpartition('.')[2]}"
        yield Case(path=folder, stem=stem, folder=folder.resolve().parent.name, select={"SeriesInstanceUID": uid})


def image_stem(template: str, case: Case, **fields: str) -> str:
    """File name of a case's images without suffix: the template with its ``{fields}`` filled in.

    Args:
        template: text with fields, e.g. ``{stem}_{solver}``.
        case: case with the fields ``stem`` and ``folder``.
        **fields: values of the other fields.

    Raises:
        InputError: for an unknown field, and for text that cannot be a file name.
    """
    if template == "{stem}":  # any name that the scan's file has
        return case.stem
    values = {"stem": case.stem, "folder": case.folder, **fields}

    def field_value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InputError(f"--name {template}: unknown field {{{match[1]}}}; choose from {', '.join(values)}")
        return values[match[1]]

    name = re.sub(r"\{([^{}]*)\}", field_value, template)
    if not name or name in (".", "..") or set(name) & {"/", "\\", "\0"} or name.startswith("."):
        raise InputError(f"--name {template}: {name!r} is not a file name; give e.g. {{stem}}_{{solver}}")
    return name


def check_names(names: Sequence[str], cases: Sequence[Case]) -> None:
    """Check that no two cases have the same file name of images.

    Raises:
        InputError: naming both cases.
    """
    # Some file systems do not distinguish upper and lower case.
    duplicate = next((name for name, n in Counter(name.casefold() for name in names).items() if n > 1), None)
    if duplicate is None:
        return
    both = [str(case.path) for name, case in zip(names, cases, strict=True) if name.casefold() == duplicate]
    raise InputError(
        f"{both[0]} and {both[1]}: their images would have the same name, {duplicate}; give --name with {{folder}}, e.g. "
        "--name '{folder}_{stem}'"
    )


def request_digest(case: Case, settings: Mapping[str, Any], paths: Sequence[Path]) -> str:
    """SHA-256 of all inputs of an image: settings, the scan's files, and the files and folders that settings name."""
    text = json.dumps({**settings, "select": dict(case.select)}, sort_keys=True, default=str)
    parts = [sha256(*_regular_files(path)) for path in (case.path, *paths)]
    return hashlib.sha256("\n".join([text, *parts]).encode()).hexdigest()
