"""Kill ``medrecon recon`` and ``medrecon prep`` at random moments; nothing may be lost, half-written or left behind.

    python -m tests.attacks.kill9 [--trials 200] [--seed 0] [--first 0] [--workers 2] [--only recon|prep]

Not collected by pytest. Moments are drawn in three ways: uniformly over the run, uniformly over its writing, and at a random call
of the operating system in its writing (before it, after it, or in the middle of a write). What is asserted, of ``recon``:

* after the kill every file is, bit for bit, the old one or the new one; with ``--overwrite`` no name is ever without a file;
* after the next run in that folder (of another name) the files are those of the old run or those of the new one, all of them,
  their SHA-256 are those in the sidecar, no hidden file is left, and files of others are as they were;
* the same command once more then gives what an undisturbed run gives.

Of ``prep``: after the kill every shard can be read, with its checksums, and shards that were there are as they were; the same
command once more gives, bit for bit, shards, manifest and recipe of an undisturbed run, and leaves no hidden file.

Left out of the comparison: ``seconds`` in sidecars; in DICOM files unique identifiers, dates and times, which every run makes
anew. A killed process, unlike a power cut, loses nothing that it has handed to the system, so syncing is not tested here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medrecon.cli import main as medrecon
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.prep import LoadPreparedd, load_manifest
from tests.attacks.kill import HIDDEN, child, start_readers
from tests.make.images import blobs

Files = dict[str, bytes]


def tree(folder: Path) -> Files:
    """All files below a folder, by their relative names."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same(name: str, one: bytes, other: bytes) -> bool:
    """Bit for bit, but for what every run makes anew."""
    if one == other:
        return True
    if name.endswith(".json"):
        first, second = json.loads(one), json.loads(other)
        drop = {"seconds", *({"sha256"} if any(f.endswith(".dcm") for f in first.get("files", [])) else ())}
        return {k: v for k, v in first.items() if k not in drop} == {k: v for k, v in second.items() if k not in drop}
    if name.endswith(".dcm"):
        from io import BytesIO

        from pydicom import dcmread

        def stable(content: bytes) -> dict:
            found = dcmread(BytesIO(content))
            return {e.tag: e.value for e in found.iterall() if e.VR not in ("UI", "DA", "TM", "DT")}

        return stable(one) == stable(other)
    return False


def alike(one: Files, other: Files) -> bool:
    return one.keys() == other.keys() and all(same(name, one[name], other[name]) for name in one)


def scan(path: Path, seed: int, slices: int, shape: tuple[int, int] = (24, 20), coils: int = 3) -> None:
    """A small k-space file."""
    rng = np.random.default_rng(seed)
    maps = loop_coils(shape, coils)
    np.savez(path, kspace=np.stack([simulate_kspace(blobs(shape, seed + k), maps, 1e-3, rng) for k in range(slices)]))


def series(folder: Path, slices: int, shape: tuple[int, int] = (24, 20)) -> None:
    """A DICOM series that gives orientation and place."""
    from tests.make.dicom import numbers, oblique, write_series

    write_series(folder, oblique(), numbers((slices, *shape)))


FORMATS = {
    "nifti": ["--format", "nifti"],
    "two parts": ["--part", "mag-phase"],
    "h5": ["--format", "h5"],
    "png": ["--format", "png"],
    "dicom": ["--format", "dicom", "--like", "LIKE"],
    "bids": ["--bids", "sub-01_rec-x_T1w"],
    "bids, two parts": ["--bids", "sub-01_rec-x_T1w", "--part", "mag-phase"],
}


class Recon:
    """Trials of ``medrecon recon``."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.scans = folder / "scans"
        self.scans.mkdir()
        scan(self.scans / "P[1].npz", 0, 3)
        scan(self.scans / "next.npz", 5, 1)
        series(folder / "like", 3)
        self.made: dict[tuple, tuple[Files, int, float, float]] = {}

    def command(self, out: Path, fmt: str, solver: str, overwrite: bool, name: str = "P[1]") -> list[str]:
        extra = [str(self.folder / "like") if word == "LIKE" else word for word in FORMATS[fmt]]
        base = ["recon", str(self.scans / f"{name}.npz"), "-o", str(out), "--solver", solver, "--device", "cpu"]
        return [*base, *extra, *(["--overwrite"] if overwrite else [])]

    def undisturbed(self, fmt: str, solver: str, old: Files | None = None) -> tuple[Files, int, float, float]:
        """Files, calls, seconds of the run and of its writing."""
        key = (fmt, solver, old is None)
        if key not in self.made:
            out = self.folder / "whole"
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            code, calls, writing = child(
                lambda: medrecon(self.command(out, fmt, solver, overwrite=False)), self.log, count=True
            )
            assert code == 0, self.log.read_text()
            self.made[key] = (tree(out), calls, time.perf_counter() - start, writing)
        return self.made[key]

    def trial(self, rng: random.Random) -> str:
        """One kill; the answer says what was found after it."""
        fmt = rng.choice(list(FORMATS))
        old_fmt = rng.choice([None, fmt, rng.choice(list(FORMATS))])
        bids = fmt.startswith("bids")
        if old_fmt is not None and bids != old_fmt.startswith("bids"):
            old_fmt = fmt  # names of BIDS are other names
        new, calls, seconds, writing = self.undisturbed(fmt, "tv")
        old: Files = {} if old_fmt is None else self.undisturbed(old_fmt, "zero-filled")[0]
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        others = {
            "P1_001.png": b"another scan",
            "P[1]_notes.txt": b"mine",
            "P[1]/mine.dcm": b"mine",
            f"{HIDDEN}mine": b"x",
        }
        for name, content in {**others, **old}.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        overwrite = old_fmt is not None
        argv = self.command(out, fmt, "tv", overwrite)
        how = rng.choice(["run", "writing", "call"])
        code, _, _ = child(
            lambda: medrecon(argv), self.log, **moment(rng, how, seconds, writing, calls * (1.3 if old else 1))
        )
        at = f"recon {fmt} over {old_fmt}, {how}"
        assert code in (0, -9), f"{at}: exit code {code}: {self.log.read_text()}"
        found = {k: v for k, v in tree(out).items() if k not in others}
        hidden = {k for k in found if k.rpartition("/")[2].startswith(HIDDEN)}
        seen = {k: v for k, v in found.items() if k not in hidden}
        for name, content in seen.items():
            kept = name in old and content == old[name]
            assert kept or (name in new and same(name, content, new[name])), f"{at}: {name} is neither old nor new"
        assert all(name in seen for name in old.keys() & new.keys()), f"{at}: a name is empty"
        state = "old" if seen == old else "new" if alike(seen, new) else "between"

        after = self.command(out, "bids" if bids else "h5", "zero-filled", True, "next")
        after = [word.replace("sub-01", "sub-02") for word in after]
        code, _, _ = child(lambda: medrecon(after), self.log)
        assert code == 0, f"{at}: the next run failed: {self.log.read_text()}"
        held = tree(out)
        assert {k: held.pop(k, None) for k in others} == others, f"{at}: files of others were changed"
        held = {k: v for k, v in held.items() if "next" not in k and "sub-02" not in k}
        if bids and not old:
            held.setdefault("dataset_description.json", new["dataset_description.json"])
        ends = {
            "old": old if old or not bids else {"dataset_description.json": new["dataset_description.json"]},
            "new": new,
        }
        end = next((name for name, files in ends.items() if alike(held, files)), None)
        assert end is not None, f"{at}: neither the old files nor the new ones: {sorted(held)}"
        assert end == "new" or state != "new", f"{at}: new files were taken back"
        self.check_digests(held, at)

        code, _, _ = child(lambda: medrecon(argv), self.log)
        if end == "new" and not overwrite:
            assert code == 2 and "already exists" in self.log.read_text(), f"{at}: {self.log.read_text()}"
        else:
            assert code == 0, f"{at}: the run after it failed: {self.log.read_text()}"
        held = {k: v for k, v in tree(out).items() if k not in others and "next" not in k and "sub-02" not in k}
        assert alike(held, new), f"{at}: the run after it gave {sorted(held)}, not {sorted(new)}"
        self.check_digests(held, at)
        return f"recon {state}"

    @staticmethod
    def check_digests(held: Files, at: str) -> None:
        import hashlib

        for name, content in held.items():
            if name.endswith(".json") and name != "dataset_description.json":
                assert "sha256" in json.loads(content), f"{at}: {name} holds no checksums"
                for image, digest in json.loads(content)["sha256"].items():
                    assert hashlib.sha256(held[image]).hexdigest() == digest, (
                        f"{at}: {image} is not what {name} describes"
                    )


class Prep:
    """Trials of ``medrecon prep``."""

    def __init__(self, folder: Path, log: Path, workers: int) -> None:
        self.folder, self.log, self.workers = folder, log, workers
        self.source = folder / "data"
        self.source.mkdir()
        for k in range(7):
            scan(self.source / f"s{k}.npz", k, 40)
        few = folder / "few"
        few.mkdir()
        for k in range(3):
            os.link(self.source / f"s{k}.npz", few / f"s{k}.npz")
        self.few = few
        self.made: dict[tuple[bool, int], tuple[Files, Files, int, float, float]] = {}

    def command(self, source: Path, out: Path, workers: int) -> list[str]:
        return ["prep", str(source), "-o", str(out), "--recipe", "kspace", "--workers", str(workers), "--shard-mb", "1"]

    def run(self, source: Path, out: Path, workers: int, **how: Any) -> tuple[int, int, float]:
        argv = self.command(source, out, workers)
        return child(lambda: medrecon(argv), self.log, before=lambda: start_readers(workers), **how)

    def undisturbed(self, again: bool, workers: int) -> tuple[Files, Files, int, float, float]:
        """What was there before, and files, calls, seconds of the run and of its writing."""
        if (again, workers) not in self.made:
            out = self.folder / "whole"
            shutil.rmtree(out, ignore_errors=True)
            if again:
                code, _, _ = self.run(self.few, out, 1)
                assert code == 0, self.log.read_text()
            before = tree(out) if again else {}
            start = time.perf_counter()
            code, calls, writing = self.run(self.source, out, workers, count=True)
            assert code == 0, self.log.read_text()
            self.made[again, workers] = before, tree(out), calls, time.perf_counter() - start, writing
        return self.made[again, workers]

    def trial(self, rng: random.Random) -> str:
        """One kill, or two in a row."""
        again = rng.random() < 0.3
        workers = self.workers if rng.random() < 0.1 else 1
        before, whole, calls, seconds, writing = self.undisturbed(again, workers)
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        for name, content in before.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        state = ""
        for _ in range(rng.choice([1, 1, 2])):
            how = rng.choice(["run", "writing", "call"])
            code, _, _ = self.run(self.source, out, workers, **moment(rng, how, seconds, writing, calls))
            at = f"prep{' again' if again else ''}, {workers} workers, {how}"
            assert code in (0, -9), f"{at}: exit code {code}: {self.log.read_text()}"
            for path in out.glob("shards/*.h5") if out.exists() else ():
                name = path.relative_to(out).as_posix()
                assert path.read_bytes() == whole[name], f"{at}: {name} is not that of an undisturbed run"
            if (out / "manifest.jsonl").exists():
                for item in load_manifest(out):
                    LoadPreparedd(["kspace", "image"])(item)  # verifies the checksums
            n_shards = len(list(out.glob("shards/*.h5"))) if out.exists() else 0
            n_staged = len(list(out.glob(".staged/*.h5"))) if out.exists() else 0
            state = f"{'some' if n_staged else 'no'} cases staged, {'some' if n_shards else 'no'} shards"
        code, _, _ = self.run(self.source, out, 1)
        assert code == 0, f"{at}: the next run failed: {self.log.read_text()}"
        held = tree(out)
        assert held.keys() == whole.keys(), f"{at}: files differ: {sorted(held.keys() ^ whole.keys())}"
        for name in whole:
            assert held[name] == whole[name], f"{at}: {name} is not that of an undisturbed run"
        hidden = [name for name in os.listdir(out) if name.startswith(".")]
        assert not hidden, f"{at}: hidden files are left: {hidden}"
        return f"prep: {state}"


def moment(rng: random.Random, how: str, seconds: float, writing: float, calls: float) -> dict:
    """Arguments of :func:`child`."""
    if how == "run":
        return {"delay": rng.uniform(0, seconds)}
    if how == "writing":
        return {"delay": rng.uniform(0, writing), "from_writing": True}
    return {"kill_at": rng.randint(1, int(calls)), "after": rng.random() < 0.5}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, e.g. of one to repeat")
    parser.add_argument("--workers", type=int, default=2, help="of a tenth of the trials of prep")
    parser.add_argument("--only", choices=("recon", "prep"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no other threads
    warnings.filterwarnings("ignore")
    start, failures, states = time.perf_counter(), [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {}
        if arguments.only != "prep":
            kinds["recon"] = Recon(folder, folder / "log")
        if arguments.only != "recon":
            kinds["prep"] = Prep(folder, folder / "log", arguments.workers)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # imports and compiles, once for all children
            warm = folder / "warm"  # imports and compiles, once for all children
            for kind in kinds.values():
                if isinstance(kind, Recon):
                    for fmt in FORMATS:
                        medrecon(kind.command(warm / fmt, fmt, "tv", overwrite=False))
                        medrecon(kind.command(warm / fmt, fmt, "zero-filled", overwrite=True))
                else:
                    medrecon(kind.command(kind.few, warm / "prep", 1))
        for number in range(arguments.first, arguments.first + arguments.trials):
            rng = random.Random(f"{arguments.seed} {number}")
            kind = list(kinds.values())[number % len(kinds)]
            try:
                state = kind.trial(rng)
                states[state] = states.get(state, 0) + 1
            except AssertionError as error:
                failures.append(f"trial {number}: {error}")
                print(failures[-1], flush=True)
    took = time.perf_counter() - start
    for state, count in sorted(states.items()):
        print(f"{count:5d}  after the kill: {state}")
    print(f"seed {arguments.seed}, {arguments.trials} kills, {took:.0f} s, {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
