"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from medrecon.data.errors import InputError

__all__ = ["check_writable", "write_whole"]


def _make(folder: Path) -> list[Path]:
    """Create ``folder``; return the folders that were not there, innermost first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return  # somebody else's files are in it by now, or it was never made


def _beside(path: Path, kind: str) -> Path:
    """A temporary name in the folder of ``path``, so that renaming never crosses file systems."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def _second_name(path: Path, other: Path) -> None:
    """Let the content of ``path`` live on as ``other``: a link, or a copy where the file system has no links."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copy2(path, other)


def check_writable(paths: list[Path], overwrite: bool) -> None:
    """Fail now rather than after the work: existing outputs, folders that cannot be written. Leaves no trace.

    Raises:
        InputError: naming the path and the remedy.
    """
    for path in paths:
        made: list[Path] = []
        try:
            if path.is_dir():
                raise InputError(f"{path}: a folder stands where the output should go; choose another name")
            if path.exists() and not overwrite:
                raise InputError(f"{path}: already exists; give --overwrite to replace it")
            made = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
            _make(path.parent)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path.parent}: cannot be written ({reason}); choose another output folder") from error
        finally:
            _remove(made)


def write_whole(contents: Mapping[Path, bytes], overwrite: bool = False) -> None:
    """Write files under temporary names, then rename them all; on any error none of them, and no new folder, stays.

    Raises:
        InputError: if a file exists (without ``overwrite``) or cannot be written, e.g. on a full disk.
    """
    check_writable(list(contents), overwrite)
    made: list[Path] = []
    written: list[tuple[Path, Path]] = []
    renamed: list[tuple[Path, Path | None]] = []
    try:
        for path, content in contents.items():
            made = [*_make(path.parent), *made]
            temporary = _beside(path, "part")
            written.append((temporary, path))
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in written:
            old = _beside(path, "old") if path.exists() else None
            if old is not None:
                _second_name(path, old)
            renamed.append((path, old))
            os.replace(temporary, path)  # at no moment is there no file of that name
    except BaseException as error:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)
        for path, old in renamed:
            if old is None:
                path.unlink(missing_ok=True)
                continue
            try:
                os.replace(old, path)
            except OSError:
                if not path.samefile(old):
                    continue  # the last copy of what was there
            old.unlink(missing_ok=True)  # two names of one file: replacing does nothing
        _remove(made)
        if not isinstance(error, OSError):
            raise
        path = written[-1][1] if written else next(iter(contents))
        reason = error.strerror or error
        raise InputError(f"{path}: could not be written ({reason}); free space or choose another folder") from error
    for _, old in renamed:  # all new files stand: from here on nothing is rolled back
        if old is not None:
            old.unlink(missing_ok=True)
