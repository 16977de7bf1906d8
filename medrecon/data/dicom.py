"""DICOM images: series of files or frames sorted in space, with their affine.

Classic series (one slice a file) and multi-frame objects, the functional groups of enhanced ones included.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medrecon.data.errors import InputError, told
from medrecon.data.images import Image

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["find_series", "natural", "read_dicom"]

_SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".dic")
"""Of files that may lack the preamble by which DICOM is known."""
_DIFFER = (
    "SeriesNumber", "EchoTime", "EffectiveEchoTime", "EchoNumbers", "ImageType", "FrameType", "DiffusionBValue", "InversionTime",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime",
    "AcquisitionNumber", "StackID", "AcquisitionTime", "ContentTime", "InstanceNumber",
)  # fmt: skip
"""What images at one position may differ in, the most telling first."""
_TOLD = (
    "Modality", "SeriesDescription", "SeriesNumber", "EchoTime", "RepetitionTime", "MagneticFieldStrength", "KVP",
)  # fmt: skip


@dataclass
class _Frame:
    """One slice: its file's data set, its index there, and its attributes."""

    header: Dataset
    index: int
    own: dict[str, Any]

    def get(self, keyword: str) -> Any:  # noqa: ANN401 - whatever DICOM holds
        return self.own[keyword] if keyword in self.own else self.header.get(keyword)


def natural(path: str | Path) -> list:
    """Names with numbers in their order: slice2 before slice10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _header(path: Path) -> Dataset | None:
    """A file's data set without pixels, or ``None`` if it is not DICOM.

    Raises:
        InputError: if it begins as DICOM and cannot be read.
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    try:
        with path.open("rb") as file:
            file.seek(128)
            marked = file.read(4) == b"DICM"
        if path.suffix.lower() in _SUFFIXES[1:] and not path.stat().st_size:
            raise ValueError("it is empty")
        if not marked and path.suffix.lower() not in _SUFFIXES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, force=not marked)
            if not marked and not ("SOPClassUID" in header and "Rows" in header):
                return None
            if not hasattr(header.file_meta, "TransferSyntaxUID"):
                header.file_meta.TransferSyntaxUID = _plain(header)
            for element in header:  # pydicom converts when asked
                str(element.value)
            image = "Image Storage" in UID(str(header.get("SOPClassUID", ""))).name
            if "SOPClassUID" not in header or (image and "Rows" not in header):
                raise ValueError("it ends before its image")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except Exception as error:  # pydicom raises many kinds on damaged files
        if path.suffix.lower() not in _SUFFIXES[1:] and not marked:
            return None
        raise InputError(f"{path}: damaged DICOM file ({told(error)}); export it again") from error
    return header


def _plain(header: Dataset) -> str:
    """The uncompressed transfer syntax in which a file without meta information is written."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and p.name != "DICOMDIR")
            yield from sorted((p for p in inside if not p.name.startswith(".")), key=natural)
        else:
            yield path


def find_series(path: str | Path | Sequence[Path]) -> dict[str, list[tuple[Path, Dataset]]]:
    """The images below a folder, by SeriesInstanceUID, in the order of their names; what is no DICOM image is left out.

    Raises:
        InputError: for a damaged DICOM file.
    """
    series: dict[str, list[tuple[Path, Dataset]]] = {}
    for file in _files([Path(path)] if isinstance(path, str | Path) else path):
        header = _header(file)
        if header is not None and "Rows" in header and "Columns" in header:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    return series


def _matches(value: Any, wanted: object) -> bool:  # noqa: ANN401
    """Whether an attribute, or one of its values, is what is asked for; numbers as numbers, to six digits."""
    if value is None:
        return False
    values = value if not isinstance(value, str) and isinstance(value, Sequence) else [value]
    for one in values:
        if str(one) == str(wanted):
            return True
        try:
            if np.isclose(float(one), float(str(wanted)), rtol=1e-6, atol=0):
                return True
        except ValueError:
            continue
    return False


def _leaves(group: Dataset | None) -> dict[str, Any]:
    """The attributes of a functional group, whatever sequence they lie in.

    But for private ones, in which vendors repeat some attributes with other values.
    """
    held: dict[str, Any] = {}
    for element in group or ():
        if element.VR != "SQ" or element.tag.is_private or not len(element.value):
            continue
        if element.keyword == "RealWorldValueMappingSequence":
            held[element.keyword] = element.value
        elif element.keyword not in ("ReferencedImageSequence", "DerivationImageSequence"):
            held |= {item.keyword: item.value for item in element.value[0] if item.VR != "SQ" and item.keyword}
    return held


def _frames(header: Dataset) -> list[_Frame]:
    n = int(header.get("NumberOfFrames") or 1)
    shared = header.get("SharedFunctionalGroupsSequence")
    own = header.get("PerFrameFunctionalGroupsSequence")
    common = _leaves(shared[0]) if shared else {}
    if own is not None and len(own) != n:
        raise InputError(f"{header.filename}: tells of {n} frames and describes {len(own)}; export it again")
    return [_Frame(header, i, {**common, **(_leaves(own[i]) if own is not None else {})}) for i in range(n)]


def _numbers(frame: _Frame, keyword: str, n: int) -> np.ndarray | None:
    """``n`` finite numbers of an attribute, or ``None``."""
    value = frame.get(keyword)
    try:
        numbers = np.array([float(v) for v in value], float)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == n and np.isfinite(numbers).all() else None


def _positive(frame: _Frame, *keywords: str) -> float | None:
    for keyword in keywords:
        try:
            value = float(frame.get(keyword))
        except (TypeError, ValueError):
            continue
        if 0 < value < np.inf:
            return value
    return None


def _one_of(groups: Sequence[Sequence[_Frame]]) -> str:
    """How to select one of several groups of frames: by an attribute that is one in each and another in every other."""
    for keyword in _DIFFER:
        values = [{_texts(frame.get(keyword)) for frame in group} for group in groups]
        if any(len(v) > 1 for v in values) or len(set.union(*values)) < len(groups) or len(groups) < 2:
            continue
        each = [next(iter(v)) for v in values]
        # Of several values, one that no other group has.
        told = [next((t for t in one if sum(t in other for other in each) == 1), None) for one in each]
        if all(told):
            more = ", ..." if len(told) > 6 else ""
            return f", which differ in {keyword} ({', '.join(map(str, told[:6]))}{more}); select one, e.g. {keyword}={told[0]}"
    return "; give the files of one alone"


def _one_stack(frames: list[_Frame], places: np.ndarray, name: str) -> None:
    """Refuse several images at one position, telling what they differ in."""
    if len(places) < 2 or np.diff(np.sort(places)).min() > 1e-3:
        return
    if len({id(frame.header) for frame in frames}) == 1 and not any("ImagePositionPatient" in f.own for f in frames):
        raise InputError(f"{name}: tells one position for all of its {len(frames)} frames; such objects cannot be used")
    stacks = len(frames) // len(np.unique(np.round(places, 3)))
    for keyword in _DIFFER:
        groups: dict[tuple, list[int]] = {}
        for i, frame in enumerate(frames):
            groups.setdefault(_texts(frame.get(keyword)), []).append(i)
        # As many groups as there are stacks; for an attribute of every image alone would select single slices.
        if 1 < len(groups) <= max(stacks, 2) and all(
            len(members) == 1 or np.diff(np.sort(places[members])).min() > 1e-3 for members in groups.values()
        ):
            choice = _one_of([[frames[i] for i in members] for members in groups.values()])
            raise InputError(f"{name}: holds several images at one position{choice}")
    two = [k for k in _DIFFER if 1 < len({_texts(f.get(k)) for f in frames}) <= max(stacks, 2)][:3]
    hint = f", which differ in {', '.join(two)}; select one of each" if two else "; give a folder with one series"
    raise InputError(f"{name}: holds several images at one position{hint}")


def _texts(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The values of an attribute, as text."""
    several = value if not isinstance(value, str) and isinstance(value, Sequence) else [value]
    return tuple(str(one) for one in several)


def _short(value: Any) -> str:  # noqa: ANN401
    """A value, or several, to show."""
    return "/".join(_texts(value))


def _placed(
    frames: list[_Frame], name: str
) -> tuple[list[_Frame], tuple[float, float, float] | None, np.ndarray | None, dict[str, str | float]]:
    """Frames in their order, voxel size, RAS affine of (x, y, slice), and what is to be said of them."""
    first = frames[0]
    pixel = _numbers(first, "PixelSpacing", 2)
    pixel = pixel if pixel is None or pixel.min() > 0 else None
    thick = _positive(first, "SpacingBetweenSlices", "SliceThickness")
    positions = [_numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    directions = [_numbers(frame, "ImageOrientationPatient", 6) for frame in frames]
    if pixel is None or any(p is None for p in positions) or any(d is None for d in directions):
        missing = "PixelSpacing" if pixel is None else "ImagePositionPatient or ImageOrientationPatient"
        with_numbers = all(frame.get("InstanceNumber") is not None for frame in frames)
        if (
            with_numbers
            and len(frames) > 1
            and "InstanceNumber" not in first.own
            and first.header is not frames[1].header
        ):
            frames = sorted(frames, key=lambda frame: int(frame.get("InstanceNumber")))
        spacing = None if pixel is None or thick is None else (thick, float(pixel[0]), float(pixel[1]))
        return frames, spacing, None, {"orientation": f"unknown: no {missing}"}
    at, turn = np.array(positions), np.array(directions)
    if np.abs(turn - turn[0]).max() > 1e-3:
        raise InputError(f"{name}: slices lie in different directions, as in a localizer; select or give one stack")
    if any(not np.allclose(_numbers(f, "PixelSpacing", 2), pixel, rtol=1e-4) for f in frames):  # type: ignore[arg-type]
        raise InputError(f"{name}: slices differ in pixel size; select or give one stack")
    right, down = turn[0, :3], turn[0, 3:]
    if not np.allclose([right @ right, down @ down, right @ down], [1, 1, 0], atol=1e-3):
        raise InputError(
            f"{name}: ImageOrientationPatient is no pair of perpendicular directions; export the series again"
        )
    normal = np.cross(right, down)
    places = at @ normal
    _one_stack(frames, places, name)
    order = np.argsort(places, kind="stable")
    frames, at, places = [frames[i] for i in order], at[order], places[order]
    notes: dict[str, str | float] = {}
    if len(frames) > 1:
        steps = np.diff(places)
        usual = float(np.median(steps))
        # Positions are written with few digits: whether they lie on one evenly divided line is seen from that line, which
        # rounding moves by half a digit, not from single steps.
        index = np.arange(len(at))
        step, first_place = np.polynomial.polynomial.polyfit(index, at, 1)[::-1]
        off = float(np.abs(at - first_place - index[:, None] * step).max())
        if off > max(0.02 * usual, 0.1):
            whole = np.round(steps / steps.min())
            if (
                whole.max() > 1
                and np.abs(steps - whole * steps.min()).max() < max(0.02 * steps.min(), 0.02) * whole.max()
            ):
                k = int(np.argmax(whole))
                raise InputError(
                    f"{name}: {int((whole - 1).sum())} slices are missing, e.g. between {places[k]:.1f} and "
                    f"{places[k + 1]:.1f} mm along the stack; export the series again"
                )
            raise InputError(
                f"{name}: slices are not equally spaced on one line ({steps.min():.2f} to {steps.max():.2f} mm); select or give "
                "one stack"
            )
        step = (at[-1] - at[0]) / (len(at) - 1)
        if step @ normal < (1 - 1e-4) * np.linalg.norm(step):
            notes["sheared"] = "slices are not stacked along their normal (gantry tilt)"
    else:
        step = normal * (thick or 1.0)
        if thick is None:
            notes["slice_thickness"] = "unknown: 1 mm taken"
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = right * pixel[1], down * pixel[0], step, at[0]
    spacing = (float(np.linalg.norm(step)), float(pixel[0]), float(pixel[1]))
    return frames, spacing, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, notes


def _values(frame: _Frame, stored: np.ndarray) -> np.ndarray:
    """Stored values in the unit of the series: rescaled, else by the real-world map."""
    slope, intercept = frame.get("RescaleSlope"), frame.get("RescaleIntercept")
    if slope is None and intercept is None:
        table = frame.header.get("ModalityLUTSequence")
        if table:
            from pydicom.pixels import apply_modality_lut

            return apply_modality_lut(stored, frame.header).astype(np.float32)
        maps = frame.get("RealWorldValueMappingSequence")
        slope = maps[0].get("RealWorldValueSlope") if maps else None
        intercept = maps[0].get("RealWorldValueIntercept") if maps else None
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _told(frame: _Frame) -> dict[str, str | float]:
    """What of a header is worth knowing, nothing of the patient."""
    told: dict[str, str | float] = {}
    for keyword in (
        "Modality",
        "SeriesDescription",
        "SeriesNumber",
        "EchoTime",
        "RepetitionTime",
        "MagneticFieldStrength",
        "KVP",
    ):
        value = frame.get(keyword)
        if value not in (None, ""):
            told[keyword] = float(value) if isinstance(value, int | float) else str(value)
    return told


@contextmanager
def _decoded(header: Dataset) -> Iterator[Dataset]:
    """The whole data set of a header; what goes wrong while its pixels are used becomes one sentence."""
    from pydicom import dcmread

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(header.filename, force=True)
            dataset.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
            yield dataset
    except Exception as error:  # decoders raise many kinds
        raise InputError(
            f"{header.filename}: its pixels cannot be decoded ({told(error)}); export it uncompressed"
        ) from error


def _mosaic(header: Dataset) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Slices, voxel size and RAS affine of a Siemens mosaic, whose geometry lies in a private header that nibabel reads."""
    with _decoded(header) as dataset:
        from nibabel.nicom.dicomwrappers import wrapper_from_data

        wrapper: Any = wrapper_from_data(dataset)
        data, affine = wrapper.get_data(), np.array(wrapper.affine, float)
        if data.ndim != 3 or not np.isfinite(affine).all():
            raise ValueError("its Siemens header does not tell of a mosaic")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [1, 0, 2, 3]]  # nibabel's axes are row, column, slice
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return np.ascontiguousarray(data.transpose(2, 0, 1), np.float32), (z, y, x), affine


def _pixels(frames: list[_Frame]) -> np.ndarray:
    """``(slices, y, x)`` float32; every file is decoded once, alone."""
    out: np.ndarray | None = None
    by_file: dict[int, list[int]] = {}
    for i, frame in enumerate(frames):
        by_file.setdefault(id(frame.header), []).append(i)
    for members in by_file.values():
        with _decoded(frames[members[0]].header) as dataset:
            stored = dataset.pixel_array
            stored = stored.reshape(-1, *stored.shape[-2:])
            for i in members:
                image = _values(frames[i], stored[frames[i].index])
                if out is None:
                    out = np.empty((len(frames), *image.shape), np.float32)
                out[i] = image
    assert out is not None
    return out


def read_dicom(paths: Sequence[Path], select: Mapping[str, str | int | float] | None = None) -> Image:
    """Read one stack of slices.

    Slices are sorted by their position along the normal, never by number or name (which serve only where there is no position).
    Values are rescaled (CT: HU), or mapped to real-world values where a file has that map alone. The affine follows the
    positions, so that tilted gantries give sheared, true ones.

    Args:
        paths: of files, or of folders that are searched to the bottom.
        select: attributes by DICOM keyword, for several series or stacks: ``{"SeriesNumber": 3}``, ``{"EchoTime": 4.6}``,
            ``{"ImageType": "P"}`` (one of its values).

    Raises:
        InputError: for no images, several series or stacks, missing slices, colour, and files that cannot be read; naming the
            file and what to do.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    try:
        return _read(paths, name, select or {})
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # values of the wrong kind
        raise InputError(f"{name}: a damaged DICOM header ({told(error)}); export it again") from error


def _read(paths: Sequence[Path], name: str, select: Mapping[str, str | int | float]) -> Image:
    """See :func:`read_dicom`."""
    series = find_series(paths)
    frames_of = {uid: [f for _, header in held for f in _frames(header)] for uid, held in series.items()}
    if not frames_of:
        raise InputError(f"{name}: holds no DICOM images; give a DICOM file or a folder of them, or a NIfTI file")
    for keyword, wanted in select.items():
        kept = {u: [f for f in frames if _matches(f.get(keyword), wanted)] for u, frames in frames_of.items()}
        kept = {u: frames for u, frames in kept.items() if frames}
        if not kept:
            held = list(dict.fromkeys(_short(f.get(keyword)) for frames in frames_of.values() for f in frames))
            raise InputError(
                f"{name}: no image with {keyword}={wanted}; there are {', '.join(held[:8])}{', ...' if len(held) > 8 else ''}"
            )
        frames_of = kept
    if len(frames_of) > 1:
        told = [
            f"{f[0].get('SeriesNumber')} ({f[0].get('SeriesDescription') or 'no description'}, {len(f)} images)"
            for f in frames_of.values()
        ]
        numbers = {str(f[0].get("SeriesNumber")) for f in frames_of.values()}
        hint = (
            f"SeriesNumber={next(iter(frames_of.values()))[0].get('SeriesNumber')}"
            if len(numbers) == len(frames_of)
            else f"SeriesInstanceUID={next(iter(frames_of))}"
        )
        raise InputError(
            f"{name}: holds {len(frames_of)} series: {', '.join(told[:6])}{', ...' if len(told) > 6 else ''}; "
            f"select one, e.g. {hint}"
        )
    frames = next(iter(frames_of.values()))
    first = frames[0]
    if int(first.get("SamplesPerPixel") or 1) > 1 or str(first.get("PhotometricInterpretation")).startswith("PALETTE"):
        raise InputError(f"{name}: holds colour images ({first.get('PhotometricInterpretation')}); give grey ones")
    if "MOSAIC" in (first.get("ImageType") or []):
        if len(frames) > 1:
            raise InputError(
                f"{name}: holds {len(frames)} mosaics, each a whole volume{_one_of([[f] for f in frames])}"
            )
        array, spacing, affine = _mosaic(first.header)
        return Image(array, paths[0], "DICOM", spacing, affine, _told(first), (first.header,))
    shapes = {(int(f.get("Rows")), int(f.get("Columns"))) for f in frames}
    if len(shapes) > 1:
        raise InputError(f"{name}: holds images of different sizes {sorted(shapes)}; select or give one stack")
    frames, spacing, affine, notes = _placed(frames, name)
    array = _pixels(frames)
    if array.shape[1:] != next(iter(shapes)) or not np.isfinite(array).all():
        raise InputError(f"{name}: its pixels do not fit its header, or hold NaN; export the series again")
    headers = tuple({id(frame.header): frame.header for frame in frames}.values())
    # Of files that were given one by one: a name for the series, not for its first slice.
    path = paths[0] if len(paths) == 1 else paths[0].parent / str(headers[0].get("SeriesInstanceUID", "series"))
    return Image(array, path, "DICOM", spacing, affine, {**notes, **_told(first)}, headers)
