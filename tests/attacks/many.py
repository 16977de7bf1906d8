"""Many processes at once: into one folder under names of their own, all succeed; into one name, exactly one does.

    python -m tests.attacks.many [--rounds 5] [--seed 0] [--processes 2 6 16]

Not collected by pytest. Every process is a fork of one that has imported everything, and waits for a common start. ``recon``
writes into a new folder (NIfTI, DICOM and BIDS, of which all runs share ``dataset_description.json``), under names of their own,
under one name, under one name in different formats, and under one name with ``--overwrite``, where the files must be those of one
run, with its sidecar. ``prep`` writes into folders of their own in one new folder, or into one folder, where every case must be
prepared exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from medrecon.cli import main as medrecon
from medrecon.prep import LoadPreparedd, load_manifest
from tests.attacks.kill import HIDDEN, start_readers
from tests.attacks.kill9 import FORMATS, Recon, scan, tree


def together(work: list[Callable[[], int]], folder: Path, rng: random.Random) -> list[tuple[int, str]]:
    """Exit code and output of every one."""
    reading, writing = os.pipe()
    children = []
    for k, one in enumerate(work):
        delay = rng.choice([0.0, 0.0, rng.uniform(0, 0.2)])
        pid = os.fork()
        if not pid:
            code = 70
            try:
                os.close(writing)
                output = os.open(folder / f"log{k}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.read(reading, 1)  # until all have been made
                time.sleep(delay)
                start_readers(1)
                code = one()
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    os.close(writing)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    os.close(reading)
    return [(code, (folder / f"log{k}").read_text()) for k, code in enumerate(codes)]


def no_hidden(out: Path, at: str) -> None:
    hidden = [p for p in out.rglob("*") if p.name.startswith((HIDDEN, ".lock"))]
    assert not hidden, f"{at}: hidden files are left: {hidden}"


def recon(kind: Recon, n: int, rng: random.Random, how: str, folder: Path) -> None:
    """One round of ``medrecon recon``."""
    out = folder / "new" / "out"
    shutil.rmtree(folder / "new", ignore_errors=True)
    fmt = rng.choice(list(FORMATS))
    at = f"recon, {n} processes, {how}, {fmt}"
    commands = []
    for k in range(n):
        own = rng.choice([f for f in FORMATS if not f.startswith("bids")]) if how == "formats" else fmt
        command = kind.command(out, own, "zero-filled", how == "overwrite", f"s{k}" if how == "own names" else "P[1]")
        if how == "own names":
            command = [word.replace("sub-01", f"sub-{k:02d}") for word in command]
        commands.append([*command, "--seed", str(k)])
    found = together([lambda c=command: medrecon(c) for command in commands], folder, rng)
    won = [k for k, (code, _) in enumerate(found) if code == 0]
    expected = n if how in ("own names", "overwrite") else 1
    assert len(won) == expected, f"{at}: {len(won)} succeeded: {[text for _, text in found]}"
    for code, text in found:
        assert code in (0, 2), f"{at}: exit code {code}: {text}"
        if code:
            assert re.search("was created by another run meanwhile|already exists|another run is writing", text), (
                f"{at}: {text}"
            )
            assert "Traceback" not in text, f"{at}: {text}"
    held = tree(out)
    no_hidden(out, at)
    if how != "own names":
        (sidecar,) = (json.loads(v) for k, v in held.items() if k.endswith(".json") and k != "dataset_description.json")
        assert sorted(sidecar["files"]) == sorted(k for k in held if not k.endswith(".json")), f"{at}: {sorted(held)}"
        assert how == "overwrite" or sidecar["seed"] == won[0], f"{at}: the sidecar is of another run"
    Recon.check_digests(held, at)


def prep(source: Path, n: int, rng: random.Random, how: str, folder: Path) -> None:
    """One round of ``medrecon prep``."""
    out = folder / "new" / "out"
    shutil.rmtree(folder / "new", ignore_errors=True)
    at = f"prep, {n} processes, {how}"
    outs = [out / f"p{k}" if how == "own names" else out for k in range(n)]
    base = ["prep", str(source), "--recipe", "kspace", "--shard-mb", "1", "-o"]
    found = together([lambda o=one: medrecon([*base, str(o)]) for one in outs], folder, rng)
    for code, text in found:
        assert code in (0, 2), f"{at}: exit code {code}: {text}"
        assert code == 0 or ("another run is writing there" in text and "Traceback" not in text), f"{at}: {text}"
    made = [int(m[1]) for _, text in found for m in re.finditer(r"(\d+) (?:cases )?prepared", text)]
    cases = len(list(source.iterdir()))
    assert sorted(made)[-1] == cases and sum(made) == cases * len(set(outs)), f"{at}: {made} cases prepared"
    for one in set(outs):
        items = load_manifest(one)
        assert len(items) == cases, at
        for item in items:
            LoadPreparedd(["kspace"])(item)
        no_hidden(one, at)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 6, 16])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no other threads
    warnings.filterwarnings("ignore")
    start, failures, runs = time.perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kind = Recon(folder, folder / "log")
        for k in range(max(arguments.processes)):
            scan(kind.scans / f"s{k}.npz", k, 3)
        source = folder / "data"
        source.mkdir()
        for k in range(4):
            scan(source / f"s{k}.npz", k, 2)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for fmt in FORMATS:  # imports and compiles, once for all children
                medrecon(kind.command(folder / "warm" / fmt, fmt, "zero-filled", overwrite=False))
            medrecon(["prep", str(source), "--recipe", "kspace", "-o", str(folder / "warm" / "prep")])
        for n in arguments.processes:
            for number in range(arguments.rounds):
                rng = random.Random(f"{arguments.seed} {n} {number}")
                for how in ("own names", "one name", "formats", "overwrite", "prep: own names", "prep: one name"):
                    runs += n
                    try:
                        if how.startswith("prep: "):
                            prep(source, n, rng, how.removeprefix("prep: "), folder)
                        else:
                            recon(kind, n, rng, how, folder)
                    except AssertionError as error:
                        failures.append(str(error))
                        print(f"round {number}: {error}", flush=True)
    took = time.perf_counter() - start
    rounds = 6 * arguments.rounds * len(arguments.processes)
    print(f"seed {arguments.seed}, {rounds} rounds, {runs} processes, {took:.0f} s, {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
