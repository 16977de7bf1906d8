"""Files appear whole or not at all, replace nothing unless asked to, and a killed process loses nothing.

How :func:`write_whole` writes a set of files:

1. Every content goes to a hidden file ``.medrecon-<host>-<random>-<k>.part`` in the set's folder, created with O_EXCL and
   O_NOFOLLOW, and is synced. A locked file ``.medrecon-<host>-<random>.run`` says that their process lives.
2. The journal (targets, checksums, what stood there before) is written into the ``.run`` file and synced.
3. The files appear in their order: by a hard link, which fails if the name is taken, or, with ``overwrite``, by a rename.
4. Hidden files are removed, the ``.run`` file last.

The lock ends with its process. The next run in the folder (:func:`recover`) finds ``.run`` files without a lock: before step 3
nothing has changed, and the hidden files are removed; in step 3 the journal is complete, and the rest of it is done. Only hidden
files of this pattern and of the same user are touched; those of another machine, whose locks may be invisible on a shared file
system, only after a day, and never if they hold a journal.
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

from filelock import lock_descriptor, unlock_descriptor

from medrecon.data.errors import InputError, warn

__all__ = [
    "check_writable",
    "holds",
    "locked",
    "new_file",
    "not_described",
    "only_run",
    "recover",
    "sha256",
    "write_whole",
]

_HIDDEN = re.compile(r"(\.medrecon-([0-9a-f]{16})-[0-9a-f]{16})(?:\.run|-\d+\.(?:part|old))")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_FOREIGN_SECONDS = 86400.0
_PATIENCE_SECONDS = 60.0
_IS_WINDOWS = os.name == "nt"
"""There nothing is locked: its locks would keep other handles of the same process from reading the journal."""


def sha256(*paths: Path) -> str:
    """SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def holds(path: Path, digest: str) -> bool:
    """Whether ``path`` is a regular file, not a link, with this SHA-256."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and sha256(path) == digest
    except OSError:
        return False


def not_described(image: Path, sidecar: Path) -> str | None:
    """A sentence if ``sidecar`` is one of this package and describes another content of ``image``; ``None`` otherwise."""
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
    """16 hexadecimal digits: 8 of the machine, 8 of its boot (the same in all containers of one machine)."""

    def short(text: str) -> str:
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    machine, boot = platform.node(), ""
    with suppress(OSError):
        machine += Path("/etc/machine-id").read_text()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return short(machine) + short(boot or machine)


def _same_host(tag: str) -> bool:
    own = _host()
    return tag[:8] == own[:8] or tag[8:] == own[8:]


def _create(path: Path, mode: int = 0o666) -> int:
    """A new file's descriptor; fails if anything has that name, be it a dangling link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # the last one on Windows
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode)


def _lock(descriptor: int, seconds: float = 0.0) -> bool | None:
    """Whether the lock was acquired within ``seconds``; ``None`` where the system or file system has no locks.

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
    """Make names durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make(folder: Path) -> list[Path]:
    """Create ``folder``; return the folders that were not there, innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for attempt in range(100):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            break
        except FileNotFoundError:  # another run removed a parent that it had made in vain
            if attempt == 99:
                raise
    for made in missing:
        _sync_folder(made.parent)
    return missing


def _remove(folders: Iterable[Path]) -> None:
    """Remove folders that are empty."""
    for folder in folders:
        with suppress(OSError):  # it holds other files by now, or was never made
            folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time lets files appear in ``folder``; the lock is on the folder itself and ends with the process.

    Raises:
        InputError: if it is not free within a minute.
    """
    descriptor = None
    with suppress(OSError):  # a folder that may be written but not read
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield
        return
    try:
        if _lock(descriptor, _PATIENCE_SECONDS) is False:
            raise InputError(f"{folder}: another run is writing there; wait for it, or choose another folder")
        yield
    finally:
        with suppress(OSError):
            unlock_descriptor(descriptor)  # a process forked meanwhile has it too
        os.close(descriptor)


@contextmanager
def only_run(path: Path, problem: str) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; its lock ends with the process, on other machines too.

    Args:
        path: of the file.
        problem: start of the sentence for whoever finds it locked.

    Raises:
        InputError: if another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if _lock(descriptor) is False:
            os.close(descriptor)
            raise InputError(f"{problem}; wait for it, or choose another folder")
        with suppress(FileNotFoundError):
            if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                break
        os.close(descriptor)  # its holder has removed it meanwhile
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before its lock ends, so nobody else's is removed
        os.close(descriptor)


# One set of files


@dataclass(frozen=True)
class _Entry:
    """One file of a set.

    Args:
        part: name of the hidden file with its content.
        target: its place, relative to the set's folder.
        digest: SHA-256 of the content.
        inode: device and inode of ``part``, which a link and a rename keep.
        replace: whether a file there is replaced.
        shared: whether a file there is kept instead, as good as ours.
        before: inode, size and time of change, ns, of what is replaced; ``None`` for nothing.
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
        """Name of the hidden second name of what stood there."""
        return f"{self.part.removesuffix('.part')}.old"


@dataclass
class _Set:
    """Files that appear together.

    Args:
        home: folder of the hidden files; targets are relative to it.
        name: start of the hidden files' names.
        descriptor: of the locked ``.run`` file.
        made: folders made for it, innermost first.
        count: how many hidden files with content there may be.
        keep: whether hidden files stay for the next run, since what was there could not be restored.
    """

    home: Path
    name: str
    descriptor: int
    made: list[Path]
    count: int = 0
    keep: bool = False

    def new(self, k: int, target: Path, replace: bool) -> tuple[Path, int]:
        """The ``k``-th hidden file, with the permissions that ``target`` has or gets, and its descriptor."""
        self.made[:0] = _make(target.parent)
        self.count = max(self.count, k + 1)
        part = self.home / f"{self.name}-{k}.part"
        if replace and target.is_file() and not target.is_symlink():
            descriptor = _create(part, 0o600)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, target.stat().st_mode & 0o777)
            return part, descriptor
        return part, _create(part)

    def keep_journal(self, entries: Sequence[_Entry], extra: Mapping[str, str]) -> None:
        """Write down, durably, what is about to appear, and what is removed then."""
        text = json.dumps({"entries": [asdict(entry) for entry in entries], "remove": dict(extra)}) + "\n"
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        _write(self.descriptor, text.encode())
        _sync_folder(self.home)

    def end_journal(self) -> None:
        """All is done, or taken back: hidden files are of no more use."""
        os.ftruncate(self.descriptor, 0)

    def end(self) -> None:
        """Remove all hidden files, the one with the lock last."""
        for k in range(self.count):
            for end in ("part", "old"):
                (self.home / f"{self.name}-{k}.{end}").unlink(missing_ok=True)
        (self.home / f"{self.name}.run").unlink(missing_ok=True)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def _started(home: Path) -> _Set:
    """A set of which nothing is there but its locked ``.run`` file."""
    made: list[Path] = []
    for _ in range(1000):
        made[:0] = _make(home)
        name = f".medrecon-{_host()}-{secrets.token_hex(8)}"
        try:
            descriptor = _create(home / f"{name}.run", 0o600)
        except (FileExistsError, FileNotFoundError):  # another run removed the folder, which it had made in vain
            continue
        if _lock(descriptor, _PATIENCE_SECONDS) is not False and os.fstat(descriptor).st_nlink:
            return _Set(home, name, descriptor, made)
        os.close(descriptor)  # another run took it for a dead one's in the moment before it was locked
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(home))


@contextmanager
def _begun(home: Path) -> Iterator[_Set]:
    """A new set; at the end no hidden file of it stays, and on an error no new folder."""
    files = _started(home)
    try:
        yield files
    except BaseException:
        with suppress(OSError):
            if not files.keep:
                files.end()
        _remove(files.made)
        raise
    else:
        with suppress(OSError):  # all files stand; the next run removes what is left
            files.end()
    finally:
        os.close(files.descriptor)
        if _IS_WINDOWS and not files.keep:  # Windows removes no open files
            with suppress(OSError):
                files.end()


def _stat(path: Path) -> list[int] | None:
    """Inode, size and time of change of what stands at ``path``, be it a link."""
    try:
        held = path.lstat()
    except FileNotFoundError:
        return None
    return [held.st_ino, held.st_size, held.st_mtime_ns]


def _is_empty(target: Path) -> bool:
    """Whether a file without content holds the name, as where a run died that had no links."""
    held = _stat(target)
    return held is not None and held[1] == 0


def _is_ours(target: Path, entry: _Entry) -> bool:
    """Whether the file of ``entry`` has appeared: not one of the same content that another run made."""
    try:
        held = target.lstat()
    except OSError:
        return False
    return (held.st_dev != entry.inode[0] or held.st_ino == entry.inode[1]) and holds(target, entry.digest)


def _second_name(path: Path, other: Path) -> None:
    """Let what stands at ``path`` live on as ``other``: a link, or a copy where the file system has none."""
    follow = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}
    try:
        os.link(path, other, **follow)
    except OSError:
        shutil.copy2(path, other, follow_symlinks=False)


def _place(part: Path, target: Path, replace: bool) -> None:
    """Let ``part`` appear as ``target``.

    Raises:
        FileExistsError: if something has that name, unless ``replace``.
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
            _make(target.parent)  # another run removed the folder, which was empty until now
            continue
        except OSError as error:
            if error.errno == errno.EXDEV:  # the target's folder is a link to another file system, or a mount
                with new_file(target, replace) as copy:
                    shutil.copyfile(part, copy)
            elif replace or error.errno not in _NO_LINKS:
                raise
            else:
                _reserve_and_replace(part, target)
        return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _reserve_and_replace(part: Path, target: Path) -> None:
    """Where there are no links: an empty file holds the name, or fails since it is taken."""
    os.close(_create(target))
    try:
        os.replace(part, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _appear(files: _Set, entries: Sequence[_Entry], again: bool = False) -> None:
    """Let files appear in their order; ``again``, those that have not yet."""
    folders: set[Path] = set()
    for entry in entries:
        part, target, old = (files.home / name for name in (entry.part, entry.target, entry.old))
        if entry is entries[-1]:
            for folder in folders:
                _sync_folder(folder)
        folders.add(target.parent)
        reserved = again and not entry.replace and _is_empty(target)
        if again and (_is_ours(target, entry) or (entry.shared and os.path.lexists(target) and not reserved)):
            continue
        if entry.before is not None and not os.path.lexists(old):
            _second_name(target, old)
        try:
            _place(part, target, entry.replace or reserved)
        except FileExistsError:
            if not entry.shared:
                raise
    _sync_folder((files.home / entries[-1].target).parent)


def _take_back(files: _Set, entries: Sequence[_Entry]) -> None:
    """Let everything be as it was before; what is neither that nor ours stays as it is."""
    for entry in reversed(entries):
        target, old = files.home / entry.target, files.home / entry.old
        if entry.shared or (os.path.lexists(target) and not _is_ours(target, entry)):
            continue
        if os.path.lexists(old):
            _place(old, target, replace=True)
        elif entry.before is None:
            target.unlink(missing_ok=True)


def _publish(files: _Set, entries: Sequence[_Entry], leftovers: Callable[[], Mapping[Path, str]] | None = None) -> None:
    """Let all files appear, then remove ``leftovers``; or, on an error, nothing.

    Raises:
        FileExistsError: naming the target that another run has made.
    """
    if len(entries) == 1 and entries[0].replace and leftovers is None:  # one rename, which needs no journal
        _place(files.home / entries[0].part, files.home / entries[0].target, replace=True)
        _sync_folder((files.home / entries[0].target).parent)
        return
    with locked(files.home):
        _recover_all(files.home)
        entries = [dataclasses.replace(e, before=_stat(files.home / e.target) if e.replace else None) for e in entries]
        found = {} if leftovers is None else leftovers()
        extra = {os.path.relpath(path.absolute(), files.home): digest for path, digest in found.items()}
        files.keep_journal(entries, extra)
        try:
            _appear(files, entries)
        except BaseException:
            files.keep = True
            _take_back(files, entries)
            files.keep = False
            files.end_journal()
            raise
        _discard(files.home, extra)
        files.end_journal()


def _discard(home: Path, extra: Mapping[str, str]) -> None:
    """Remove what earlier runs left, if it still is what they wrote, and folders that are empty then."""
    for name, digest in extra.items():
        path = home / name
        if path.parent.resolve() != home.resolve() / Path(name).parent or not holds(path, digest):
            continue
        try:
            path.unlink()
        except OSError as error:
            warn(f"{path}: is of an earlier run and could not be removed ({error.strerror or error}); remove it")
        if path.parent != home:
            _remove([path.parent])


# Leftovers of processes that died


def _journal(files: _Set) -> tuple[list[_Entry], dict[str, str]] | None:
    """What stands in a ``.run`` file, ``None`` if it is not complete: then nothing has appeared yet."""

    def inside(name: str) -> bool:
        return not Path(name).is_absolute() and ".." not in Path(name).parts

    try:
        held = json.loads((files.home / f"{files.name}.run").read_bytes())
        entries = [_Entry(**entry) for entry in held["entries"]]
        extra = {str(name): str(digest) for name, digest in held["remove"].items()}
        named = all(_HIDDEN.fullmatch(e.part) and e.part.startswith(files.name) and inside(e.target) for e in entries)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return (entries, extra) if named and all(map(inside, extra)) else None


def _finish(files: _Set) -> None:
    """Let the rest of a dead run's files appear, or, where that cannot be, take back those that did."""
    journal = _journal(files)
    if journal is None:
        return
    entries, extra = journal

    def possible(entry: _Entry) -> bool:
        target = files.home / entry.target
        if entry.shared or _is_ours(target, entry):
            return True
        unchanged = _stat(target) == entry.before or (not entry.replace and _is_empty(target))
        return unchanged and holds(files.home / entry.part, entry.digest)

    if all(map(possible, entries)):
        _appear(files, entries, again=True)
        _discard(files.home, extra)
    else:
        _take_back(files, entries)


def _is_own(path: Path) -> bool:
    """Whether a hidden file is a regular one of this user."""
    try:
        held = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(held.st_mode) and (not hasattr(os, "geteuid") or held.st_uid == os.geteuid())


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _recover_one(home: Path, name: str, tag: str, parts: Sequence[Path]) -> None:
    """Finish and remove one dead set."""
    run = home / f"{name}.run"
    descriptor = None
    try:
        if os.path.lexists(run):
            if not _is_own(run):
                return
            descriptor = os.open(run, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            if not _lock(descriptor) or not os.fstat(descriptor).st_nlink:
                return  # its process lives, or has just ended by itself
        files = _Set(home, name, -1 if descriptor is None else descriptor, [])
        if not _same_host(tag):
            known = descriptor is not None and _journal(files) is not None
            if known or any(_age(path) < _FOREIGN_SECONDS for path in (run, *parts) if os.path.lexists(path)):
                return
        elif descriptor is not None:
            _finish(files)
            files.end_journal()
        for path in (*parts, run):
            if _is_own(path):
                path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # ended by itself meanwhile
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _found(home: Path) -> dict[tuple[str, str], list[Path]]:
    """Hidden files of this user in ``home``: by the set's name and host those with content."""
    sets: dict[tuple[str, str], list[Path]] = {}
    for name in os.listdir(home):
        match = _HIDDEN.fullmatch(name)
        if match is not None and _is_own(home / name):
            parts = sets.setdefault((match[1], match[2]), [])
            if not name.endswith(".run"):
                parts.append(home / name)
    return sets


def _recover_all(home: Path) -> None:
    """Do what :func:`recover` does, with the lock on ``home``."""
    with suppress(OSError):  # a folder that may be written but not read
        for (name, tag), parts in _found(home).items():
            with suppress(OSError):
                _recover_one(home, name, tag, parts)


def recover(home: Path) -> None:
    """Finish what runs that died had begun to let appear in ``home``, and remove their hidden files; live ones' stay.

    What cannot be read or removed is left for another time.
    """
    with suppress(OSError, InputError):
        if _found(home):
            with locked(home):
                _recover_all(home)


# What the package calls


def _common(paths: Iterable[Path]) -> Path:
    """The innermost folder that holds all ``paths``."""
    return Path(os.path.commonpath([path.parent.absolute() for path in paths]))


def _problem(path: Path, overwrite: bool) -> str | None:
    """Why ``path`` cannot become a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        return "a folder stands where the output should go; choose another name"
    if not overwrite:
        return "already exists; replace it with overwrite (--overwrite)"
    if stat.S_ISLNK(mode):
        return None  # the link is replaced, not what it points to
    if not stat.S_ISREG(mode):
        return "is not a regular file; choose another name"
    return None if mode & 0o222 else "is read-only; make it writable, or choose another folder"


def _advice(error: OSError) -> str:
    """What to do about what the system refused."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close other programs, or raise the limit of open files (ulimit -n)"
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
    return f"{'free space or ' if full else ''}choose another output folder"


def check_writable(paths: Sequence[Path], overwrite: bool, home: Path | None = None) -> None:
    """Fail now rather than after the work: existing outputs, folders that cannot be written. Makes nothing.

    Args:
        paths: files that are going to be written.
        overwrite: whether existing ones are replaced.
        home: as in :func:`write_whole`.

    Raises:
        InputError: naming the path and the remedy.
    """
    recover(_common(paths) if home is None else home)
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


def write_whole(
    contents: Mapping[Path, bytes],
    overwrite: bool = False,
    home: Path | None = None,
    shared: Mapping[Path, bytes] | None = None,
    leftovers: Callable[[], Mapping[Path, str]] | None = None,
) -> None:
    """Write files that all appear, in this order, or none; a killed process loses neither the old ones nor the new.

    Args:
        contents: in the order of their appearance; what describes the others comes last.
        overwrite: replace existing files, which keep their permissions; of links, the link.
        home: folder that holds all of them, for hidden files; default: the innermost.
        shared: files that several runs write alike: made if they are not there.
        leftovers: gives files in ``home`` to remove afterwards, and their SHA-256 (one that has changed stays); called when no
            other run can write there.

    Raises:
        InputError: if a file exists (without ``overwrite``) or cannot be written, e.g. on a full disk.
    """
    shared = dict(shared or {})
    home = (_common([*contents, *shared]) if home is None else home).absolute()
    check_writable(list(contents), overwrite, home)
    last = list(contents)[-1:]
    order = [*list(contents)[:-1], *shared, *last]
    path = order[0]
    try:
        with _begun(home) as files:
            entries = []
            for k, path in enumerate(order):
                common = path in shared
                part, descriptor = files.new(k, path, overwrite and not common)
                try:
                    _write(descriptor, shared[path] if common else contents[path])
                    held = os.fstat(descriptor)
                finally:
                    os.close(descriptor)
                digest = hashlib.sha256(shared[path] if common else contents[path]).hexdigest()
                target = os.path.relpath(path.absolute(), home)
                entries.append(
                    _Entry(part.name, target, digest, [held.st_dev, held.st_ino], overwrite and not common, common)
                )
            _publish(files, entries, leftovers)
    except FileExistsError as error:
        raise InputError(
            f"{error.filename}: was made by another run meanwhile; choose another name, or replace it (--overwrite)"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: could not be written ({error.strerror or error}); {_advice(error)}") from error


@contextmanager
def new_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A hidden file for libraries that write by name; it is synced and appears as ``path`` if the block ends without error.

    Raises:
        FileExistsError: if ``path`` exists, unless ``overwrite``.
    """
    path = path.absolute()
    with _begun(path.parent) as files:
        part, descriptor = files.new(0, path, overwrite)
        os.close(descriptor)
        yield part
        descriptor = os.open(part, os.O_RDWR)
        try:
            os.fsync(descriptor)
            held = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        digest = "" if overwrite else sha256(part)  # of the journal, which one rename needs not
        _publish(files, [_Entry(part.name, path.name, digest, [held.st_dev, held.st_ino], overwrite)])
