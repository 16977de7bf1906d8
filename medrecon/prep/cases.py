"""What a data set is made of: cases, their subjects and their files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py

from medrecon.data.dicom import find_series
from medrecon.data.errors import InputError

__all__ = ["Case", "dicom_series", "files"]


@dataclass(frozen=True)
class Case:
    """What becomes one entry of the manifest.

    Args:
        name: unique in the data set.
        subject: whom it is of; splits never part a subject.
        inputs: of every key the file, or the files of a DICOM series, relative to the source folder.
    """

    name: str
    subject: str
    inputs: Mapping[str, str | list[str]]

    def paths(self, source: Path) -> list[Path]:
        """All files, in order."""
        return [source / p for value in self.inputs.values() for p in ([value] if isinstance(value, str) else value)]


def _walk(source: Path) -> Iterator[str]:
    """Relative POSIX paths of all files that are not hidden, in a stable order."""
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(source).as_posix()


def _folder(source: str | Path) -> Path:
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder that the data set was unpacked into")
    return source


def files(source: str | Path, pattern: str, subject_attribute: str | None = None) -> list[Case]:
    """Cases by the names of files.

    Args:
        source: folder.
        pattern: regular expression that a whole path, relative to ``source``, with ``/``, must match. Named groups: ``subject``
            (default: the case's name), ``key`` (default ``image``), and ``case``, which files of several keys share (default: the
            path).
        subject_attribute: of HDF5 files, the attribute that names the subject instead, e.g. fastMRI's ``patient_id``.

    Raises:
        InputError: if there is no such folder, or two files claim one key of a case.
    """
    source = _folder(source)
    expression = re.compile(pattern)
    found: dict[str, tuple[str, dict[str, str | list[str]]]] = {}
    for path in _walk(source):
        match = expression.fullmatch(path)
        if match is None:
            continue
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        name = groups.get("case", path)
        subject = groups.get("subject", name)
        if subject_attribute is not None:
            subject = _attribute(source / path, subject_attribute) or subject
        inputs = found.setdefault(name, (subject, {}))[1]
        key = groups.get("key", "image")
        if key in inputs:
            raise InputError(
                f"{source / path}: is a second {key} of {name}, beside {inputs[key]}; change the recipe's pattern"
            )
        inputs[key] = path
    return [Case(name, subject, inputs) for name, (subject, inputs) in found.items()]


def _attribute(path: Path, name: str) -> str | None:
    """Of an HDF5 file; ``None`` where it has none, or cannot be read, which its preparation will tell."""
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get(name)
    except (OSError, RuntimeError, LookupError, ValueError):
        return None
    return None if value is None else str(value.decode() if isinstance(value, bytes) else value)


def _pseudonym(value: str) -> str:
    """A name that does not tell the patient's."""
    return hashlib.sha256(value.encode()).hexdigest()[:12]


def dicom_series(
    source: str | Path, modality: str | None = None, keys: Mapping[str, str] | None = None, fewest: int = 1
) -> list[Case]:
    """A case for every DICOM series, whatever files and folders are called; subjects are pseudonyms of the patients' IDs.

    Args:
        source: folder.
        modality: only these, e.g. ``CT``.
        keys: keys and regular expressions of series' descriptions: series of one study that match become one case, e.g. low and
            full dose; what matches none is left out. Default: every series alone, as ``image``.
        fewest: images that a series must have; localizers have less.

    Raises:
        InputError: if there is no such folder, or two series of a study match one key.
    """
    source = _folder(source)
    found: dict[str, tuple[str, dict[str, str | list[str]]]] = {}
    folders = sorted({str(Path(path).parent) for path in _walk(source)})
    series: dict[str, list] = {}
    for folder in folders:  # one by one: a series' headers, not the data set's, are in memory
        inside = [p for p in sorted((source / folder).iterdir()) if p.is_file() and not p.name.startswith(".")]
        try:
            here = find_series(inside)
        except InputError as error:
            series.setdefault(f"?{folder}", []).append((folder, str(error), inside))
            continue
        for uid, held in here.items():
            first = held[0][1]
            facts = {
                key: str(first.get(key, ""))
                for key in ("Modality", "PatientID", "StudyInstanceUID", "SeriesDescription")
            }
            names = [path.relative_to(source).as_posix() for path, _ in held]
            series.setdefault(uid, []).append((facts, names))
    for uid, parts in series.items():
        if uid.startswith("?"):  # damaged files: a case that fails, and says so
            folder, _, inside = parts[0]
            found[f"damaged/{folder}"] = ("unknown", {"image": [p.relative_to(source).as_posix() for p in inside]})
            continue
        facts = parts[0][0]
        names = [name for _, some in parts for name in some]
        if (modality is not None and facts["Modality"] != modality) or len(names) < fewest:
            continue
        subject = (
            f"sub-{_pseudonym(facts['PatientID'])}"
            if facts["PatientID"]
            else f"sub-{_pseudonym(facts['StudyInstanceUID'])}"
        )
        if keys is None:
            found[f"{subject}/{_pseudonym(uid)}"] = (subject, {"image": names})
            continue
        for key, expression in keys.items():
            if re.search(expression, facts["SeriesDescription"]):
                name = f"{subject}/{_pseudonym(facts['StudyInstanceUID'])}"
                inputs = found.setdefault(name, (subject, {}))[1]
                if key in inputs:
                    raise InputError(
                        f"{source / names[0]}: is a second series {key!r} of its study, described as "
                        f"{facts['SeriesDescription']!r}; change the recipe's keys"
                    )
                inputs[key] = names
                break
    return [Case(name, subject, inputs) for name, (subject, inputs) in sorted(found.items())]
