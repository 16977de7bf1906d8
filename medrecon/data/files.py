"""Atomic writing: a set of files appears complete or not at all, and replaces nothing unless it is asked to.

How :func:`write_atomically` writes a set of files:

1. Every content goes to a hidden file ``.medrecon-<host>-<random>-<k>.part`` in the set's folder, created with O_EXCL and
   O_NOFOLLOW, and is synced. A locked file ``.medrecon-<host>-<random>.run`` shows that the process is alive.
2. The journal (targets, checksums, and the state of replaced files) is written into the ``.run`` file and synced.
3. The files are published in order: by a hard link, which fails if the name is taken, or, with ``overwrite``, by a rename.
4. Hidden files are removed, the ``.run`` file last.

The lock ends with its process. The next run in the folder (:func:`recover`) finds ``.run`` files without a lock. If the process
ended before step 3, nothing has changed, and the hidden files are removed; if it ended in step 3, the journal is complete, and
publishing is finished. Only hidden files with this pattern and of the same user are touched. Hidden files of another machine,
whose locks may be invisible on a shared file system, are removed only after a day, and never if they hold a journal.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import lock_descriptor, unlock_descriptor

from medrecon.data.errors import InputError, warn

__all__ = [
    "check_writable",
    "folder_lock",
    "has_sha256",
    "new_file",
    "read_sidecar",
    "recover",
    "run_lock",
    "sha256",
    "sidecar_mismatch",
    "write_atomically",
]

_HIDDEN = re.compile(r"(\.medrecon-([0-9a-f]{16})-[0-9a-f]{16})(?:\.run|-\d+\.(?:part|old))")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_FOREIGN_SECONDS = 86400.0
_WAIT_SECONDS = 60.0
_LARGEST_SIDECAR = 1 << 26
_IS_WINDOWS = os.name == "nt"
"""Nothing is locked on Windows, since other handles of the same process could not read a locked journal."""


def sha256(*paths: Path) -> str:
    """SHA-256 of the concatenated contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def has_sha256(path: Path, digest: str) -> bool:
    """Whether ``path`` is a regular file (not a link) with this SHA-256."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and sha256(path) == digest
    except OSError:
        return False


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Content of a sidecar; ``None`` for any other file, one that cannot be read, or one of more than 64 MB."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_SIDECAR:
            return None
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("files"), list) else None


def sidecar_mismatch(image: Path, sidecar: Path) -> str | None:
    """A warning if ``sidecar``, written by this package, records another SHA-256 of ``image``; otherwise ``None``."""
    try:
        digests = json.loads(sidecar.read_bytes())["sha256"]
        described = next(digest for name, digest in digests.items() if name.rpartition("/")[2] == image.name)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, StopIteration):
        return None
    if described == sha256(image):
        return None
    return f"{image}: is not the image that {sidecar.name} describes (its SHA-256 differs); do not rely on that file"


@functools.cache
def _host() -> str:
    """16 hexadecimal digits: 8 identify the machine, 8 its boot (the same in all containers of one machine)."""

    def short(text: str) -> str:
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    machine, boot = platform.node(), ""
    with suppress(OSError):
        machine += Path("/etc/machine-id").read_text()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return short(machine) + short(boot or machine)


def _same_host(tag: str) -> bool:
    host = _host()
    return tag[:8] == host[:8] or tag[8:] == host[8:]


def _create(path: Path, mode: int = 0o666) -> int:
    """Descriptor of a new file; fails if the name is taken, even by a dangling link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # the last one on Windows
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def _lock(descriptor: int, seconds: float = 0.0) -> bool | None:
    """Whether the lock was acquired within ``seconds``; ``None`` where the system or file system has no locks.

    EACCES, by which some file systems report a lock of another process, counts as such a lock (in filelock).
    ``filelock.FileLock`` opens files by name, so it cannot lock a folder or a descriptor that is written to; its waiting
    ``lock_descriptor`` has no time limit.
    """
    if _IS_WINDOWS:
        return None
    until = time.monotonic() + seconds
    while True:
        try:
            if lock_descriptor(descriptor, blocking=False):
                return True
        except OSError:
            return None
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder, if the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_folder(folder: Path) -> list[Path]:
    """Create ``folder``; return the folders that did not exist, innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for attempt in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            break
        except FileNotFoundError:  # another run removed a parent that it had created and not used
            if attempt == 99:
                raise
    for new in missing:
        _sync_folder(new.parent)
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with suppress(OSError):  # it contains other files, or does not exist
            folder.rmdir()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time publish files in ``folder``; the lock is on the folder itself and ends with the process.

    Raises:
        InputError: if the folder is still locked after a minute.
    """
    descriptor = None
    with suppress(OSError):  # a folder with write but without read permission
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield
        return
    try:
        if _lock(descriptor, _WAIT_SECONDS) is False:
            raise InputError(f"{folder}: another run is writing there; wait for it, or choose another folder")
        yield
    finally:
        with suppress(OSError):
            unlock_descriptor(descriptor)  # a process forked meanwhile holds the lock as well
        os.close(descriptor)


@contextmanager
def run_lock(path: Path, problem: str) -> Iterator[None]:
    """Lock a file and remove it at the end; the lock ends with the process, also for other machines.

    Args:
        path: path of the lock file.
        problem: start of the error message if the file is locked.

    Raises:
        InputError: if another process has locked it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if _lock(descriptor) is False:
            os.close(descriptor)
            raise InputError(f"{problem}; wait for it, or choose another folder")
        with suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                break
        os.close(descriptor)  # the process that had locked it has removed it meanwhile
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before unlocking, so that no other process's file is removed
        os.close(descriptor)


# One set of files


@dataclass(frozen=True)
class _Entry:
    """One file of a set.

    Args:
        part: name of the hidden file with the content.
        target: path of the published file, relative to the set's folder.
        digest: SHA-256 of the content.
        inode: device and inode of ``part``, which a link and a rename keep.
        replace: whether to replace an existing file.
        shared: whether to keep an existing file, which other runs write with the same content.
        before: inode, size and modification time (ns) of the replaced file; ``None`` if there is none.
    """

    part: str
    target: str
    digest: str
    inode: list[int]
    replace: bool = False
    shared: bool = False
    before: list[int] | None = None

    @property
    def old(self) -> str:
        """Name of the hidden copy of the replaced file."""
        return f"{self.part.removesuffix('.part')}.old"


@dataclass
class _FileSet:
    """Files that are published together.

    Args:
        home: folder of the hidden files; targets are relative to it.
        name: start of the hidden files' names.
        descriptor: descriptor of the locked ``.run`` file; -1 if there is none.
        new_folders: folders created for the set, innermost first.
        count: largest possible number of hidden files with content.
        keep: whether hidden files stay for the next run, because replaced files could not be restored.
    """

    home: Path
    name: str
    descriptor: int
    new_folders: list[Path]
    count: int = 0
    keep: bool = False

    def new(self, k: int, target: Path, replace: bool) -> tuple[Path, int]:
        """Path and descriptor of the ``k``-th hidden file, with the permissions of ``target``, or of a new file."""
        self.new_folders[:0] = _make_folder(target.parent)
        self.count = max(self.count, k + 1)
        part = self.home / f"{self.name}-{k}.part"
        if replace and target.is_file() and not target.is_symlink():
            descriptor = _create(part, 0o600)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, target.stat().st_mode & 0o777)
            return part, descriptor
        return part, _create(part)

    def write_journal(self, entries: Sequence[_Entry], extra: Mapping[str, str]) -> None:
        """Write and sync the files that are published next, and the files that are removed then."""
        text = json.dumps({"entries": [asdict(entry) for entry in entries], "remove": dict(extra)}) + "\n"
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        _write(self.descriptor, text.encode())
        _sync_folder(self.home)

    def clear_journal(self) -> None:
        """Empty the journal: everything is published, or rolled back."""
        os.ftruncate(self.descriptor, 0)

    def remove_hidden(self) -> None:
        """Remove all hidden files, the locked file last."""
        for k in range(self.count):
            for suffix in ("part", "old"):
                (self.home / f"{self.name}-{k}.{suffix}").unlink(missing_ok=True)
        (self.home / f"{self.name}.run").unlink(missing_ok=True)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def _start_set(home: Path) -> _FileSet:
    """A new set with its locked ``.run`` file and no other files."""
    new_folders: list[Path] = []
    for _ in range(1000):
        new_folders[:0] = _make_folder(home)
        name = f".medrecon-{_host()}-{secrets.token_hex(8)}"
        try:
            descriptor = _create(home / f"{name}.run", 0o600)
        except (FileExistsError, FileNotFoundError):
            # The name is taken, or another run removed the folder, which it had created and not used.
            continue
        if _lock(descriptor, _WAIT_SECONDS) is not False and os.fstat(descriptor).st_nlink:
            return _FileSet(home, name, descriptor, new_folders=new_folders)
        os.close(descriptor)  # another run removed the file before it was locked
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(home))


@contextmanager
def _new_set(home: Path) -> Iterator[_FileSet]:
    """A new set; at the end its hidden files are removed, and on an error its new folders as well."""
    files = _start_set(home)
    try:
        yield files
    except BaseException:
        with suppress(OSError):
            if not files.keep:
                files.remove_hidden()
        _remove_empty(files.new_folders)
        raise
    else:
        with suppress(OSError):  # all files are published; the next run removes the rest
            files.remove_hidden()
    finally:
        os.close(files.descriptor)
        if _IS_WINDOWS and not files.keep:  # Windows does not remove open files
            with suppress(OSError):
                files.remove_hidden()


def _inode(descriptor: int) -> list[int]:
    """Device and inode of an open file."""
    status = os.fstat(descriptor)
    return [status.st_dev, status.st_ino]


def _stat(path: Path) -> list[int] | None:
    """Inode, size and modification time (ns) of a file or link; ``None`` if it does not exist."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _is_empty(target: Path) -> bool:
    """Whether the file is empty, as left by a run that was killed on a file system without links."""
    status = _stat(target)
    return status is not None and status[1] == 0


def _is_published(target: Path, entry: _Entry) -> bool:
    """Whether ``target`` is the file of ``entry``, and not another run's file with the same content."""
    try:
        status = target.lstat()
    except OSError:
        return False
    return (status.st_dev != entry.inode[0] or status.st_ino == entry.inode[1]) and has_sha256(target, entry.digest)


def _keep_copy(path: Path, other: Path) -> None:
    """Keep the file at ``path`` under the name ``other``: a hard link, or a copy if the file system has no links."""
    follow = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}
    try:
        os.link(path, other, **follow)
    except OSError:
        shutil.copy2(path, other, follow_symlinks=False)


def _move_into_place(part: Path, target: Path, replace: bool) -> None:
    """Publish ``part`` as ``target``.

    Raises:
        FileExistsError: if the name is taken, unless ``replace``.
    """
    for _ in range(100):
        try:
            if replace:
                os.replace(part, target)
            else:
                os.link(part, target)
        except FileExistsError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        except FileNotFoundError:
            if not part.exists():
                raise
            _make_folder(target.parent)  # another run removed the folder, which was empty until now
            continue
        except OSError as error:
            if error.errno == errno.EXDEV:  # the target's folder is a mount, or a link to another file system
                with new_file(target, replace) as copy:
                    shutil.copyfile(part, copy)
            elif replace or error.errno not in _NO_LINKS:
                raise
            else:
                _reserve_and_replace(part, target)
        return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _reserve_and_replace(part: Path, target: Path) -> None:
    """Publish without links: create an empty file, which fails if the name is taken, and replace it."""
    os.close(_create(target))
    try:
        os.replace(part, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _publish_all(files: _FileSet, entries: Sequence[_Entry], again: bool = False) -> None:
    """Publish files in order; with ``again``, only the files that are not published yet."""
    folders: set[Path] = set()
    for entry in entries:
        part, target, old = (files.home / name for name in (entry.part, entry.target, entry.old))
        if entry is entries[-1]:
            for folder in folders:
                _sync_folder(folder)
        folders.add(target.parent)
        reserved = again and not entry.replace and _is_empty(target)
        if again and (_is_published(target, entry) or (entry.shared and os.path.lexists(target) and not reserved)):
            continue
        if entry.before is not None and not os.path.lexists(old):
            _keep_copy(target, old)
        try:
            _move_into_place(part, target, entry.replace or reserved)
        except FileExistsError:
            if not entry.shared:
                raise
    _sync_folder((files.home / entries[-1].target).parent)


def _roll_back(files: _FileSet, entries: Sequence[_Entry]) -> None:
    """Restore the replaced files and remove the published ones; files that another run has written stay."""
    for entry in reversed(entries):
        target, old = files.home / entry.target, files.home / entry.old
        if entry.shared or (os.path.lexists(target) and not _is_published(target, entry)):
            continue
        if os.path.lexists(old):
            _move_into_place(old, target, replace=True)
        elif entry.before is None:
            target.unlink(missing_ok=True)


def _publish(
    files: _FileSet, entries: Sequence[_Entry], leftovers: Callable[[], Mapping[Path, str]] | None = None
) -> None:
    """Publish all files, then remove ``leftovers``; on an error, change nothing.

    Raises:
        FileExistsError: if another run has created a target.
    """
    if len(entries) == 1 and entries[0].replace and leftovers is None:  # one rename, which needs no journal
        _move_into_place(files.home / entries[0].part, files.home / entries[0].target, replace=True)
        _sync_folder((files.home / entries[0].target).parent)
        return
    with folder_lock(files.home):
        _recover_all(files.home)
        entries = [dataclasses.replace(e, before=_stat(files.home / e.target) if e.replace else None) for e in entries]
        found = {} if leftovers is None else leftovers()
        extra = {os.path.relpath(path.absolute(), files.home): digest for path, digest in found.items()}
        files.write_journal(entries, extra)
        try:
            _publish_all(files, entries)
        except BaseException:
            files.keep = True
            _roll_back(files, entries)
            files.keep = False
            files.clear_journal()
            raise
        _remove_leftovers(files.home, extra)
        files.clear_journal()


def _remove_leftovers(home: Path, extra: Mapping[str, str]) -> None:
    """Remove files of earlier runs that have not changed, and their folders if they are empty then."""
    for name, digest in extra.items():
        path = home / name
        if path.parent.resolve() != home.resolve() / Path(name).parent or not has_sha256(path, digest):
            continue
        try:
            path.unlink()
        except OSError as error:
            warn(f"{path}: belongs to an earlier run and could not be removed ({error.strerror or error}); remove it")
        if path.parent != home:
            _remove_empty([path.parent])


# Leftovers of processes that were killed


def _read_journal(files: _FileSet) -> tuple[list[_Entry], dict[str, str]] | None:
    """Content of a ``.run`` file; ``None`` if it is not complete, which means that nothing is published yet."""

    def inside(name: str) -> bool:
        return not Path(name).is_absolute() and ".." not in Path(name).parts

    try:
        journal = json.loads((files.home / f"{files.name}.run").read_bytes())
        entries = [_Entry(**entry) for entry in journal["entries"]]
        extra = {str(name): str(digest) for name, digest in journal["remove"].items()}
        named = all(_HIDDEN.fullmatch(e.part) and e.part.startswith(files.name) and inside(e.target) for e in entries)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return (entries, extra) if named and all(map(inside, extra)) else None


def _finish(files: _FileSet) -> None:
    """Publish the remaining files of a killed run, or, if that is impossible, roll back."""
    journal = _read_journal(files)
    if journal is None:
        return
    entries, extra = journal

    def possible(entry: _Entry) -> bool:
        target = files.home / entry.target
        if entry.shared or _is_published(target, entry):
            return True
        unchanged = _stat(target) == entry.before or (not entry.replace and _is_empty(target))
        return unchanged and has_sha256(files.home / entry.part, entry.digest)

    if all(map(possible, entries)):
        _publish_all(files, entries, again=True)
        _remove_leftovers(files.home, extra)
    else:
        _roll_back(files, entries)


def _is_users_file(path: Path) -> bool:
    """Whether the path is a regular file of this user."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _recover_one(home: Path, name: str, tag: str, parts: Sequence[Path]) -> None:
    """Finish and remove one set of a killed process."""
    run = home / f"{name}.run"
    descriptor = None
    try:
        if os.path.lexists(run):
            if not _is_users_file(run):
                return
            descriptor = os.open(run, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            if not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
                return  # its process is alive, or has just finished
        files = _FileSet(home, name, -1 if descriptor is None else descriptor, new_folders=[])
        if not _same_host(tag):
            known = descriptor is not None and _read_journal(files) is not None
            if known or any(_age(path) < _FOREIGN_SECONDS for path in (run, *parts) if os.path.lexists(path)):
                return
        elif descriptor is not None:
            _finish(files)
            files.clear_journal()
        for path in (*parts, run):
            if _is_users_file(path):
                path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # finished meanwhile
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _find_hidden(home: Path) -> dict[tuple[str, str], list[Path]]:
    """Hidden files with content of this user in ``home``, by the set's name and host."""
    sets: dict[tuple[str, str], list[Path]] = {}
    for name in os.listdir(home):
        match = _HIDDEN.fullmatch(name)
        if match is not None and _is_users_file(home / name):
            parts = sets.setdefault((match[1], match[2]), [])
            if not name.endswith(".run"):
                parts.append(home / name)
    return sets


def _recover_all(home: Path) -> None:
    """:func:`recover` inside the lock on ``home``."""
    with suppress(OSError):  # a folder with write but without read permission
        for (name, tag), parts in _find_hidden(home).items():
            with suppress(OSError):
                _recover_one(home, name, tag, parts)


def recover(home: Path) -> None:
    """Finish publishing in ``home`` what killed runs had begun, and remove their hidden files; running processes are not touched.

    Files that cannot be read or removed are left for a later run.
    """
    with suppress(OSError, InputError):
        if _find_hidden(home):
            with folder_lock(home):
                _recover_all(home)


# What the package calls


def _common_folder(paths: Iterable[Path]) -> Path:
    """The innermost folder that contains all ``paths``."""
    return Path(os.path.commonpath([path.parent.absolute() for path in paths]))


def _problem(path: Path, overwrite: bool) -> str | None:
    """Reason why a file cannot be written at ``path``."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        return "a folder has this name; choose another name"
    if not overwrite:
        return "already exists; replace it with overwrite (--overwrite)"
    if stat.S_ISLNK(mode):
        return None  # the link is replaced, not what it points to
    if not stat.S_ISREG(mode):
        return "is not a regular file; choose another name"
    return None if mode & 0o222 else "is read-only; make it writable, or choose another folder"


def _advice(error: OSError) -> str:
    """Advice for an error in writing."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close other programs, or raise the limit of open files (ulimit -n)"
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
    return f"{'free space or ' if full else ''}choose another output folder"


def check_writable(paths: Sequence[Path], overwrite: bool, home: Path | None = None) -> None:
    """Check, before the computation, that outputs can be written; creates nothing.

    Args:
        paths: files that will be written.
        overwrite: whether to replace existing files.
        home: see :func:`write_atomically`.

    Raises:
        InputError: if a file exists (without ``overwrite``), or a folder cannot be written.
    """
    recover(_common_folder(paths) if home is None else home)
    for path in paths:
        try:
            problem = _problem(path, overwrite)
            if problem is not None:
                raise InputError(f"{path}: {problem}")
            folder = next(p for p in (path.parent, *path.parent.parents) if os.path.lexists(p))
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"{path.parent}: cannot be written ({error.strerror or error}); {_advice(error)}"
            ) from error


def write_atomically(
    contents: Mapping[Path, bytes],
    overwrite: bool = False,
    home: Path | None = None,
    shared: Mapping[Path, bytes] | None = None,
    leftovers: Callable[[], Mapping[Path, str]] | None = None,
) -> None:
    """Write all files or none; a process that is killed loses neither old nor new files.

    Args:
        contents: contents by path, published in this order; a file that describes the others comes last.
        overwrite: whether to replace existing files; they keep their permissions, and links are replaced themselves.
        home: folder that contains all files, for hidden files; default: the innermost one.
        shared: files that several runs write with the same content; existing ones are kept.
        leftovers: called when no other run can write in ``home``; returns files in ``home`` to remove afterwards, and their
            SHA-256 (files that have changed stay).

    Raises:
        InputError: if a file exists (without ``overwrite``) or cannot be written, e.g. on a full disk.
    """
    shared = dict(shared or {})
    home = (_common_folder([*contents, *shared]) if home is None else home).absolute()
    check_writable(list(contents), overwrite, home)
    last = list(contents)[-1:]
    order = [*list(contents)[:-1], *shared, *last]
    path = order[0]
    try:
        with _new_set(home) as files:
            entries = []
            for k, path in enumerate(order):
                is_shared = path in shared
                content = shared[path] if is_shared else contents[path]
                replace = overwrite and not is_shared
                part, descriptor = files.new(k, path, replace)
                try:
                    _write(descriptor, content)
                    inode = _inode(descriptor)
                finally:
                    os.close(descriptor)
                digest = hashlib.sha256(content).hexdigest()
                target = os.path.relpath(path.absolute(), home)
                entries.append(_Entry(part.name, target, digest, inode=inode, replace=replace, shared=is_shared))
            _publish(files, entries, leftovers)
    except FileExistsError as error:
        raise InputError(
            f"{error.filename}: was created by another run meanwhile; choose another name, or replace it (--overwrite)"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error}); {_advice(error)}") from error


@contextmanager
def new_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A hidden file for libraries that write by name; it is synced and published as ``path`` if the block ends without error.

    Raises:
        FileExistsError: if ``path`` exists, unless ``overwrite``.
    """
    path = path.absolute()
    with _new_set(path.parent) as files:
        part, descriptor = files.new(0, path, overwrite)
        os.close(descriptor)
        yield part
        descriptor = os.open(part, os.O_RDWR)
        try:
            os.fsync(descriptor)
            inode = _inode(descriptor)
        finally:
            os.close(descriptor)
        digest = "" if overwrite else sha256(part)  # for the journal, which a single rename does not need
        _publish(files, [_Entry(part.name, path.name, digest, inode=inode, replace=overwrite)])
