"""Finished parts of a long run, kept beside its output until the run is complete."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medrecon.data.errors import InputError
from medrecon.data.files import run_lock, write_atomically

__all__ = ["KeptParts", "kept_parts"]

_FOLDER = re.compile(r"\.medrecon-parts-[0-9a-f]{16}-[0-9a-f]{32}")


class KeptParts:
    """Parts of one run as files of a hidden folder. Each begins with its SHA-256, so that a damaged file is not used.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index}"

    def load(self, index: int) -> bytes | None:
        """The content of a part; ``None`` if it is not there, or damaged."""
        try:
            stored = self._path(index).read_bytes()
        except OSError:
            return None
        digest, content = stored[:32], stored[32:]
        return content if hashlib.sha256(content).digest() == digest else None

    def save(self, index: int, content: bytes) -> None:
        """Write a part; a process that is killed leaves the whole part or none."""
        digest = hashlib.sha256(content).digest()
        self.folder.mkdir(exist_ok=True)  # a run that was refused, or has just finished, removes it while it is empty
        write_atomically({self._path(index): digest + content}, overwrite=True)


@contextmanager
def kept_parts(folder: Path, name: str, request: str) -> Iterator[KeptParts]:
    """The parts of a run; they are removed when the block ends without an error, and kept after an error or a kill.

    Args:
        folder: folder of the output.
        name: name of the output in it.
        request: text that determines the output: options and contents of the inputs. Parts of other requests are not used, and
            those of the same name are removed at the end.

    Raises:
        InputError: if another run makes the same output, or the folder cannot be written.
    """
    prefix = f".medrecon-parts-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    home = folder / f"{prefix}-{hashlib.sha256(request.encode()).hexdigest()[:32]}"
    is_new = not folder.exists()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); choose another output folder"
        ) from error
    try:
        with run_lock(folder / f"{prefix}.lock", f"{folder / name}: another run is reconstructing this volume"):
            yield KeptParts(home)
            for one in folder.glob(f"{prefix}-*"):
                if _FOLDER.fullmatch(one.name) and one.is_dir() and not one.is_symlink():
                    with suppress(OSError):
                        shutil.rmtree(one)
    finally:
        with suppress(OSError):  # it contains parts
            home.rmdir()
        if is_new:
            with suppress(OSError):  # it contains parts or images
                folder.rmdir()
