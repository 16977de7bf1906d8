"""What a child does with one case: read, transform, stage."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Randomizable

from medrecon._version import __version__
from medrecon.data.errors import InputError, innermost, one_line
from medrecon.data.files import sha256
from medrecon.data.names import case_seed
from medrecon.formats.dicom import decoding
from medrecon.monai_bundle import parsed
from medrecon.prep.cases import Case, stamp_of
from medrecon.prep.people import without_names
from medrecon.prep.recipes import parser_of
from medrecon.prep.shards import stage, staged_path

__all__ = ["digest", "made", "prepare_case", "transform_of", "unwritable"]


def made(parser: ConfigParser, key: str) -> Any:  # noqa: ANN401
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


@functools.lru_cache(maxsize=4)
def transform_of(recipe: str, source: str, seed: int) -> tuple[Callable, dict[str, str], dict[str, str], str | None]:
    """A recipe's transform, what it must make, what it may make, and how that is stored."""
    held = json.loads(recipe)
    transform = made(parser_of(held, source, seed), "transform")
    return transform, held["write"], held.get("optional") or {}, held.get("compression")


def sentence(error: BaseException, plain: Callable[[str], str]) -> str:
    """Our errors as they are, freed from MONAI's wrapping; of others the innermost, with its kind.

    Args:
        error: of a reader or a transform.
        plain: takes names out of a foreign error's text, before that is cut: half a name is found by nobody.
    """
    cause = innermost(error)
    return (
        str(cause)
        if isinstance(cause, InputError)
        else f"{type(cause).__name__}: {one_line(plain(str(cause)) or cause)}"
    )


def prepare_case(work: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare and stage one case.

    Args:
        work: ``recipe`` (JSON), ``source``, ``destination``, ``seed``, and of the case ``case``, ``subject``, ``split``,
            ``inputs`` and ``pseudonyms``; ``seconds`` that decoding a file may take.

    Returns:
        case, subject and split, and what was ``logged``, with names; with an ``error``, with names, if the case cannot be
        prepared, or with ``stop`` if none can be written.
    """
    decoding.SECONDS = work["seconds"]  # so that a decoder that hangs costs its file, not the case
    case = Case(work["case"], work["subject"], work["inputs"], pseudonyms=work["pseudonyms"])
    plain = functools.partial(without_names, source=Path(work["source"]), pseudonyms=case.pseudonyms, keep=case.inputs)
    brief = {key: work[key] for key in ("case", "subject", "split")}
    row: dict[str, Any] = {**brief, "source": case.shown}
    logged = _Kept()
    logger = logging.getLogger("medrecon")
    logger.addHandler(logged)
    try:
        arrays, compression = _arrays(case, Path(work["source"]), work["recipe"], work["seed"], row)
    except Exception as error:  # whatever it is, the next case goes on
        return brief | {"error": sentence(error, plain)}
    finally:
        logger.removeHandler(logged)
    try:
        stage(staged_path(Path(work["destination"]), case.name), arrays, row, compression)
    except Exception as error:
        reason = unwritable(error)
        return brief | ({"error": sentence(error, plain)} if reason is None else {"stop": reason})
    return brief | {"logged": sorted(set(logged.texts))}


def digest(paths: list[str]) -> dict[str, Any]:
    """SHA-256 of files, one after another."""
    try:
        return {"sha256": sha256(*map(Path, paths))}
    except OSError as error:
        return {"error": error.strerror or one_line(error)}


class _Kept(logging.Handler):
    """Warnings of our own, for the process that prints."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def unwritable(error: BaseException) -> str | None:
    """What the system says of an error in writing, e.g. on a full disk; ``None`` if the case itself is at fault."""
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        if number is None and (found := re.search(r"errno = (\d+)", str(cause))):  # of HDF5
            number = int(found[1])
        if number is not None:
            return os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return None


def _plain(text: str, case: Case, source: str | Path) -> str:
    return without_names(text, Path(source), case.pseudonyms, case.inputs)


def _arrays(
    case: Case, source: Path, recipe: str, seed: int, row: dict[str, Any]
) -> tuple[dict[str, np.ndarray], str | None]:
    """What a case holds and how it is compressed; the rest of its ``row`` is filled in."""
    paths = case.paths(source)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: is gone, or no file any more; run again when it is back")
    row |= {"stamp": stamp_of(paths), "sha256": sha256(*paths)}
    transform, write, optional, compression = transform_of(recipe, str(source), seed)
    drawing: object = transform
    if isinstance(drawing, Randomizable):
        drawing.set_random_state(case_seed(seed, case.name))
    data: dict[str, Any] = {
        key: str(source / value) if isinstance(value, str) else [str(source / p) for p in value]
        for key, value in case.inputs.items()
    }
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        out: Any = transform({**data, "case": case.name, "subject": case.subject})
    missing = [key for key in write.values() if key not in out]
    if missing:
        raise InputError(f"{paths[0]}: the recipe makes no {', '.join(missing)}; it makes {', '.join(map(str, out))}")
    if stamp_of(paths) != row["stamp"]:
        raise InputError(f"{paths[0]}: changed while it was read; run again when it is complete")
    write = write | {name: key for name, key in optional.items() if key in out}
    arrays = {name: _array(out[key]) for name, key in write.items()}
    row["arrays"] = {name: _about(out[key], arrays[name], case, source) for name, key in write.items()}
    notes = [_plain(str(w.message), case, source) for w in heard if issubclass(w.category, UserWarning)]
    notes = [text.split("\n")[0][:200] for text in notes]
    if any(about.get("affine_known") is False for about in row["arrays"].values()):
        notes.append("orientation unknown")
    notes += [text for about in row["arrays"].values() for text in about.get("meta", {}).get("warnings", [])]
    row["warnings"] = sorted(set(notes))
    row["medrecon"] = __version__
    return arrays, compression


def _array(value: object) -> np.ndarray:
    if isinstance(value, MetaTensor):
        value = value.as_tensor()
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _about(value: object, array: np.ndarray, case: Case, source: Path) -> dict[str, Any]:
    """Shape, type, geometry and warnings of an array."""
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
            texts = [_plain(str(text), case, source) for text in value.meta["warnings"]]
            about.setdefault("meta", {})["warnings"] = texts
    return about
