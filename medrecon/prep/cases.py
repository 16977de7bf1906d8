"""What a data set is made of: cases, their subjects and their files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medrecon.data.dicom import find_series, identity, natural
from medrecon.data.errors import DAMAGE, InputError, told
from medrecon.data.hdf5 import open_hdf5, read_attribute, text_of

__all__ = ["Case", "dicom_series", "files"]


@dataclass(frozen=True)
class Case:
    """What becomes one entry of the manifest.

    Args:
        name: unique in the data set.
        subject: whom it is of; splits never part a subject.
        inputs: of every key the file, or the files of a DICOM series, relative to the source folder.
        error: why it cannot be prepared, if that is known already.
    """

    name: str
    subject: str
    inputs: Mapping[str, str | list[str]]
    error: str | None = None

    def paths(self, source: Path) -> list[Path]:
        """All files, in order."""
        return [source / p for value in self.inputs.values() for p in ([value] if isinstance(value, str) else value)]


def _walk(source: Path) -> Iterator[str]:
    """Relative POSIX paths of all files that are not hidden, in a stable order; links to folders are followed, once.

    Folders that ``medrecon prep`` wrote are passed over.

    Raises:
        InputError: for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error

    seen = set()
    for folder, folders, names in os.walk(source, followlinks=True, onerror=stop):
        real = os.path.realpath(folder)
        prepared = "recipe.json" in names and {".lock", "manifest.jsonl", "shards", ".staged"} & {*names, *folders}
        if real in seen or prepared:
            folders.clear()
            continue
        seen.add(real)
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
        InputError: if there is no such folder, or the pattern is none. Two files that claim one key of a case, and files whose
            subject cannot be read, make cases that fail and say so.
    """
    source = _folder(source)
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise InputError(f"the pattern {pattern!r} is no regular expression ({error}); change it") from error
    found: dict[str, Case] = {}
    for path in _walk(source):
        match = expression.fullmatch(path)
        if match is None:
            continue
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        name, key = groups.get("case", path), groups.get("key", "image")
        subject, error = groups.get("subject", name), None
        if subject_attribute is not None:
            try:
                subject = _attribute(source / path, subject_attribute) or subject
            except DAMAGE as reason:
                error = f"{source / path}: cannot be read ({told(reason)}), so its subject is not known"
        case = found.setdefault(name, Case(name, subject, {}))
        if key in case.inputs:
            error = (
                f"{source / path}: is a second {key} of {name}, beside {case.inputs[key]}; change the recipe's pattern"
            )
        elif case.subject != subject:
            error = f"{source / path}: is of {subject}, but other files of {name} are of {case.subject}"
        found[name] = replace(case, inputs={key: path, **case.inputs}, error=case.error or error)
    return [replace(case, inputs=dict(sorted(case.inputs.items()))) for case in found.values()]


def _attribute(path: Path, name: str) -> str | None:
    """Of an HDF5 file, ``None`` where it has none."""
    with open_hdf5(path) as file:
        value = read_attribute(file, name)
    text = text_of(value)
    return (
        str(value) if text is None and value is not None else None if text is None else text.decode("utf-8", "replace")
    )


def _pseudonym(value: str) -> str:
    """A name that does not tell the patient's, though whoever can try all numbers may find it."""
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
        fewest: images that a series must have, copies not counted; localizers have less.

    Damaged files make cases of their own, which fail and say so; so do studies of which two series match one key.

    Raises:
        InputError: if there is no such folder.
    """
    source = _folder(source)
    broken: list[Case] = []
    series: dict[tuple[str, ...], tuple[dict[str, str], list[str]]] = {}
    images: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in _walk(source):  # one by one: what is kept of a file are names, not its header
        try:
            held = find_series([source / path])
        except InputError as error:
            broken.append(Case(f"damaged/{path}", "unknown", {"image": path}, str(error)))
            continue
        for uid, ((_, header), *_) in held.items():
            keywords = ("PatientID", "StudyInstanceUID", "Modality", "SeriesDescription")
            facts = {keyword: str(header.get(keyword, "")) for keyword in keywords}
            which = (facts["PatientID"], facts["StudyInstanceUID"], uid)
            series.setdefault(which, (facts, []))[1].append(path)
            images.setdefault(which, set()).add(identity(header))
    found: dict[str, Case] = {}
    for (patient, study, uid), (facts, names) in series.items():
        count = len(images[patient, study, uid])
        if (modality is not None and facts["Modality"] != modality) or count < fewest:
            continue
        subject = f"sub-{_pseudonym(patient or study)}"
        if keys is None:
            name, key = f"{subject}/{_pseudonym(uid)}", "image"
        else:
            key = next((k for k, text in keys.items() if re.search(text, facts["SeriesDescription"])), "")
            name = f"{subject}/{_pseudonym(study)}"
            if not key:
                continue
        case = found.setdefault(name, Case(name, subject, {}))
        if key in case.inputs:
            error = (
                f"{source / names[0]}: is a second series {key!r} of its study, described as {facts['SeriesDescription']!r}; "
                "change the recipe's keys"
            )
            found[name] = replace(case, error=error)
        else:
            files_of = sorted(names, key=natural)
            found[name] = replace(case, inputs=dict(sorted({**case.inputs, key: files_of}.items())))
    return sorted([*found.values(), *broken], key=lambda case: case.name)
