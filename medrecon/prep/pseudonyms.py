"""Keyed pseudonyms, and removal of names from messages."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medrecon.data.errors import InputError, one_line
from medrecon.data.files import write_atomically

__all__ = ["Key", "default_key", "without_names", "write_sources"]


def default_key() -> Path:
    """Path of the user's key; with one key, a person has the same pseudonym in all data sets.

    Raises:
        InputError: if the user has no folder for settings.
    """
    folder = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    try:
        return (Path(folder) if folder else Path.home() / ".config") / "medrecon" / "prep.key"
    except RuntimeError as error:
        raise InputError("there is no home folder for the key of pseudonyms; give a key file (--key FILE)") from error


class Key:
    """A secret key for pseudonyms; without it, nobody can check a guessed name.

    Args:
        path: file of the key, created at first use if missing; default: :func:`default_key`.
        expected: fingerprint of the key that a folder was prepared with.
        outside: folder that must not contain the file.
    """

    def __init__(
        self, path: str | Path | None = None, expected: str | None = None, outside: Path | None = None
    ) -> None:
        self.given = None if path is None else Path(path).absolute()
        self.expected = expected
        self.outside = outside
        self.secret: bytes | None = None

    @property
    def path(self) -> Path:
        """File of the key."""
        return default_key() if self.given is None else self.given

    @property
    def fingerprint(self) -> str | None:
        """Identifies the key without revealing it; ``None`` before the key was used."""
        return None if self.secret is None else self._of("fingerprint", "")

    def pseudonym(self, kind: str, name: str) -> str:
        """16 hexadecimal digits for a name; the same name has different pseudonyms for different kinds.

        Raises:
            InputError: if the key cannot be read, or is not the expected key.
        """
        if self.secret is None:
            self.secret = self._loaded()
            if self.expected not in (None, self.fingerprint):
                self.secret = None
                raise self._other_key()
        return self._of(kind, name)

    def _of(self, kind: str, name: str) -> str:
        assert self.secret is not None
        text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()[:16]

    def _other_key(self) -> InputError:
        return InputError(
            f"{self.outside}: was prepared with another key than {self.path}; give that key file (--key), or choose another "
            "folder if it is lost"
        )

    def _loaded(self) -> bytes:
        path = self.path
        if self.outside is not None and self.outside.resolve() in path.resolve().parents:
            raise InputError(f"{path}: the key must not be in the output folder; choose another file")
        if not os.path.lexists(path):
            if self.expected is not None:
                raise self._other_key()
            with suppress(FileExistsError):
                _write_private(path, f"{secrets.token_hex(32)}\n")
        try:
            if not path.is_file():
                raise OSError("it is not a file")
            with path.open("rb") as file:
                text = file.read(200).decode("ascii", "replace").strip()
        except OSError as error:
            raise InputError(
                f"{path}: the key cannot be read ({error.strerror or error}); give a key file (--key FILE)"
            ) from error
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise InputError(f"{path}: not a key of 'medrecon prep'; give another key file (--key)")
        return bytes.fromhex(text)


@contextmanager
def _private() -> Iterator[None]:
    """New files can be read by their owner only."""
    earlier = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(earlier)


def _write_private(path: Path, text: str, overwrite: bool = False) -> None:
    with _private():
        try:
            write_atomically({path: text.encode()}, overwrite)
        except InputError as error:
            if not overwrite and path.exists():  # another run created it meanwhile
                return
            reason = getattr(error.__cause__, "strerror", None) or "it is not a regular file"
            raise InputError(
                f"{path}: the key of pseudonyms cannot be written ({reason}); give --key FILE in a folder of yours "
                "outside the output"
            ) from error


def write_sources(key: Key, identity: str, sources: Mapping[str, Mapping[str, Any]]) -> Path:
    """List the source files of every case in a file beside the key, for the owner.

    Args:
        key: key of the pseudonyms.
        identity: ``id`` of the prepared folder.
        sources: files of every case, relative to the source folder.

    Raises:
        InputError: if the file of an earlier run cannot be read; it is not replaced then.
    """
    path = key.path.with_name(f"{key.path.name}.sources-{identity}.jsonl")
    earlier: dict[str, Any] = {}
    try:
        earlier = {row["case"]: row["source"] for row in map(json.loads, path.read_text().splitlines())}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError) as error:  # a new file would lack cases whose files are gone
        raise InputError(f"{path}: cannot be read ({one_line(error)}); restore it, or move it away") from error
    if not sources.items() <= earlier.items():
        rows = sorted({**earlier, **sources}.items())
        text = "".join(json.dumps({"case": case, "source": source}) + "\n" for case, source in rows)
        _write_private(path, text, overwrite=True)
    return path


_FROM_CONTENT = (
    (re.compile(r" \(it (?:holds|has no '\w+', but) .*\)"), ""),
    (re.compile(r"; if '.*' is (.*), rename it to '(\w+)'"), r"; rename what is \1 to '\2'"),
)
"""Names of arrays and groups in a file, which may be names of people; see :mod:`medrecon.formats.contents`."""
_FROM_HEADERS = (
    (re.compile(r"(['\"])(?:(?!\1).)*\1"), "..."),  # quoted from a header by a library
    (re.compile(r"\b((?:Acquisition|Content|Study|Series)(?:Date|Time)+)(?: \([^)]*\)|=\S+)"), r"\1"),
    (re.compile(r"(?:\d+\.){4,}\d+"), "UID"),
    (re.compile(r"[^\s(),;]*\^[^\s(),;]*"), "..."),  # DICOM person names
    (re.compile(r"\b(?:19|20)\d\d[-.:/]?[01]\d[-.:/]?[0-3]\d\b"), "DATE"),
)


def without_names(
    text: str, source: Path, pseudonyms: Mapping[str, str], keep: Iterable[str] = (), for_owner: bool = False
) -> str:
    """A message with pseudonyms instead of file names, and without values quoted from headers.

    Args:
        text: error or warning.
        source: folder of the data.
        pseudonyms: pseudonym of every file of the case, by its path below ``source``. If empty, names of files stay, relative to
            ``source``.
        keep: words that may be quoted.
        for_owner: whether the message is for the owner's terminal; then names of files stay, relative to ``source``.
    """
    if not for_owner:
        for pattern, replacement in _FROM_CONTENT:
            text = pattern.sub(replacement, text)
    if not pseudonyms:
        return text.replace(f"{source}{os.sep}", "")
    names: dict[str, str] = {str(source): "the source"}
    for path, pseudonym in pseudonyms.items():
        new = path if for_owner else pseudonym
        names |= {str(source / path): new, path: new}
        base = path.rpartition("/")[2]
        if len(base) > 3 or not base.isdigit():
            names.setdefault(base, base if for_owner else pseudonym)
        for folder in Path(path).parents[:-1]:
            new = folder.as_posix() if for_owner else "the folder"
            names |= {str(source / folder): new, folder.as_posix(): new}
    kept: list[str] = []

    def protect(match: re.Match[str]) -> str:
        kept.append(names.get(match[0], match[0]))
        return f"\0{len(kept) - 1}\0"

    words = sorted([*names, *map(repr, keep)], key=len, reverse=True)
    text = re.sub(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, words))})(?![\w-])", protect, text)
    for pattern, replacement in _FROM_HEADERS:
        text = pattern.sub(replacement, text)
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text)
