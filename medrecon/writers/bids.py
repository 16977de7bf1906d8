"""Names of BIDS derivatives: https://bids-specification.readthedocs.io, version 1.10."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from medrecon._version import __version__
from medrecon.data.errors import InputError

__all__ = ["bids_files", "dataset_description"]

# Entities of MR images, in the order of the specification.
_ENTITIES = (
    "sub", "ses", "sample", "task", "acq", "ce", "trc", "stain", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part",
    "space", "res", "den", "label", "desc",
)  # fmt: skip
_FOLDERS = {
    "anat": ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "MEGRE", "MESE", "VFA", "IRT1",
             "MP2RAGE", "MPM", "MTS", "MTR", "UNIT1"),
    "func": ("bold", "cbv", "sbref"),
    "dwi": ("dwi",),
    "fmap": ("epi", "magnitude", "magnitude1", "magnitude2"),
    "perf": ("asl", "m0scan"),
}  # fmt: skip


def _parsed(name: str) -> tuple[dict[str, str], str]:
    """Split a BIDS name into entities and suffix."""
    *pairs, suffix = name.split("_")
    entities: dict[str, str] = {}
    for pair in pairs:
        key, dash, value = pair.partition("-")
        if not dash or key not in _ENTITIES or key in entities or not re.fullmatch(r"[0-9A-Za-z]+", value):
            raise InputError(
                f"{pair!r} in the BIDS name {name!r} is not a BIDS entity; give letters and digits, e.g. sub-01_acq-mprage_T1w"
            )
        entities[key] = value
    if "sub" not in entities:
        raise InputError(f"the BIDS name {name!r} lacks sub-; give e.g. sub-01_T1w")
    if not any(suffix in known for known in _FOLDERS.values()):
        known = ", ".join(one for folder in _FOLDERS.values() for one in folder)
        raise InputError(f"{suffix!r} in the BIDS name {name!r} is not a suffix of MR images; choose one of {known}")
    return entities, suffix


def bids_files(name: str, label: str, *, samples: bool, part: str, maps: Sequence[str] = ()) -> list[str]:
    """File names, relative to the derivatives folder: images, maps, samples, and the sidecar last.

    BIDS has no entity for statistics of MR images, so that maps and samples differ from the image in the label of ``desc-``.

    Args:
        name: entities and suffix, e.g. ``sub-01_ses-a_acq-mprage_T1w``.
        label: label of the ``rec-`` entity, if ``name`` has none.
        samples: whether there is a file of samples.
        part: ``mag``, ``mag-phase`` or ``complex``.
        maps: names of maps; a label has only letters and digits, so that ``null_spread`` is ``nullspread``.

    Raises:
        InputError: for entities or suffixes that BIDS does not define.
    """
    entities, suffix = _parsed(name)
    entities.setdefault("rec", re.sub(r"[^0-9A-Za-z]", "", label))
    entities.setdefault("desc", "medrecon")
    kind = next(folder for folder, known in _FOLDERS.items() if suffix in known)
    folder = "/".join([f"sub-{entities['sub']}", *([f"ses-{entities['ses']}"] if "ses" in entities else []), kind])

    def path(end: str, **more: str) -> str:
        labels = {**entities, **more}
        ordered = [f"{key}-{labels[key]}" for key in _ENTITIES if key in labels]
        return f"{folder}/{'_'.join([*ordered, suffix])}{end}"

    images = [path(".nii.gz", part=p) for p in ("mag", "phase")] if part == "mag-phase" else [path(".nii.gz")]
    others = [*(name.replace("_", "") for name in maps), *["samples"] * samples]
    more = [path(".nii.gz", desc=f"{entities['desc']}{name}") for name in others]
    sidecar = path(".json", part="mag") if part == "mag-phase" else path(".json")
    return [*images, *more, sidecar]


def dataset_description() -> bytes:
    """Content of ``dataset_description.json``, required in every derivatives folder."""
    about = {
        "Name": "medrecon reconstructions",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medrecon", "Version": __version__}],
    }
    return (json.dumps(about, indent=2) + "\n").encode()
