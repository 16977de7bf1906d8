"""Cases of a data set, their subjects and their files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from medrecon.data.errors import DAMAGE, InputError, one_line, os_error_advice, redacted, warn
from medrecon.data.names import natural_key
from medrecon.formats.dicom import UnknownFileError, identity, image_header
from medrecon.formats.hdf5 import open_hdf5, read_attribute, text_of
from medrecon.prep.journal import Journal
from medrecon.prep.pseudonyms import Key
from medrecon.workers import Pool, Task, perform

__all__ = ["Case", "dicom_series", "files", "search_context", "stamp_of"]


@dataclass(frozen=True)
class Case:
    """One row of the manifest.

    Args:
        name: unique name in the data set.
        subject: name or pseudonym of the person; all cases of a subject are in one split.
        inputs: file, or files of a DICOM series, for every key, relative to the source folder.
        error: reason why the case cannot be prepared, if the search found one.
        pseudonyms: pseudonym of every file, written instead of its name; if empty, names are written.
        split_by: text that determines the split, never written; default: the subject.
        lost: name and stamp of a file whose header crashed the reader.
    """

    name: str
    subject: str
    inputs: Mapping[str, str | list[str]]
    error: str | None = None
    pseudonyms: Mapping[str, str] = field(default_factory=dict)
    split_by: str | None = None
    lost: tuple[str, str] | None = None

    @property
    def names(self) -> list[str]:
        """All files, in order, relative to the source folder."""
        return [p for value in self.inputs.values() for p in ([value] if isinstance(value, str) else value)]

    def paths(self, source: Path) -> list[Path]:
        """All files, in order."""
        return [source / name for name in self.names]

    @property
    def public_inputs(self) -> dict[str, str | list[str]]:
        """``inputs`` with pseudonyms, as they are written."""
        if not self.pseudonyms:
            return dict(self.inputs)
        return {
            key: self.pseudonyms[value] if isinstance(value, str) else [self.pseudonyms[p] for p in value]
            for key, value in self.inputs.items()
        }


# Context of the search


class _Search(NamedTuple):
    key: Key
    pool: Pool | None = None
    journal: Journal | None = None


_SEARCH: ContextVar[_Search | None] = ContextVar("search", default=None)


@contextmanager
def search_context(key: Key, pool: Pool, journal: Journal) -> Iterator[None]:
    """Inside, :func:`files` and :func:`dicom_series` take pseudonyms from ``key`` and read files in children of ``pool``."""
    token = _SEARCH.set(_Search(key, pool, journal))
    try:
        yield
    finally:
        _SEARCH.reset(token)


def stamp_of(paths: Iterable[Path]) -> str:
    """SHA-256 of the sizes and modification times of all files.

    Raises:
        OSError: if a file does not exist.
    """
    stats = [path.stat() for path in paths]
    return hashlib.sha256(json.dumps([[s.st_size, s.st_mtime_ns] for s in stats]).encode()).hexdigest()


def _read(call: str, source: Path, names: Iterable[str], **more: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Call a function of this module for every file; answers in any order, with ``lost`` if the reader crashed."""
    search = _SEARCH.get()
    tasks = (
        Task(f"{__name__}:{call}", {"path": str(source / name), **more}, size=_size(source / name), about=name)
        for name in names
    )
    if search is None or search.pool is None or search.journal is None:
        yield from ((task.about, perform(task.call, task.arguments)) for task in tasks)
        return
    journal, key = search.journal, search.key
    skipped: list[tuple[str, dict[str, Any]]] = []

    def not_skipped() -> Iterator[Task]:
        for task in tasks:
            if journal.lost or journal.interrupted:
                stamp = _stamp_or_none(source / task.about)
                reason = journal.reason_to_skip(_header_name(key, task.about), stamp)
                if reason is not None:
                    skipped.append((task.about, {"error": reason, "lost": (_header_name(key, task.about), stamp)}))
                    continue
            yield task

    for task, answer in search.pool.run(not_skipped(), lambda task: journal.began(_header_name(key, task.about))):
        journal.done(_header_name(key, task.about))
        if "lost" in answer:
            name, reason = _header_name(key, task.about), f"reading its header {answer['lost']}"
            stamp = _stamp_or_none(source / task.about)
            journal.done(name, {"case": name, "error": reason, "lost": stamp})
            answer = {"error": f"{source / task.about}: {reason}", "lost": (name, stamp)}
        yield task.about, answer
    yield from skipped


def _header_name(key: Key, name: str) -> str:
    return f"damaged/{key.pseudonym('file', name)}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _stamp_or_none(path: Path) -> str | None:
    try:
        return stamp_of([path])
    except OSError:
        return None


# Files in a folder and its subfolders


def _problem(path: Path) -> str | None:
    """Reason not to open a path; pipes and devices would block, or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that points to itself"
        if error.errno == errno.ENOENT:
            return "a link to a file that does not exist" if path.is_symlink() else "it is gone"
        return error.strerror or one_line(error)
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return None if stat.S_ISREG(mode) else f"{kinds.get(stat.S_IFMT(mode), 'something else')}, not a file"


def _walk(source: Path) -> Iterator[tuple[str, str | None]]:
    """Relative POSIX paths of everything that is not hidden, in a stable order, with the reason not to open it, or ``None``.

    Links to folders are followed, every folder once. Folders that ``medrecon prep`` wrote are skipped. Folders without read
    permission, such as the ``lost+found`` of a disk, are skipped with a warning.

    Raises:
        InputError: if a folder cannot be read for another reason, or ``source`` cannot be read.
    """

    def refused(error: OSError) -> None:
        if error.errno not in (errno.EACCES, errno.EPERM) or Path(error.filename) == source:
            advice = os_error_advice(error, "fix this and run again")
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); {advice}") from error
        name = Path(error.filename).relative_to(source).as_posix()
        warn(
            f"{name}: this folder cannot be read ({error.strerror}), so nothing in it is prepared; check its permissions"
        )

    seen = set()
    for folder, folders, names in os.walk(source, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        prepared = "recipe.json" in names and {".lock", "manifest.jsonl", "shards", ".staged"} & {*names, *folders}
        if real in seen or prepared:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            yield Path(folder, name).relative_to(source).as_posix(), _FOLDER
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(folder, name)
                yield path.relative_to(source).as_posix(), _problem(path)


_FOLDER = "a folder, not a file"


def _folder(source: str | Path) -> Path:
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder into which the data set was unpacked")
    return source


def _current_key() -> Key:
    search = _SEARCH.get()
    return Key() if search is None else search.key


# Cases by file names


def files(
    source: str | Path, pattern: str, subject_attribute: str | None = None, pseudonyms: bool = False
) -> list[Case]:
    """Find cases by file names.

    Two files with the same key and case, and files whose subject cannot be read, become cases that fail with a message.

    Args:
        source: folder of the data.
        pattern: regular expression that must match a whole path, relative to ``source``, with ``/``; ``.`` matches any
            character. Named groups: ``subject`` (default: the case's name), ``key`` (default: ``image``), and ``case`` (default:
            the path), which is the same for files of several keys.
        subject_attribute: HDF5 attribute with the subject's name, e.g. fastMRI's ``patient_id``; its pseudonym is written.
        pseudonyms: whether to write pseudonyms of files, cases and subjects; for files named after patients.

    Raises:
        InputError: if the folder does not exist, or the pattern is not a regular expression.
    """
    source = _folder(source)
    try:
        expression = re.compile(pattern, re.DOTALL)
    except (re.error, TypeError) as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression ({error}); correct it") from error
    matches = {path: (match, problem) for path, problem in _walk(source) if (match := expression.fullmatch(path))}
    subjects: dict[str, dict[str, Any]] = {}
    if subject_attribute is not None:
        readable = [path for path, (_, problem) in matches.items() if problem is None]
        subjects = dict(_read("attribute_of", source, readable, name=subject_attribute))
    found: dict[str, Case] = {}
    for path, (match, problem) in matches.items():
        groups = {name: value for name, value in match.groupdict().items() if value}
        error = None if problem is None else f"{source / path}: cannot be read ({problem}); replace or remove it"
        _add_file(found, path, groups, source=source, answer={"error": error} if error else subjects.get(path))
    cases = [replace(case, inputs=dict(sorted(case.inputs.items()))) for case in found.values()]
    return [_with_pseudonyms(case) for case in cases] if pseudonyms else cases


def _add_file(
    found: dict[str, Case], path: str, groups: Mapping[str, str], *, source: Path, answer: Mapping[str, Any] | None
) -> None:
    """Add a file to its case, which is created if needed.

    Args:
        found: cases by name.
        path: relative path of the file.
        groups: groups of the pattern that matched.
        source: folder of the data.
        answer: ``value`` (the subject), ``error`` and ``lost`` of the file's reader, if it was read.
    """
    name, key = groups.get("case", path), groups.get("key", "image")
    subject, split_by, error, lost = groups.get("subject", name), None, None, None
    if answer is not None:
        error, lost = answer.get("error"), answer.get("lost")
        if answer.get("value"):
            subject, split_by = f"sub-{_current_key().pseudonym('subject', answer['value'])}", answer["value"]
    case = found.setdefault(name, Case(name, subject, {}, split_by=split_by))
    if key in case.inputs:
        error = f"{source / path}: is a second {key} of {name}, in addition to {case.inputs[key]}; change the recipe's pattern"
    elif case.subject != subject:
        error = f"{source / path}: belongs to {subject}, but other files of {name} to {case.subject}"
    found[name] = replace(case, inputs={key: path, **case.inputs}, error=case.error or error, lost=case.lost or lost)


def attribute_of(path: str, name: str) -> dict[str, Any]:
    """An attribute of an HDF5 file, as ``value``; ``None`` if the file lacks it."""
    try:
        with open_hdf5(path) as file:
            value = read_attribute(file, name)
    except DAMAGE as reason:
        return {"error": f"{path}: cannot be read ({redacted(reason)}), so its subject is unknown"}
    text = text_of(value)
    return {"value": text.decode("utf-8", "replace") if text is not None else None if value is None else str(value)}


def _with_pseudonyms(case: Case) -> Case:
    key = _current_key()
    subject = case.subject if case.subject.startswith("sub-") else f"sub-{key.pseudonym('subject', case.subject)}"
    names = {name: key.pseudonym("file", name) for name in case.names}
    return replace(
        case,
        name=key.pseudonym("case", case.name),
        subject=subject,
        pseudonyms=names,
        split_by=case.split_by or case.subject,
    )


# Cases by DICOM headers

_FACTS = ("PatientID", "StudyInstanceUID", "Modality", "SeriesDescription")


def dicom_facts(path: str) -> dict[str, Any]:
    """Series of a DICOM file; ``error`` if the file is damaged, ``unknown`` if it may not be DICOM."""
    try:
        header = image_header(Path(path))
    except UnknownFileError as error:
        return {"unknown": str(error)}
    except InputError as error:
        return {"error": str(error)}
    if header is None:
        return {}
    facts = {keyword: str(header.get(keyword, "")) for keyword in _FACTS}
    same = hashlib.sha256(repr(identity(header)).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return {"facts": facts, "uid": str(header.get("SeriesInstanceUID", "")), "identity": same}


class _Series(NamedTuple):
    facts: dict[str, str]
    names: list[str]
    images: set[str]


def _unreadable(name: str, error: str, lost: tuple[str, str] | None = None) -> Case:
    pseudonym = _current_key().pseudonym("file", name)
    return Case(
        _header_name(_current_key(), name),
        "unknown",
        {"image": name},
        error=error,
        pseudonyms={name: pseudonym},
        lost=lost,
    )


def _found_series(source: Path) -> tuple[dict[tuple[str, str, str], _Series], list[Case]]:
    """Series by patient, study and UID, with their files, and a failing case for every file that cannot be read."""
    broken: list[Case] = []
    names = []
    for name, problem in _walk(source):
        if problem is None and name.rpartition("/")[2].upper() != "DICOMDIR":
            names.append(name)
        elif problem not in (None, _FOLDER):
            broken.append(_unreadable(name, f"{source / name}: cannot be read ({problem}); replace or remove it"))
    series: dict[tuple[str, str, str], _Series] = {}
    unknown = {}
    for name, answer in _read("dicom_facts", source, names):
        if "error" in answer:
            broken.append(_unreadable(name, answer["error"], answer.get("lost")))
        elif "unknown" in answer:
            unknown[name] = answer["unknown"]
        elif answer:
            which = (answer["facts"]["PatientID"], answer["facts"]["StudyInstanceUID"], answer["uid"])
            one = series.setdefault(which, _Series(answer["facts"], [], set()))
            one.names.append(name)
            one.images.add(answer["identity"])
    if any(not Path(name).suffix for one in series.values() for name in one.names):
        broken += [_unreadable(name, error) for name, error in unknown.items()]  # probably images
    elif unknown:
        warn(
            f"{len(unknown)} files without suffix were skipped, since they are not DICOM, or damaged, e.g. {min(unknown)}; "
            "check whether they are images"
        )
    return series, broken


def dicom_series(
    source: str | Path, modality: str | None = None, keys: Mapping[str, str] | None = None, fewest: int = 1
) -> list[Case]:
    """Find DICOM series by their headers, one case per series; subjects, cases and files get pseudonyms.

    Damaged files, and studies in which two series match one key, become cases that fail with a message.

    Args:
        source: folder of the data.
        modality: only series of this modality, e.g. ``CT``.
        keys: keys and regular expressions of series descriptions. Matching series of one study become one case, e.g. low and full
            dose; other series are left out. Default: every series is a case, with the key ``image``.
        fewest: smallest number of images of a series, without copies; localizers have fewer.

    Raises:
        InputError: if the folder does not exist.
    """
    source = _folder(source)
    series, broken = _found_series(source)
    secret = _current_key()
    found: dict[str, Case] = {}
    for (patient, study, uid), (facts, names, images) in sorted(series.items()):
        if (modality is not None and facts["Modality"] != modality) or len(images) < fewest:
            continue
        subject = f"sub-{secret.pseudonym('subject', patient or study)}"
        name, key = f"{subject}/{secret.pseudonym('series', uid)}", "image"
        if keys is not None:
            key = next((k for k, text in keys.items() if re.search(text, facts["SeriesDescription"])), "")
            name = f"{subject}/{secret.pseudonym('study', study)}"
            if not key:
                continue
        case = found.setdefault(name, Case(name, subject, {}, split_by=patient or study))
        ordered = sorted(names, key=natural_key)
        if key in case.inputs:
            error = f"{source / ordered[0]}: is a second series {key!r} of its study; change the recipe's keys"
            found[name] = replace(case, error=error)
        else:
            pseudonyms = {**case.pseudonyms, **{n: secret.pseudonym("file", n) for n in ordered}}
            inputs = dict(sorted({**case.inputs, key: ordered}.items()))
            found[name] = replace(case, inputs=inputs, pseudonyms=pseudonyms)
    return sorted([*found.values(), *broken], key=lambda case: case.name)
