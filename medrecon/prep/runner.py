"""From a folder and a recipe to shards and a manifest."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.data.errors import InputError, one_line, warn
from medrecon.data.files import only_run
from medrecon.prep import cluster
from medrecon.prep.cases import Case, finding, stamp_of
from medrecon.prep.journal import Journal
from medrecon.prep.people import Key, without_names, write_sources
from medrecon.prep.preparing import made, transform_of, unwritable
from medrecon.prep.recipes import check_recipe, parser_of
from medrecon.prep.shards import check_staged, pack, read_rows, write_lines
from medrecon.workers import Pool, Task

__all__ = ["Report", "prepare", "split_of"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Report:
    """What a run did.

    Args:
        made: cases prepared now.
        kept: cases that an earlier run had prepared.
        failed: rows of those that could not be, with their ``error``; and, as names may be left out or have pseudonyms there,
            ``said``: the same with names, for the owner's terminal alone.
        sources: the file, beside the key, that says which files cases with pseudonyms are made of.
    """

    made: int
    kept: int
    failed: list[dict[str, Any]]
    sources: Path | None = None


def split_of(subject: str, shares: Sequence[float], seed: int = 0) -> str:
    """``train``, ``val`` or ``test``, by the subject's name alone, so that it stays when other subjects come or go.

    Args:
        subject: its name.
        shares: of the splits, in that order, in sum 1; of few subjects they are met roughly.
        seed: of the data set.
    """
    at = (
        int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode("utf-8", "surrogateescape")).digest()[:8], "big")
        / 2**64
    )
    for name, edge in zip(SPLITS, np.cumsum(shares), strict=False):
        if at < edge:
            return name
    return SPLITS[max(k for k, share in enumerate(shares) if share > 0)]


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """No two runs write into one folder; a lock that ends with its process. Folders made in vain are removed."""
    missing = [p for p in (destination, *destination.parents) if not p.exists()]
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with only_run(destination / ".lock", f"{destination}: another run is writing there"):
            yield
    except OSError as error:
        raise InputError(
            f"{destination}: cannot be written ({error.strerror or one_line(error)}); free space or choose another output folder"
        ) from error
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True)
class _Folder:
    """The destination: what it is made of, and whose key names its cases."""

    path: Path
    before: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> _Folder:
        file = path / "recipe.json"
        if not file.exists():
            return cls(path, None)
        try:
            before = json.loads(file.read_text())
            if not isinstance(before, dict):
                raise ValueError("it holds no task")
        except ValueError as error:
            raise InputError(f"{file}: damaged ({error}); choose another folder") from error
        return cls(path, before)

    def task(self, wanted: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
        """What the folder is made of from now on; what would be mixed with something else is refused."""
        if self.before is None:
            identity = {} if fingerprint is None else {"key": fingerprint, "id": secrets.token_hex(4)}
            return {**wanted, **identity}
        differs = [key for key in wanted if self.before.get(key) != wanted[key]]
        if differs:
            raise InputError(
                f"{self.path}: was prepared with another {', '.join(differs)}; give the same, or choose another folder"
            )
        if fingerprint is not None and self.before.get("key") is None:
            raise InputError(
                f"{self.path}: was prepared by an older medrecon, which wrote names from headers and of DICOM files; choose "
                "another folder, and delete this one rather than give it away"
            )
        return self.before


def prepare(
    source: str | Path,
    destination: str | Path,
    recipe: Mapping[str, Any],
    workers: int = 1,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    dask: str | None = None,
    shard_bytes: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
    failure: Callable[[dict[str, Any]], None] | None = None,
    timeout: float = 60.0,
    retry: bool = False,
    key: str | Path | None = None,
) -> Report:
    """Prepare a data set: shards in HDF5, and a manifest with a row a case.

    A run that was killed goes on where it was; files that have come since are added; what failed is tried again, but for files
    whose reader crashed or hung. Subjects keep their split whatever comes. The order and number of workers change nothing in what
    is written of a case.

    Args:
        source: folder of the data.
        destination: folder of the results, its own.
        recipe: see :func:`medrecon.prep.load_recipe`.
        workers: processes.
        shares: of ``train``, ``val`` and ``test``.
        seed: of splits, and of what a recipe draws at random.
        dask: address of a scheduler, whose workers see the same folders; instead of own processes.
        shard_bytes: about how large a shard may be.
        progress: called with (cases done, cases in all).
        failure: called with every row that failed.
        timeout: seconds that a case may take, and again for each 16 MB of its files.
        retry: try files again whose reader crashed or hung.
        key: file of the key of pseudonyms, made where it is missing; default: the user's own.

    Returns:
        what was done; failures stand in ``failed.jsonl`` too.

    Raises:
        InputError: if there are no cases, or the folder was made otherwise.
    """
    source, destination = Path(source).absolute(), Path(destination).absolute()
    check_recipe(recipe)
    _check(workers, shares, timeout, recipe)
    text = json.dumps(recipe, sort_keys=True)
    transform_of(text, str(source), seed)
    if source.resolve() == destination.resolve():
        raise InputError(f"{destination}: is the source; choose another output folder")
    stray = [p.name for p in destination.iterdir()] if destination.is_dir() else []
    if stray and "recipe.json" not in stray and not all(name.startswith(".") for name in stray):
        raise InputError(f"{destination}: holds other things ({', '.join(sorted(stray)[:3])}); choose an empty folder")
    with _alone(destination):
        folder = _Folder.read(destination)
        secret = Key(key, (folder.before or {}).get("key"), destination)
        journal, finished = Journal(destination, retry), False
        try:
            with Pool(workers, timeout, (journal.path, journal.over)) as pool:
                with finding(secret, pool, journal):
                    cases: list[Case] = made(parser_of(recipe, source, seed), "cases")
                if not cases:
                    raise InputError(f"{source}: holds no file that the recipe looks for; see its 'cases' in data_prep")
                wanted = {"recipe": json.loads(text), "split": list(shares), "seed": seed}
                task = folder.task(wanted, secret.fingerprint)
                shown = {case.name: case.inputs for case in cases if case.pseudonyms}
                sources = write_sources(secret, task["id"], shown) if shown else None
                if folder.before is None:
                    write_lines(destination / "recipe.json", [task])
                run = _Run(source, destination, text, shares, seed, pool, journal, progress, failure)
                report = run(cases, dask, shard_bytes, sources)
                finished = True
                return report
        finally:
            journal.close(finished)


def _check(workers: int, shares: Sequence[float], timeout: float, recipe: Mapping[str, Any]) -> None:
    if not 1 <= len(shares) <= 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"splits are one to three shares that make 1, such as .8/.1/.1; got {'/'.join(map(str, shares))}"
        )
    if workers < 1:
        raise InputError(f"there must be at least one worker; got {workers}")
    if not timeout > 0:
        raise InputError(f"the time limit must be more than 0 s; got {timeout}")
    if recipe.get("compression") not in (None, "gzip", "lzf"):
        raise InputError(f"compression is gzip, lzf or null; got {recipe['compression']!r}")


class _Run:
    """One run over the cases of a data set."""

    def __init__(
        self,
        source: Path,
        destination: Path,
        recipe: str,
        shares: Sequence[float],
        seed: int,
        pool: Pool,
        journal: Journal,
        progress: Callable[[int, int], None] | None,
        failure: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.source, self.destination, self.recipe = source, destination, recipe
        self.shares, self.seed = shares, seed
        self.pool, self.journal = pool, journal
        self.progress, self.failure = progress, failure
        self.failed: list[dict[str, Any]] = []

    def __call__(self, cases: Sequence[Case], dask: str | None, shard_bytes: int, sources: Path | None) -> Report:
        check_staged(self.destination)
        packed, staged = read_rows(self.destination)
        before = {**packed, **staged}
        self._compare([case for case in cases if case.error is None and case.name in before], before)
        todo, last = self._to_do(cases, before)
        try:
            self._prepare(todo, last, dask)
        except InputError:
            if not any(read_rows(self.destination)):  # nothing is there that another recipe would not fit
                (self.destination / "recipe.json").unlink()
            raise
        _, staged = read_rows(self.destination)
        told_of = {row["case"] for row in self.failed}
        for case in (*todo, *last):
            if case.name not in staged and case.name not in told_of:
                self._fail(case, f"its worker does not see {self.destination}; give a folder that all machines share")
        try:
            pack(self.destination, staged, shard_bytes)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.destination}: shards could not be written ({unwritable(error) or one_line(error)}); "
                "free space and run again"
            ) from error
        packed, _ = read_rows(self.destination)
        with suppress(OSError):
            (self.destination / ".staged").rmdir()
        write_lines(self.destination / "manifest.jsonl", [packed[name] for name in sorted(packed)])
        rows = [{key: value for key, value in row.items() if key != "said"} for row in self.failed]
        write_lines(self.destination / "failed.jsonl", sorted(rows, key=lambda row: row["case"]))
        return Report(len(packed) - len(before), len(before), self.failed, sources)

    def _fail(self, case: Case, error: str, **more: object) -> dict[str, Any]:
        row = {"case": case.name, "subject": case.subject, "split": self._split(case), "error": self._text(case, error)}
        row |= more
        row["said"] = self._text(case, error, shown=True)
        self.failed.append(row)
        if self.failure is not None:
            self.failure(row)
        return row

    def _text(self, case: Case, text: str, shown: bool = False) -> str:
        return without_names(text, self.source, case.pseudonyms, case.inputs, shown)

    def _split(self, case: Case) -> str:
        return split_of(case.split_by or case.subject, self.shares, self.seed)

    def _stamp(self, case: Case) -> str | None:
        try:
            return stamp_of(case.paths(self.source))
        except OSError:
            return None

    def _compare(self, cases: Iterable[Case], before: Mapping[str, Mapping[str, Any]]) -> None:
        """Report cases whose files are not what they were prepared from; files with another stamp are read again."""
        doubtful = []
        for case in cases:
            row, paths = before[case.name], case.paths(self.source)
            if row["source"] != case.shown or self._stamp(case) != row["stamp"]:
                size = sum(path.stat().st_size for path in paths if path.is_file())
                arguments = {"paths": [str(path) for path in paths]}
                doubtful.append(Task("medrecon.prep.preparing:digest", arguments, size, case))
        for task, answer in self.pool.run(doubtful):
            case = task.about
            if answer.get("sha256") == before[case.name]["sha256"]:
                continue  # copied, or touched
            path = case.paths(self.source)[0]
            if "sha256" in answer:
                self._fail(case, f"{path}: has changed since it was prepared; prepare the data set into another folder")
            else:
                reason = answer.get("error") or answer.get("lost")
                self._fail(case, f"{path}: can no longer be read ({reason}); its prepared case stays")

    def _to_do(self, cases: Iterable[Case], before: Mapping[str, Any]) -> tuple[list[Case], list[Case]]:
        """The cases to prepare, and those that come last, alone, since a run ended with them; others fail."""
        todo, last = [], []
        for case in cases:
            if case.error is not None:
                more = {} if case.lost is None else dict(zip(("header", "lost"), case.lost, strict=True))
                self._fail(case, case.error, **more)
            elif case.name not in before:
                stamp = self._stamp(case) if case.name in self.journal.lost or self.journal.deaths[case.name] else None
                reason = self.journal.known(case.name, stamp)
                if reason is not None:
                    self._fail(case, reason, lost=stamp)
                else:
                    (last if self.journal.deaths[case.name] else todo).append(case)
        return todo, last

    def _task(self, case: Case) -> Task:
        work = {
            "recipe": self.recipe,
            "source": str(self.source),
            "destination": str(self.destination),
            "seed": self.seed,
            "case": case.name,
            "subject": case.subject,
            "split": self._split(case),
            "inputs": dict(case.inputs),
            "pseudonyms": dict(case.pseudonyms),
            "seconds": min(self.pool.timeout / 2, 60.0),
        }
        size = 0
        for path in case.paths(self.source):
            with suppress(OSError):
                size += path.stat().st_size
        return Task("medrecon.prep.preparing:prepare_case", {"work": work}, size, case)

    def _prepare(self, todo: Sequence[Case], last: Sequence[Case], dask: str | None) -> None:
        total = len(todo) + len(last)
        for done, (task, answer) in enumerate(self._answers(todo, last, dask), 1):
            case: Case = task.about
            row = None
            if "stop" in answer:
                raise InputError(
                    f"{self.destination}: cannot be written ({answer['stop']}); free space, or check its permissions, and run "
                    "again to go on"
                )
            if "lost" in answer:
                row = self._fail(
                    case, f"{case.paths(self.source)[0]}: its reader {answer['lost']}", lost=self._stamp(case)
                )
            elif "error" in answer:
                self._fail(case, answer["error"])
            for text in answer.get("logged", ()):
                warn(self._text(case, text, shown=True))
            self.journal.done(case.name, row)
            if self.progress is not None:
                self.progress(done, total)

    def _answers(
        self, todo: Sequence[Case], last: Sequence[Case], dask: str | None
    ) -> Iterator[tuple[Task, dict[str, Any]]]:
        if dask is not None and (todo or last):
            with cluster.connected(dask) as client:
                yield from cluster.run(client, map(self._task, (*todo, *last)), self.pool.timeout)
            return

        def began(task: Task) -> None:
            self.journal.began(task.about.name)

        yield from self.pool.run(map(self._task, todo), began)
        for case in last:
            warn(f"{case.name}: an earlier run ended with all its processes while it was read; it is tried alone")
            yield from self.pool.run([self._task(case)], began)
