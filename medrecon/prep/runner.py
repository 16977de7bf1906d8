"""From a folder and a recipe to shards and a manifest."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Randomizable

import medrecon
from medrecon.bundle import parsed
from medrecon.data.errors import InputError, told
from medrecon.data.files import only_run
from medrecon.prep.cases import Case
from medrecon.prep.recipes import check_recipe, parser_of
from medrecon.prep.shards import check_staged, pack, read_rows, stage, staged_path, write_lines

__all__ = ["Report", "prepare", "split_of"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Report:
    """What a run did.

    Args:
        made: cases prepared now.
        kept: cases that an earlier run had prepared.
        failed: rows of those that could not be, with their ``error``.
    """

    made: int
    kept: int
    failed: list[dict[str, Any]]


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


class _Work(NamedTuple):
    """What a worker needs to know."""

    recipe: str
    source: str
    destination: str
    case: Case
    split: str
    seed: int


@functools.lru_cache(maxsize=4)
def _transform(recipe: str, source: str, seed: int) -> tuple[Callable, dict[str, str], dict[str, str], str | None]:
    """A worker makes it once: the transform, what it must make, what it may make, and how that is stored."""
    held = json.loads(recipe)
    return (
        _made(parser_of(held, source, seed), "transform"),
        held["write"],
        held.get("optional") or {},
        held.get("compression"),
    )


def _checksum(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _stamp(paths: Sequence[Path]) -> str:
    """Sizes and times of change of all files: what tells at once that a source is as it was."""
    stats = [path.stat() for path in paths]
    return hashlib.sha256(json.dumps([[s.st_size, s.st_mtime_ns] for s in stats]).encode()).hexdigest()


def _array(value: object) -> np.ndarray:
    if isinstance(value, MetaTensor):
        value = value.as_tensor()
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _about(value: object, array: np.ndarray, source: Path) -> dict[str, Any]:
    """Shape, type, geometry and warnings of an array; files are named from the source folder on."""
    about: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(value, MetaTensor):
        known = bool(value.meta.get("affine_known", True))
        spacing = np.asarray(value.meta["spacing"]).tolist() if value.meta.get("spacing_known") else None
        about |= {
            "affine_known": known,
            "affine": value.affine.cpu().numpy().astype(float).tolist() if known else None,
            "spacing_mm": spacing,
        }
        if "noise_source" in value.meta:
            about["meta"] = {"noise_source": str(value.meta["noise_source"])}
        if value.meta.get("warnings"):
            texts = [str(text).replace(f"{source}{os.sep}", "") for text in value.meta["warnings"]]
            about.setdefault("meta", {})["warnings"] = texts
    return about


_LOCK = threading.Lock()
"""A transform has one random state, and warnings are one process's: of a worker's threads one prepares at a time."""


def _prepare(work: _Work) -> dict[str, Any]:
    """Prepare and stage one case; the row of the manifest, or one with an ``error``."""
    with _LOCK:
        return _prepared(work)


def _prepared(work: _Work) -> dict[str, Any]:
    case, source = work.case, Path(work.source)
    row: dict[str, Any] = {
        "case": case.name,
        "subject": case.subject,
        "split": work.split,
        "source": {key: value if isinstance(value, str) else list(value) for key, value in case.inputs.items()},
    }
    try:
        paths = case.paths(source)
        row |= {"stamp": _stamp(paths), "sha256": _checksum(paths)}
        transform, write, optional, compression = _transform(work.recipe, work.source, work.seed)
        if isinstance(transform, Randomizable):
            transform.set_random_state(zlib.crc32(f"{work.seed}:{case.name}".encode("utf-8", "surrogateescape")))
        data: dict[str, Any] = {
            key: str(source / value) if isinstance(value, str) else [str(source / p) for p in value]
            for key, value in case.inputs.items()
        }
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            out: Any = transform({**data, "case": case.name, "subject": case.subject})
        missing = [key for key in write.values() if key not in out]
        if missing:
            raise InputError(
                f"{paths[0]}: the recipe makes no {', '.join(missing)}; it makes {', '.join(map(str, out))}"
            )
        write = write | {name: key for name, key in optional.items() if key in out}
        arrays = {name: _array(out[key]) for name, key in write.items()}
        row["arrays"] = {name: _about(out[key], arrays[name], source) for name, key in write.items()}
        notes = [str(w.message).split("\n")[0][:200] for w in heard if issubclass(w.category, UserWarning)]
        if any(about.get("affine_known") is False for about in row["arrays"].values()):
            notes.append("orientation unknown")
        notes += [text for about in row["arrays"].values() for text in about.get("meta", {}).get("warnings", [])]
        row["warnings"] = sorted(set(notes))
        row["medrecon"] = medrecon.__version__
        stage(staged_path(Path(work.destination), case.name), arrays, row, compression)
    except Exception as error:  # whatever it is, the next case goes on
        row["error"] = _sentence(error)
    return row


def _sentence(error: BaseException) -> str:
    """Ours as they are, freed from MONAI's wrapping; of others the innermost, with its kind."""
    cause: BaseException = error
    while not isinstance(cause, InputError) and (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    return str(cause) if isinstance(cause, InputError) else f"{type(cause).__name__}: {told(cause)}"


def _one_thread() -> None:
    """Of a worker: processes share the cores, threads in each would fight for them."""
    torch.set_num_threads(1)


@contextmanager
def _cluster(workers: int, address: str | None) -> Iterator[Any]:
    """A client of dask.distributed: of a cluster that runs, or of one that lives as long as this run."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            "several workers need dask.distributed; install it with: pip install distributed, or give --workers 1"
        ) from error
    if address is not None:
        try:
            client = Client(address, timeout=15)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{address}: no dask scheduler answers ({error}); start one, or leave --dask out"
            ) from error
        with client:
            yield client
        return
    kept = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(kept, "1"))  # what the workers inherit
    try:
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": 0}),
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(_one_thread)
            yield client
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _results(todo: Sequence[_Work], workers: int, address: str | None) -> Iterator[dict[str, Any]]:
    """Rows as they come; no more cases are under way than there are threads, so memory does not grow with the data set."""
    if not todo or (address is None and workers == 1):
        yield from map(_prepare, todo)
        return
    with _cluster(workers, address) as client:
        suspects: list[_Work] = []
        for work, row in _under_way(client, todo):
            if row is None:  # its worker died, of it or of another case that was there
                suspects.append(work)
            else:
                yield row
        for suspect in suspects:  # alone, one after another
            for work, row in _under_way(client, [suspect]):
                case = {"case": work.case.name, "subject": work.case.subject, "split": work.split}
                yield row or {**case, "error": "its worker died of it; is there enough memory?"}


def _under_way(client: Any, todo: Sequence[_Work]) -> Iterator[tuple[_Work, dict[str, Any] | None]]:  # noqa: ANN401
    """Every case with its row, or ``None`` if its worker died."""
    from distributed import TimeoutError as TooLate
    from distributed import wait

    waiting = iter(todo)
    running: dict[Any, _Work] = {}
    idle = 0
    while True:
        threads = sum(client.nthreads().values())
        idle = 0 if threads else idle + 1
        if idle > 60:  # half a minute without any worker
            raise InputError("the dask scheduler has no workers; start some, or leave --dask out")
        while len(running) < threads and (work := next(waiting, None)) is not None:
            running[client.submit(_prepare, work, pure=False, retries=0)] = work
        if not running:
            if threads:
                return
            time.sleep(0.5)
            continue
        try:
            done = wait(list(running), timeout=0.5 if not threads else 5, return_when="FIRST_COMPLETED").done
        except TooLate:
            continue
        for future in done:
            work = running.pop(future)
            try:
                yield work, future.result()
            except Exception as error:
                if type(error).__name__ == "KilledWorker":
                    yield work, None
                    continue
                raise InputError(f"the dask cluster stopped ({told(error)}); run again to go on") from error


def _alone(destination: Path) -> AbstractContextManager[None]:
    """No two runs write into one folder; a lock that ends with its process."""
    return only_run(destination / ".lock", f"{destination}: another run is writing there")


def _same_task(destination: Path, task: Mapping[str, Any]) -> None:
    """Write down what the folder is made of, or refuse to mix it with something else."""
    path = destination / "recipe.json"
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}); choose another folder") from error
        differs = [key for key in task if before.get(key) != task[key]]
        if differs:
            raise InputError(
                f"{destination}: was prepared with another {', '.join(differs)}; give the same, or choose another folder"
            )
        return
    write_lines(path, [task])


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
) -> Report:
    """Prepare a data set: shards in HDF5, and a manifest with a row a case.

    A run that was killed goes on where it was; files that have come since are added; what failed is tried again. Subjects keep
    their split whatever comes. The order and number of workers change nothing in what is written of a case.

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

    Returns:
        what was done; failures stand in ``failed.jsonl`` too.

    Raises:
        InputError: if there are no cases, or the folder was made otherwise.
    """
    source, destination = Path(source).absolute(), Path(destination).absolute()
    if not 1 <= len(shares) <= 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"splits are one to three shares that make 1, such as .8/.1/.1; got {'/'.join(map(str, shares))}"
        )
    if workers < 1:
        raise InputError(f"there must be at least one worker; got {workers}")
    check_recipe(recipe)
    text = json.dumps(recipe, sort_keys=True)
    cases: list[Case] = _made(parser_of(recipe, source, seed), "cases")
    _transform(text, str(source), seed)
    if recipe.get("compression") not in (None, "gzip", "lzf"):
        raise InputError(f"compression is gzip, lzf or null; got {recipe['compression']!r}")
    if not cases:
        raise InputError(f"{source}: holds no file that the recipe looks for; see its 'cases' in data_prep")
    if source.resolve() == destination.resolve():
        raise InputError(f"{destination}: is the source; choose another output folder")
    stray = [p.name for p in destination.iterdir()] if destination.is_dir() else []
    if stray and "recipe.json" not in stray and not all(name.startswith(".") for name in stray):
        raise InputError(f"{destination}: holds other things ({', '.join(sorted(stray)[:3])}); choose an empty folder")
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{destination}: cannot be made ({error.strerror}); choose another output folder") from error
    with _alone(destination):
        _same_task(destination, {"recipe": json.loads(text), "split": list(shares), "seed": seed})
        check_staged(destination)
        packed, staged = read_rows(destination)
        before = {**packed, **staged}
        failed: list[dict[str, Any]] = []

        def fail(row: dict[str, Any]) -> None:
            failed.append(row)
            if failure is not None:
                failure(row)

        todo = []
        for case in cases:
            row = before.get(case.name)
            if case.error is not None:
                fail({"case": case.name, "subject": case.subject, "error": case.error})
            elif row is None:
                split = split_of(case.subject, shares, seed)
                todo.append(_Work(text, str(source), str(destination), case, split, seed))
            elif (problem := _changed(row, case, source)) is not None:
                fail({key: row[key] for key in ("case", "subject", "split")} | {"error": problem})
        try:
            for done, row in enumerate(_results(todo, workers, dask), 1):
                if "error" in row:
                    fail(row)
                if progress is not None:
                    progress(done, len(todo))
        except InputError:
            if not any(read_rows(destination)):  # nothing is there that another recipe would not fit
                (destination / "recipe.json").unlink()
            raise
        _, staged = read_rows(destination)
        told_of = {row["case"] for row in failed}
        for work in todo:
            if work.case.name not in staged and work.case.name not in told_of:
                lost = f"its worker does not see {destination}; give a folder that all machines share"
                fail({"case": work.case.name, "subject": work.case.subject, "split": work.split, "error": lost})
        try:
            pack(destination, staged, shard_bytes)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{destination}: shards could not be written ({told(error)}); free space and run again"
            ) from error
        packed, _ = read_rows(destination)
        with suppress(OSError):
            (destination / ".staged").rmdir()
        write_lines(destination / "manifest.jsonl", [packed[name] for name in sorted(packed)])
        write_lines(destination / "failed.jsonl", sorted(failed, key=lambda row: row["case"]))
        return Report(len(packed) - len(before), len(before), failed)


def _changed(row: Mapping[str, Any], case: Case, source: Path) -> str | None:
    """Why a case that is there already is not what its files would give."""
    paths = case.paths(source)
    try:
        if row["source"] == dict(case.inputs) and _stamp(paths) == row["stamp"]:
            return None
        if _checksum(paths) == row["sha256"]:
            return None  # copied, or touched
    except OSError as error:
        return f"{error.filename or paths[0]}: can no longer be read ({error.strerror}); its prepared case stays"
    return f"{paths[0]}: has changed since it was prepared; prepare the data set into another folder"


def _made(parser: ConfigParser, key: str) -> Any:  # noqa: ANN401
    """A part of a recipe.

    Raises:
        InputError: if it cannot be made, or is of the wrong kind.
    """
    part = parsed(parser, key)
    if key == "cases" and not (isinstance(part, list) and all(isinstance(case, Case) for case in part)):
        raise InputError(f"the recipe's 'cases' make a {type(part).__name__}, not a list of cases; see data_prep")
    if key == "transform" and not callable(part):
        raise InputError(f"the recipe's 'transform' makes a {type(part).__name__}, not a transform; see data_prep")
    return part
