"""What a data set is made of: cases, their subjects and their files."""

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

from medrecon.data.errors import DAMAGE, InputError, advised, one_line, redacted, warn
from medrecon.data.names import natural
from medrecon.formats.dicom import UnknownFileError, identity, image_header
from medrecon.formats.hdf5 import open_hdf5, read_attribute, text_of
from medrecon.prep.journal import Journal
from medrecon.prep.people import Key
from medrecon.workers import Pool, Task, perform

__all__ = ["Case", "dicom_series", "files", "finding", "stamp_of"]


@dataclass(frozen=True)
class Case:
    """What becomes one entry of the manifest.

    Args:
        name: unique in the data set.
        subject: the person; splits never part a subject.
        inputs: of every key the file, or the files of a DICOM series, relative to the source folder.
        error: why it cannot be prepared, if that is known already.
        pseudonyms: what is written instead of the names of files; empty: they are written as they are.
        split_by: what the split is chosen by; default: the subject. It is not written.
        lost: name and stamp of a file, if the reader of its header crashed.
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
    def shown(self) -> dict[str, str | list[str]]:
        """``inputs`` as they are written."""
        if not self.pseudonyms:
            return dict(self.inputs)
        return {
            key: self.pseudonyms[value] if isinstance(value, str) else [self.pseudonyms[p] for p in value]
            for key, value in self.inputs.items()
        }


# What surrounds the search


class _Search(NamedTuple):
    key: Key
    pool: Pool | None = None
    journal: Journal | None = None


_SEARCH: ContextVar[_Search | None] = ContextVar("search", default=None)


@contextmanager
def finding(key: Key, pool: Pool, journal: Journal) -> Iterator[None]:
    """Within it, cases get their pseudonyms by ``key``, and children of ``pool`` read the files."""
    token = _SEARCH.set(_Search(key, pool, journal))
    try:
        yield
    finally:
        _SEARCH.reset(token)


def stamp_of(paths: Iterable[Path]) -> str:
    """Sizes and times of change of all files, hashed.

    Raises:
        OSError: for a file that is not there.
    """
    stats = [path.stat() for path in paths]
    return hashlib.sha256(json.dumps([[s.st_size, s.st_mtime_ns] for s in stats]).encode()).hexdigest()


def _read(call: str, source: Path, names: Iterable[str], **more: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files with the answers of a function of this module, in any order: ``error``, and ``lost`` where the reader crashed."""
    search = _SEARCH.get()
    tasks = (
        Task(f"{__name__}:{call}", {"path": str(source / name), **more}, _size(source / name), name) for name in names
    )
    if search is None or search.pool is None or search.journal is None:
        yield from ((task.about, perform(task.call, task.arguments)) for task in tasks)
        return
    journal, key = search.journal, search.key
    skipped: list[tuple[str, dict[str, Any]]] = []

    def tried() -> Iterator[Task]:
        for task in tasks:
            if journal.lost or journal.deaths:
                stamp = _stamp_or_none(source / task.about)
                reason = journal.known(_header_name(key, task.about), stamp)
                if reason is not None:
                    skipped.append((task.about, {"error": reason, "lost": (_header_name(key, task.about), stamp)}))
                    continue
            yield task

    for task, answer in search.pool.run(tried(), lambda task: journal.began(_header_name(key, task.about))):
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


# Files below a folder


def _problem(path: Path) -> str | None:
    """Why something is not opened: pipes and devices would block, or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself"
        if error.errno == errno.ENOENT:
            return "a link that leads nowhere" if path.is_symlink() else "it is gone"
        return error.strerror or one_line(error)
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return None if stat.S_ISREG(mode) else f"{kinds.get(stat.S_IFMT(mode), 'something else')}, not a file"


def _walk(source: Path) -> Iterator[tuple[str, str | None]]:
    """Relative POSIX paths of all that is not hidden, in a stable order, with the reason why it cannot be opened, or ``None``.

    Links to folders are followed, every folder once. Folders that ``medrecon prep`` wrote are passed over.

    A folder that belongs to others is passed over with a warning, such as the ``lost+found`` of a disk.

    Raises:
        InputError: for a folder that cannot be read for another reason, and for ``source`` itself.
    """

    def refused(error: OSError) -> None:
        if error.errno not in (errno.EACCES, errno.EPERM) or Path(error.filename) == source:
            advice = advised(error, "mend that and run again")
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); {advice}") from error
        name = Path(error.filename).relative_to(source).as_posix()
        warn(
            f"{name}: this folder may not be read ({error.strerror}), so nothing in it is prepared; check its permissions"
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
        raise InputError(f"{source}: no such folder; give the folder that the data set was unpacked into")
    return source


def _key() -> Key:
    search = _SEARCH.get()
    return Key() if search is None else search.key


# Cases by the names of files


def files(
    source: str | Path, pattern: str, subject_attribute: str | None = None, pseudonyms: bool = False
) -> list[Case]:
    """Cases by the names of files.

    Args:
        source: folder.
        pattern: regular expression that a whole path, relative to ``source``, with ``/``, must match; ``.`` matches any
            character. Named groups: ``subject`` (default: the case's name), ``key`` (default ``image``), and ``case``, which
            files of several keys share (default: the path).
        subject_attribute: of HDF5 files, the attribute that names the subject instead, e.g. fastMRI's ``patient_id``; its
            pseudonym is written.
        pseudonyms: whether pseudonyms of files, cases and subjects are written; for files that are called after patients.

    Raises:
        InputError: if there is no such folder, or the pattern is none. Two files that claim one key of a case, and files whose
            subject cannot be read, make cases that fail and say so.
    """
    source = _folder(source)
    try:
        expression = re.compile(pattern, re.DOTALL)
    except (re.error, TypeError) as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression ({error}); correct it") from error
    matches = {path: (match, problem) for path, problem in _walk(source) if (match := expression.fullmatch(path))}
    subjects: dict[str, dict[str, Any]] = {}
    if subject_attribute is not None:
        sound = [path for path, (_, problem) in matches.items() if problem is None]
        subjects = dict(_read("attribute_of", source, sound, name=subject_attribute))
    found: dict[str, Case] = {}
    for path, (match, problem) in matches.items():
        groups = {name: value for name, value in match.groupdict().items() if value}
        _add(found, path, groups, subjects.get(path), source, problem)
    cases = [replace(case, inputs=dict(sorted(case.inputs.items()))) for case in found.values()]
    return [_renamed(case) for case in cases] if pseudonyms else cases


def _add(
    found: dict[str, Case],
    path: str,
    groups: Mapping[str, str],
    read: Mapping[str, Any] | None,
    source: Path,
    problem: str | None,
) -> None:
    """Put a file into its case, which is made where there is none."""
    name, key = groups.get("case", path), groups.get("key", "image")
    subject, split_by, error, lost = groups.get("subject", name), None, None, None
    if problem is not None:
        error = f"{source / path}: cannot be read ({problem}); replace it, or take it away"
    elif read is not None:
        error, lost = read.get("error"), read.get("lost")
        if read.get("value"):
            subject, split_by = f"sub-{_key().pseudonym('subject', read['value'])}", read["value"]
    case = found.setdefault(name, Case(name, subject, {}, split_by=split_by))
    if key in case.inputs:
        error = f"{source / path}: is a second {key} of {name}, beside {case.inputs[key]}; change the recipe's pattern"
    elif case.subject != subject:
        error = f"{source / path}: is of {subject}, but other files of {name} are of {case.subject}"
    found[name] = replace(case, inputs={key: path, **case.inputs}, error=case.error or error, lost=case.lost or lost)


def attribute_of(path: str, name: str) -> dict[str, Any]:
    """Of an HDF5 file, as ``value``; ``None`` where it has none."""
    try:
        with open_hdf5(path) as file:
            value = read_attribute(file, name)
    except DAMAGE as reason:
        return {"error": f"{path}: cannot be read ({redacted(reason)}), so its subject is not known"}
    text = text_of(value)
    return {"value": text.decode("utf-8", "replace") if text is not None else None if value is None else str(value)}


def _renamed(case: Case) -> Case:
    key = _key()
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
    """What a file's header says of its series; ``error`` for a damaged one, ``unknown`` for one that may be none."""
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


def _broken(name: str, error: str, lost: tuple[str, str] | None = None) -> Case:
    pseudonym = _key().pseudonym("file", name)
    return Case(_header_name(_key(), name), "unknown", {"image": name}, error, {name: pseudonym}, lost=lost)


def _found_series(source: Path) -> tuple[dict[tuple[str, str, str], _Series], list[Case]]:
    """Series by patient, study and UID, with their files; and cases for what cannot be read."""
    broken: list[Case] = []
    names = []
    for name, problem in _walk(source):
        if problem is None and name.rpartition("/")[2].upper() != "DICOMDIR":
            names.append(name)
        elif problem not in (None, _FOLDER):
            broken.append(_broken(name, f"{source / name}: cannot be read ({problem}); replace it, or take it away"))
    series: dict[tuple[str, str, str], _Series] = {}
    unknown = {}
    for name, answer in _read("dicom_facts", source, names):
        if "error" in answer:
            broken.append(_broken(name, answer["error"], answer.get("lost")))
        elif "unknown" in answer:
            unknown[name] = answer["unknown"]
        elif answer:
            which = (answer["facts"]["PatientID"], answer["facts"]["StudyInstanceUID"], answer["uid"])
            one = series.setdefault(which, _Series(answer["facts"], [], set()))
            one.names.append(name)
            one.images.add(answer["identity"])
    if any(not Path(name).suffix for one in series.values() for name in one.names):
        broken += [_broken(name, error) for name, error in unknown.items()]  # likely to be images, as the others
    elif unknown:
        warn(
            f"{len(unknown)} files without suffix were passed over as not DICOM, or damaged, e.g. {min(unknown)}; "
            "look whether they are images"
        )
    return series, broken


def dicom_series(
    source: str | Path, modality: str | None = None, keys: Mapping[str, str] | None = None, fewest: int = 1
) -> list[Case]:
    """A case for every DICOM series, whatever files and folders are called; subjects, cases and files get pseudonyms.

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
    series, broken = _found_series(source)
    key_of = _key()
    found: dict[str, Case] = {}
    for (patient, study, uid), (facts, names, images) in sorted(series.items()):
        if (modality is not None and facts["Modality"] != modality) or len(images) < fewest:
            continue
        subject = f"sub-{key_of.pseudonym('subject', patient or study)}"
        name, key = f"{subject}/{key_of.pseudonym('series', uid)}", "image"
        if keys is not None:
            key = next((k for k, text in keys.items() if re.search(text, facts["SeriesDescription"])), "")
            name = f"{subject}/{key_of.pseudonym('study', study)}"
            if not key:
                continue
        case = found.setdefault(name, Case(name, subject, {}, split_by=patient or study))
        files_of = sorted(names, key=natural)
        if key in case.inputs:
            error = f"{source / files_of[0]}: is a second series {key!r} of its study; change the recipe's keys"
            found[name] = replace(case, error=error)
        else:
            pseudonyms = {**case.pseudonyms, **{n: key_of.pseudonym("file", n) for n in files_of}}
            inputs = dict(sorted({**case.inputs, key: files_of}.items()))
            found[name] = replace(case, inputs=inputs, pseudonyms=pseudonyms)
    return sorted([*found.values(), *broken], key=lambda case: case.name)
