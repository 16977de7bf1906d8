"""The work of a child process on one case: read, transform, stage."""

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
from medrecon.prep.pseudonyms import without_names
from medrecon.prep.recipes import parser_of
from medrecon.prep.shards import stage, staged_path

__all__ = ["build", "digest", "prepare_case", "transform_of", "write_error"]


def build(parser: ConfigParser, key: str) -> Any:  # noqa: ANN401
    """Instantiate ``cases`` or ``transform`` of a recipe.

    Raises:
        InputError: if it cannot be built, or is of the wrong kind.
    """
    part = parsed(parser, key)
    if key == "cases" and not (isinstance(part, list) and all(isinstance(case, Case) for case in part)):
        raise InputError(f"the recipe's 'cases' is a {type(part).__name__}, not a list of cases; see data_prep")
    if key == "transform" and not callable(part):
        raise InputError(f"the recipe's 'transform' is a {type(part).__name__}, not a transform; see data_prep")
    return part


@functools.lru_cache(maxsize=4)
def transform_of(recipe: str, source: str, seed: int) -> tuple[Callable, dict[str, str], dict[str, str], str | None]:
    """A recipe's transform, its required and optional outputs, and their compression."""
    content = json.loads(recipe)
    transform = build(parser_of(content, source, seed), "transform")
    return transform, content["write"], content.get("optional") or {}, content.get("compression")


def error_text(error: BaseException, remove_names: Callable[[str], str]) -> str:
    """The text of an ``InputError`` inside MONAI's wrapping; otherwise type and text of the innermost error.

    Args:
        error: error of a reader or a transform.
        remove_names: removes names from a foreign error's text; applied before the text is cut, since half a name would not be
            recognized.
    """
    cause = innermost(error)
    if isinstance(cause, InputError):
        return str(cause)
    return f"{type(cause).__name__}: {one_line(remove_names(str(cause)) or cause)}"


def prepare_case(work: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare and stage one case.

    Args:
        work: ``recipe`` (JSON), ``source``, ``destination``, ``seed``; the case's ``case`` (name), ``subject``, ``split``,
            ``inputs`` and ``pseudonyms``; ``seconds``: time limit of decoding a file.

    Returns:
        case, subject and split, and the warnings ``logged``, with names of files; also ``error``, with names of files, if the
        case cannot be prepared, or ``stop`` if nothing can be written.
    """
    decoding.SECONDS = work["seconds"]  # so that a decoder that hangs fails its file, not the case
    case = Case(work["case"], work["subject"], work["inputs"], pseudonyms=work["pseudonyms"])
    remove_names = functools.partial(
        without_names, source=Path(work["source"]), pseudonyms=case.pseudonyms, keep=case.inputs
    )
    brief = {key: work[key] for key in ("case", "subject", "split")}
    row: dict[str, Any] = {**brief, "source": case.public_inputs}
    logged = _Warnings()
    logger = logging.getLogger("medrecon")
    logger.addHandler(logged)
    try:
        arrays, compression = _arrays(case, row, source=Path(work["source"]), recipe=work["recipe"], seed=work["seed"])
    except Exception as error:  # whatever it is, the next case is prepared
        return brief | {"error": error_text(error, remove_names)}
    finally:
        logger.removeHandler(logged)
    try:
        stage(staged_path(Path(work["destination"]), case.name), arrays, row, compression=compression)
    except Exception as error:
        reason = write_error(error)
        return brief | ({"error": error_text(error, remove_names)} if reason is None else {"stop": reason})
    return brief | {"logged": sorted(set(logged.texts))}


def digest(paths: list[str]) -> dict[str, Any]:
    """SHA-256 of files, one after another."""
    try:
        return {"sha256": sha256(*map(Path, paths))}
    except OSError as error:
        return {"error": error.strerror or one_line(error)}


class _Warnings(logging.Handler):
    """Collects this package's warnings, which the parent process prints."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def write_error(error: BaseException) -> str | None:
    """The system's reason for an error in writing, e.g. a full disk; ``None`` if the case itself is at fault."""
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        if number is None and (found := re.search(r"errno = (\d+)", str(cause))):  # in messages of HDF5
            number = int(found[1])
        if number is not None:
            return os.strerror(number)
        cause = cause.__cause__ or cause.__context__
    return None


def _without_names(text: str, case: Case, source: Path) -> str:
    return without_names(text, source, case.pseudonyms, keep=case.inputs)


def _arrays(
    case: Case, row: dict[str, Any], *, source: Path, recipe: str, seed: int
) -> tuple[dict[str, np.ndarray], str | None]:
    """Arrays and compression of a case; adds checksums, descriptions and warnings to its ``row``."""
    paths = case.paths(source)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: is gone, or is no longer a file; restore it and run again")
    row |= {"stamp": stamp_of(paths), "sha256": sha256(*paths)}
    transform, write, optional, compression = transform_of(recipe, str(source), seed)
    random: object = transform
    if isinstance(random, Randomizable):
        random.set_random_state(case_seed(seed, case.name))
    data: dict[str, Any] = {
        key: str(source / value) if isinstance(value, str) else [str(source / p) for p in value]
        for key, value in case.inputs.items()
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        out: Any = transform({**data, "case": case.name, "subject": case.subject})
    missing = [key for key in write.values() if key not in out]
    if missing:
        raise InputError(
            f"{paths[0]}: the recipe's transform does not return {', '.join(missing)}; it returns {', '.join(map(str, out))}"
        )
    if stamp_of(paths) != row["stamp"]:
        raise InputError(f"{paths[0]}: changed while it was read; run again when it is complete")
    write = write | {name: key for name, key in optional.items() if key in out}
    arrays = {name: _array(out[key]) for name, key in write.items()}
    row["arrays"] = {name: _describe(out[key], arrays[name], case=case, source=source) for name, key in write.items()}
    notes = [_without_names(str(w.message), case, source) for w in caught if issubclass(w.category, UserWarning)]
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


def _describe(value: object, array: np.ndarray, *, case: Case, source: Path) -> dict[str, Any]:
    """Shape, dtype, geometry and warnings of an array."""
    about: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(value, MetaTensor):
        known = bool(value.meta.get("affine_known", True))
        spacing = np.asarray(value.meta["spacing"]).tolist() if value.meta.get("spacing_known") else None
        about |= {
            "affine_known": known,
            "affine": value.affine.cpu().numpy().astype(float).tolist() if known else None,
            "spacing_mm": spacing,
        }
        facts = {
            key: str(value.meta[key]) for key in ("noise_source", "modality", "maps_source") if value.meta.get(key)
        }
        if facts:
            about["meta"] = facts
        if value.meta.get("warnings"):
            texts = [_without_names(str(text), case, source) for text in value.meta["warnings"]]
            about.setdefault("meta", {})["warnings"] = texts
    return about
