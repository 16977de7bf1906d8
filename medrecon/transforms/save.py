"""Dictionary transforms that write reconstructions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from medrecon.posterior import Reconstruction
from medrecon.writers import Output, like_series, output_geometry, write

__all__ = ["DicomOptions", "SaveReconstructiond"]


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """Options of DICOM output, with the names of the flags of ``medrecon recon``.

    Args:
        like: folder of a DICOM series whose patient and study are copied, and its positions where the scan has none.
        like_select: choice among several series or volumes, see :func:`medrecon.formats.load_image`.
        deidentify: copy only what the Basic profile of PS3.15 keeps, see :class:`medrecon.writers.Output`.
    """

    like: str | None = None
    like_select: Mapping[str, str | int | float] = field(default_factory=dict)
    deidentify: bool = False


class SaveReconstructiond(MapTransform):
    """Write reconstructions and their sidecars atomically, as ``medrecon recon`` does.

    Args:
        keys: keys of the :class:`medrecon.posterior.Reconstruction` objects from ``PosteriorInferer``.
        output_dir: folder for ``<stem>.nii.gz`` (or the files of ``fmt``) and ``<stem>.json``.
        source_key: key of the scan from :class:`medrecon.transforms.LoadScand`.
        fmt: output format, a name in :data:`medrecon.writers.WRITERS`.
        part: ``mag``, ``mag-phase`` or ``complex``.
        overwrite: replace existing files.
        dicom: options of DICOM output.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        source_key: str = "scan",
        fmt: str = "nifti",
        part: str = "mag",
        overwrite: bool = False,
        dicom: DicomOptions = DicomOptions(),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.source_key = source_key
        self.dicom = dicom
        self.output = {
            "folder": output_dir,
            "format": fmt,
            "part": part,
            "overwrite": overwrite,
            "deidentify": dicom.deidentify,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write every key."""
        scan = data[self.source_key]
        for key in self.key_iterator(data):
            self._write(scan, data[key])
        return dict(data)

    def _write(self, scan: Any, made: Reconstruction) -> list[Path]:  # noqa: ANN401 - a scan of any kind
        like = like_series(self.dicom.like, self.dicom.like_select, str(self.output["format"]))
        output = Output(
            **self.output,
            stem=scan.stem,
            like=like,
            label=made.record["solver"]["name"],
            sources=[scan.path],
        )
        if like is not None:
            geometry = output_geometry(made.geometry, made.image.shape, like)
            record = {**made.record, "warnings": [*made.record["warnings"], *like.warnings]}
            made = replace(made, geometry=geometry, record=record)
        return write(made, output)
