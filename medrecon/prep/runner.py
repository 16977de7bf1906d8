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
from medrecon.data.files import run_lock
from medrecon.prep import cluster
from medrecon.prep.cases import Case, search_context, stamp_of
from medrecon.prep.journal import Journal
from medrecon.prep.options import DatasetOptions, RunOptions
from medrecon.prep.pseudonyms import Key, without_names, write_sources
from medrecon.prep.recipes import check_recipe, parser_of
from medrecon.prep.shards import check_staged, pack, read_rows, write_lines
from medrecon.prep.worker import build, transform_of, write_error
from medrecon.workers import Pool, Task

__all__ = ["Report", "prepare", "split_of"]

SPLITS = ("train", "val", "test")

Progress = Callable[[int, int], None]
OnFailure = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Report:
    """Result of a run.

    Args:
        prepared: number of cases prepared by this run.
        skipped: number of cases that an earlier run had prepared.
        failed: rows of the cases that could not be prepared, with their ``error``. ``message`` is the error with the names of
            files, for the owner's terminal only; in ``error`` they may be left out or replaced by pseudonyms.
        sources: file, beside the key, that lists the source files of cases with pseudonyms.
    """

    prepared: int
    skipped: int
    failed: list[dict[str, Any]]
    sources: Path | None = None


def split_of(subject: str, fractions: Sequence[float], seed: int = 0) -> str:
    """``train``, ``val`` or ``test``; depends on the subject's name only, so it stays when other subjects come or go.

    Args:
        subject: name of the subject.
        fractions: fractions of the splits, in this order, with sum 1; with few subjects they are met roughly.
        seed: random seed of the data set.
    """
    digest = hashlib.sha256(f"{seed}:{subject}".encode("utf-8", "surrogateescape")).digest()
    number = int.from_bytes(digest[:8], "big") / 2**64
    for name, edge in zip(SPLITS, np.cumsum(fractions), strict=False):
        if number < edge:
            return name
    return SPLITS[max(k for k, fraction in enumerate(fractions) if fraction > 0)]


@contextmanager
def _exclusive(destination: Path) -> Iterator[None]:
    """Lock the folder, so that two runs never write into it; new folders that stay empty are removed."""
    missing = [p for p in (destination, *destination.parents) if not p.exists()]
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with run_lock(destination / ".lock", f"{destination}: another run is writing there"):
            yield
    except OSError as error:
        raise InputError(
            f"{destination}: cannot be written ({error.strerror or one_line(error)}); free space or choose another output folder"
        ) from error
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is prepared and where it goes.

    Args:
        source: absolute path of the data.
        destination: absolute path of the results.
        recipe: recipe as JSON.
        dataset: split, seed, size of shards and key.
    """

    source: Path
    destination: Path
    recipe: str
    dataset: DatasetOptions

    def check(self) -> None:
        """Refuse a recipe that cannot be built, and a destination that is not for results.

        Raises:
            InputError: see above.
        """
        destination = self.destination
        transform_of(self.recipe, str(self.source), self.dataset.seed)
        if self.source.resolve() == destination.resolve():
            raise InputError(f"{destination}: is the source; choose another output folder")
        names = [p.name for p in destination.iterdir()] if destination.is_dir() else []
        if names and "recipe.json" not in names and not all(name.startswith(".") for name in names):
            raise InputError(
                f"{destination}: holds other things ({', '.join(sorted(names)[:3])}); choose an empty folder"
            )

    def find_cases(self, recipe: Mapping[str, Any]) -> list[Case]:
        """The cases that a recipe finds.

        Raises:
            InputError: if there are none.
        """
        cases: list[Case] = build(parser_of(recipe, self.source, self.dataset.seed), "cases")
        if not cases:
            raise InputError(f"{self.source}: holds no file that the recipe looks for; see its 'cases' in data_prep")
        return cases

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same in all runs with this destination."""
        return {"recipe": json.loads(self.recipe), "split": list(self.dataset.split), "seed": self.dataset.seed}


@dataclass(frozen=True)
class _Folder:
    """The destination and the content of its ``recipe.json``, which an earlier run wrote."""

    path: Path
    earlier: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> _Folder:
        file = path / "recipe.json"
        if not file.exists():
            return cls(path, None)
        try:
            earlier = json.loads(file.read_text())
            if not isinstance(earlier, dict):
                raise ValueError("it is not a JSON object")
        except ValueError as error:
            raise InputError(f"{file}: damaged ({error}); choose another folder") from error
        return cls(path, earlier)

    def task(self, identity: Mapping[str, Any], fingerprint: str | None) -> dict[str, Any]:
        """Content of ``recipe.json``.

        Args:
            identity: see :attr:`_Job.identity`.
            fingerprint: fingerprint of the key; ``None`` if it was not used.

        Raises:
            InputError: if the folder was prepared with another recipe, split, seed or key.
        """
        if self.earlier is None:
            key = {} if fingerprint is None else {"key": fingerprint, "id": secrets.token_hex(4)}
            return {**identity, **key}
        differs = [name for name in identity if self.earlier.get(name) != identity[name]]
        if differs:
            raise InputError(
                f"{self.path}: was prepared with another {', '.join(differs)}; give the same, or choose another folder"
            )
        if fingerprint is not None and self.earlier.get("key") is None:
            raise InputError(
                f"{self.path}: was prepared by an older medrecon, which wrote names from headers and of DICOM files; choose "
                "another folder, and delete this one rather than give it away"
            )
        return self.earlier


def prepare(
    source: str | Path,
    destination: str | Path,
    recipe: Mapping[str, Any],
    dataset: DatasetOptions = DatasetOptions(),
    run: RunOptions = RunOptions(),
    progress: Progress | None = None,
    on_failure: OnFailure | None = None,
) -> Report:
    """Prepare a data set: HDF5 shards, and a manifest with one row per case.

    A run that was killed continues where it stopped. New files are added. Cases that failed are tried again, except files whose
    reader crashed or hung. Subjects keep their split when files are added. The written cases do not depend on the order and
    number of workers.

    Args:
        source: folder of the data.
        destination: folder of the results, used for nothing else.
        recipe: see :func:`medrecon.prep.load_recipe`.
        dataset: split, seed, size of shards and key of pseudonyms.
        run: workers, time limit and retries.
        progress: called with (cases done, cases in all).
        on_failure: called with the row of every case that failed.

    Returns:
        the counts, and the failures, which are also in ``failed.jsonl``.

    Raises:
        InputError: if there are no cases, or the folder was prepared with another recipe, split, seed or key.
    """
    check_recipe(recipe)
    job = _Job(
        source=Path(source).absolute(),
        destination=Path(destination).absolute(),
        recipe=json.dumps(recipe, sort_keys=True),
        dataset=dataset,
    )
    job.check()
    with _exclusive(job.destination):
        folder = _Folder.read(job.destination)
        key = Key(dataset.key, expected=(folder.earlier or {}).get("key"), outside=job.destination)
        journal, finished = Journal(job.destination, retry=run.retry), False
        try:
            with Pool(run.workers, run.timeout, at_end=(journal.path, journal.end_line)) as pool:
                with search_context(key, pool, journal):
                    cases = job.find_cases(recipe)
                task = folder.task(job.identity, key.fingerprint)
                named = {case.name: case.inputs for case in cases if case.pseudonyms}
                sources = write_sources(key, task["id"], named) if named else None
                if folder.earlier is None:
                    write_lines(job.destination / "recipe.json", [task])
                report = _Run(job, pool, journal, progress=progress, on_failure=on_failure)(cases, run.dask, sources)
                finished = True
                return report
        finally:
            journal.close(finished)


class _Run:
    """One run over the cases of a data set.

    Args:
        job: source, destination, recipe and options.
        pool: child processes.
        journal: record of the cases under way.
        progress: see :func:`prepare`.
        on_failure: see :func:`prepare`.
    """

    def __init__(
        self, job: _Job, pool: Pool, journal: Journal, progress: Progress | None, on_failure: OnFailure | None
    ) -> None:
        self.job, self.pool, self.journal = job, pool, journal
        self.progress, self.on_failure = progress, on_failure
        self.failed: list[dict[str, Any]] = []

    def __call__(self, cases: Sequence[Case], dask: str | None, sources: Path | None) -> Report:
        """Prepare the cases that are missing, and write shards and manifest.

        Args:
            cases: all cases of the data set.
            dask: see :class:`RunOptions`.
            sources: see :class:`Report`.
        """
        destination = self.job.destination
        check_staged(destination)
        packed, staged = read_rows(destination)
        earlier = {**packed, **staged}
        self._compare([case for case in cases if case.error is None and case.name in earlier], earlier)
        todo, last = self._to_do(cases, earlier)
        try:
            self._prepare(todo, last, dask)
        except InputError:
            if not any(read_rows(destination)):  # nothing is prepared that would not fit another recipe
                (destination / "recipe.json").unlink()
            raise
        _, staged = read_rows(destination)
        self._report_unseen([*todo, *last], staged)
        n_packed = self._pack(staged)
        rows = [{key: value for key, value in row.items() if key != "message"} for row in self.failed]
        write_lines(destination / "failed.jsonl", sorted(rows, key=lambda row: row["case"]))
        return Report(prepared=n_packed - len(earlier), skipped=len(earlier), failed=self.failed, sources=sources)

    def _report_unseen(self, cases: Sequence[Case], staged: Mapping[str, Any]) -> None:
        """Report cases that are not staged without an error: the worker that prepared them has another disk."""
        reported = {row["case"] for row in self.failed}
        for case in cases:
            if case.name not in staged and case.name not in reported:
                self._fail(
                    case, f"its worker does not see {self.job.destination}; give a folder that all machines share"
                )

    def _pack(self, staged: Mapping[str, Mapping[str, Any]]) -> int:
        """Write shards and manifest; the number of cases in them.

        Raises:
            InputError: if they cannot be written.
        """
        destination = self.job.destination
        try:
            pack(destination, staged, self.job.dataset.shard_bytes)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{destination}: shards could not be written ({write_error(error) or one_line(error)}); "
                "free space and run again"
            ) from error
        packed, _ = read_rows(destination)
        with suppress(OSError):
            (destination / ".staged").rmdir()
        write_lines(destination / "manifest.jsonl", [packed[name] for name in sorted(packed)])
        return len(packed)

    def _fail(self, case: Case, error: str, **more: object) -> dict[str, Any]:
        row = {"case": case.name, "subject": case.subject, "split": self._split(case), "error": self._text(case, error)}
        row |= more
        row["message"] = self._text(case, error, for_owner=True)
        self.failed.append(row)
        if self.on_failure is not None:
            self.on_failure(row)
        return row

    def _text(self, case: Case, text: str, for_owner: bool = False) -> str:
        return without_names(text, self.job.source, case.pseudonyms, keep=case.inputs, for_owner=for_owner)

    def _split(self, case: Case) -> str:
        return split_of(case.split_by or case.subject, self.job.dataset.split, self.job.dataset.seed)

    def _stamp(self, case: Case) -> str | None:
        try:
            return stamp_of(case.paths(self.job.source))
        except OSError:
            return None

    def _compare(self, cases: Iterable[Case], earlier: Mapping[str, Mapping[str, Any]]) -> None:
        """Report cases whose files have changed since they were prepared; files with another stamp are read again."""
        doubtful = []
        for case in cases:
            row, paths = earlier[case.name], case.paths(self.job.source)
            if row["source"] != case.public_inputs or self._stamp(case) != row["stamp"]:
                size = sum(path.stat().st_size for path in paths if path.is_file())
                arguments = {"paths": [str(path) for path in paths]}
                doubtful.append(Task("medrecon.prep.worker:digest", arguments, size=size, about=case))
        for task, answer in self.pool.run(doubtful):
            case = task.about
            if answer.get("sha256") == earlier[case.name]["sha256"]:
                continue  # copied, or touched
            path = case.paths(self.job.source)[0]
            if "sha256" in answer:
                self._fail(case, f"{path}: has changed since it was prepared; prepare the data set into another folder")
            else:
                reason = answer.get("error") or answer.get("lost")
                self._fail(case, f"{path}: can no longer be read ({reason}); its prepared case stays")

    def _to_do(self, cases: Iterable[Case], earlier: Mapping[str, Any]) -> tuple[list[Case], list[Case]]:
        """Cases to prepare, and cases to prepare last and alone, since a run ended while one was read; other cases fail."""
        todo, last = [], []
        for case in cases:
            if case.error is not None:
                more = {} if case.lost is None else dict(zip(("header", "lost"), case.lost, strict=True))
                self._fail(case, case.error, **more)
            elif case.name not in earlier:
                suspect = case.name in self.journal.lost or self.journal.interrupted[case.name]
                stamp = self._stamp(case) if suspect else None
                reason = self.journal.reason_to_skip(case.name, stamp)
                if reason is not None:
                    self._fail(case, reason, lost=stamp)
                else:
                    (last if self.journal.interrupted[case.name] else todo).append(case)
        return todo, last

    def _task(self, case: Case) -> Task:
        work = {
            "recipe": self.job.recipe,
            "source": str(self.job.source),
            "destination": str(self.job.destination),
            "seed": self.job.dataset.seed,
            "case": case.name,
            "subject": case.subject,
            "split": self._split(case),
            "inputs": dict(case.inputs),
            "pseudonyms": dict(case.pseudonyms),
            "seconds": min(self.pool.timeout / 2, 60.0),
        }
        size = 0
        for path in case.paths(self.job.source):
            with suppress(OSError):
                size += path.stat().st_size
        return Task("medrecon.prep.worker:prepare_case", {"work": work}, size=size, about=case)

    def _prepare(self, todo: Sequence[Case], last: Sequence[Case], dask: str | None) -> None:
        """Prepare and stage cases.

        Raises:
            InputError: if nothing can be written.
        """
        total = len(todo) + len(last)
        for done, (task, answer) in enumerate(self._answers(todo, last, dask), 1):
            case: Case = task.about
            row = None
            if "stop" in answer:
                raise InputError(
                    f"{self.job.destination}: cannot be written ({answer['stop']}); free space, or check its permissions, and "
                    "run again to continue"
                )
            if "lost" in answer:
                path = case.paths(self.job.source)[0]
                row = self._fail(case, f"{path}: its reader {answer['lost']}", lost=self._stamp(case))
            elif "error" in answer:
                self._fail(case, answer["error"])
            for text in answer.get("logged", ()):
                warn(self._text(case, text, for_owner=True))
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
