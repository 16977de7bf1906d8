"""Nobody's name in what is written: keyed pseudonyms, and texts without names."""

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
from medrecon.data.files import write_whole

__all__ = ["Key", "default_key", "without_names", "write_sources"]


def default_key() -> Path:
    """The user's own key: the same person gets the same pseudonym in all data sets.

    Raises:
        InputError: if the user has no folder for settings.
    """
    folder = os.environ.get("XDG_CONFIG_HOME") or (os.environ.get("APPDATA") if os.name == "nt" else None)
    try:
        return (Path(folder) if folder else Path.home() / ".config") / "medrecon" / "prep.key"
    except RuntimeError as error:
        raise InputError("no home folder to keep the key of pseudonyms in; give a key file (--key FILE)") from error


class Key:
    """A secret that turns names into pseudonyms; whoever lacks it cannot test a guess.

    Args:
        path: file that holds it, by default :func:`default_key`. It is made at first use where it is missing.
        expected: fingerprint of the key that a folder was prepared with.
        outside: folder in which it must not lie.
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
        """It differs between keys and does not give them away; ``None`` before the key was used."""
        return None if self.secret is None else self._of("fingerprint", "")

    def pseudonym(self, kind: str, name: str) -> str:
        """16 hexadecimal digits for a name; of another kind, the same name has another one.

        Raises:
            InputError: if there is no such key, or it is not the one expected.
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
            raise InputError(f"{path}: the key must not lie in the output; choose another file")
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
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _write_private(path: Path, text: str, overwrite: bool = False) -> None:
    with _private():
        try:
            write_whole({path: text.encode()}, overwrite)
        except InputError as error:
            if not overwrite and path.exists():  # another run was faster
                return
            reason = getattr(error.__cause__, "strerror", None) or "it is no regular file"
            raise InputError(
                f"{path}: of the key of pseudonyms, cannot be written ({reason}); give --key FILE, in a folder of yours "
                "outside the output"
            ) from error


def write_sources(key: Key, identity: str, sources: Mapping[str, Mapping[str, Any]]) -> Path:
    """Beside the key, for the owner: which files a case is made of.

    Args:
        key: of the pseudonyms.
        identity: of the prepared folder.
        sources: of every case its files, relative to the source folder.

    Raises:
        InputError: if the file of an earlier run cannot be read; it is not replaced then.
    """
    path = key.path.with_name(f"{key.path.name}.sources-{identity}.jsonl")
    held: dict[str, Any] = {}
    try:
        held = {row["case"]: row["source"] for row in map(json.loads, path.read_text().splitlines())}
    except FileNotFoundError:
        pass
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:  # replaced, it would forget files that are gone by now
        raise InputError(f"{path}: cannot be read ({one_line(error)}); restore it, or move it away") from error
    if not sources.items() <= held.items():
        rows = sorted({**held, **sources}.items())
        text = "".join(json.dumps({"case": case, "source": source}) + "\n" for case, source in rows)
        _write_private(path, text, overwrite=True)
    return path


_HELD = (
    (re.compile(r" \(it (?:holds|has no '\w+', but) .*\)"), ""),
    (re.compile(r"; if '.*' is (.*), rename it to '(\w+)'"), r"; rename what is \1 to '\2'"),
)
"""Names of arrays and groups in a file, which anybody may have chosen; see :func:`medrecon.formats.contents.lacking`."""
_VALUES = (
    (re.compile(r"(['\"])(?:(?!\1).)*\1"), "..."),  # what a library quotes of a header
    (re.compile(r"\b((?:Acquisition|Content|Study|Series)(?:Date|Time)+)(?: \([^)]*\)|=\S+)"), r"\1"),
    (re.compile(r"(?:\d+\.){4,}\d+"), "UID"),
    (re.compile(r"[^\s(),;]*\^[^\s(),;]*"), "..."),  # names of persons
    (re.compile(r"\b(?:19|20)\d\d[-.:/]?[01]\d[-.:/]?[0-3]\d\b"), "DATE"),
)


def without_names(
    text: str, source: Path, pseudonyms: Mapping[str, str], keep: Iterable[str] = (), shown: bool = False
) -> str:
    """A text for a manifest: files by their pseudonyms, nothing quoted from headers.

    Args:
        text: of an error or a warning.
        source: folder of the data.
        pseudonyms: of every file of the case, by its path below ``source``. Empty: names of files stay, relative to ``source``.
        keep: words that may be quoted.
        shown: for the owner's terminal: names of files stay, relative to ``source``, and nothing quoted from headers.
    """
    if not shown:
        for pattern, replacement in _HELD:
            text = pattern.sub(replacement, text)
    if not pseudonyms:
        return text.replace(f"{source}{os.sep}", "")
    names: dict[str, str] = {str(source): "the source"}
    for path, pseudonym in pseudonyms.items():
        new = path if shown else pseudonym
        names |= {str(source / path): new, path: new}
        base = path.rpartition("/")[2]
        if len(base) > 3 or not base.isdigit():
            names.setdefault(base, base if shown else pseudonym)
        for folder in Path(path).parents[:-1]:
            new = folder.as_posix() if shown else "the folder"
            names |= {str(source / folder): new, folder.as_posix(): new}
    held: list[str] = []

    def away(match: re.Match[str]) -> str:
        held.append(names.get(match[0], match[0]))
        return f"\0{len(held) - 1}\0"

    words = sorted([*names, *map(repr, keep)], key=len, reverse=True)
    text = re.sub(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, words))})(?![\w-])", away, text)
    for pattern, replacement in _VALUES:
        text = pattern.sub(replacement, text)
    return re.sub("\0(\\d+)\0", lambda match: held[int(match[1])], text)
