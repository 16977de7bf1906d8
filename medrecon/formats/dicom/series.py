"""DICOM series: files or frames sorted by position, with their affine.

Supports classic series (one slice per file) and multi-frame objects, including the functional groups of enhanced objects.
"""

from __future__ import annotations

import filecmp
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medrecon.data.errors import InputError, SelectionError, os_error_advice, redacted
from medrecon.data.geometry import lps_to_ras
from medrecon.data.names import natural_key
from medrecon.data.scan import Geometry, ImageScan
from medrecon.formats.dicom.decoding import decode_file
from medrecon.formats.dicom.stacks import (
    ADVISED,
    FARTHEST,
    Frame,
    advice,
    axes,
    describe,
    geometry,
    is_code,
    numbers,
    same_value,
    show,
    split,
)
from medrecon.formats.limits import BoundedReader, check_claim, reading
from medrecon.formats.selecting import volume_number

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

__all__ = ["UnknownFileError", "find_series", "identity", "image_header", "read_dicom"]

_SUFFIXES = ("", ".dcm", ".dicom", ".ima", ".dic")
"""Suffixes of files that may lack the DICOM preamble."""
_NO_IMAGES = {
    "RTDOSE": "a radiotherapy dose (RTDOSE)",
    "SEG": "a segmentation (SEG)",
    "PR": "a presentation state (PR)",
    "KO": "a selection of key objects (KO)",
}
"""Objects whose pixels are not measured images, by modality."""
_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media Storage Directory: an index of files, not an image."""


def _header(path: Path) -> Dataset | None:
    """Read the data set of a file without pixels; ``None`` if it is not a DICOM file with an image.

    Raises:
        InputError: if it begins like DICOM but cannot be read.
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    has_suffix = path.suffix.lower() in _SUFFIXES[1:]
    has_prefix = False
    try:
        with path.open("rb") as file:
            start = file.read(132)
        has_prefix = start[128:] == b"DICM"
        if not has_prefix and not has_suffix and (path.suffix or _is_text(start)):
            return None
        if not start:
            raise ValueError("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _DicomFile(str(path)) as file:
                header = dcmread(file, stop_before_pixels=True, force=not has_prefix)
            if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
                return None
            if not has_prefix and not ("SOPClassUID" in header and "Rows" in header):
                raise ValueError("it lacks the DICOM prefix or an image")
            if not hasattr(header.file_meta, "TransferSyntaxUID"):
                header.file_meta.TransferSyntaxUID = _uncompressed_syntax(header)
            for element in header:  # pydicom converts values on access
                str(element.value)
            classes = [UID(str(d.get(k, ""))) for d, k in
                       ((header, "SOPClassUID"), (header.file_meta, "MediaStorageSOPClassUID"))]  # fmt: skip
            image = any("Image Storage" in uid.name for uid in classes) or not classes[0].is_valid
            if "SOPClassUID" not in header or (image and not ("Rows" in header and "Columns" in header)):
                raise ValueError("it ends before its image")
            if ("Rows" in header) != ("Columns" in header):
                raise ValueError("it has only one of Rows and Columns")
    except Exception as error:  # pydicom raises many kinds on damaged files
        if isinstance(error, OSError) and error.errno:  # from the operating system, not the content
            advice = os_error_advice(error, "copy it again")
            raise InputError(f"{path}: cannot be read ({os.strerror(error.errno)}); {advice}") from error
        if not has_prefix and not has_suffix:
            raise UnknownFileError(f"{path}: not DICOM, or damaged ({redacted(error)}); export it again") from error
        raise InputError(f"{path}: damaged DICOM file ({redacted(error)}); export it again") from error
    return header


class _DicomFile(BoundedReader):
    """A file for pydicom, which reads the rest in one call only to unpack it (deflated transfer syntax)."""

    def read(self, size: int | None = -1) -> bytes:
        """Read at most ``size`` bytes.

        Raises:
            InputError: if the rest of the file is read and unpacks to far more than it stores.
        """
        data = super().read(size)
        if size is None or size < 0:
            decompressor, packed, total = zlib.decompressobj(-zlib.MAX_WBITS), data, 0
            while packed and not decompressor.eof:
                total += len(decompressor.decompress(packed, 2**20))
                packed = decompressor.unconsumed_tail
                check_claim(total, len(data), name=self.name, what="its deflated part")
        return data


class UnknownFileError(InputError):
    """A file without suffix that is neither text nor readable."""


def _is_text(start: bytes) -> bool:
    """Whether a file begins like text, e.g. a note stored with the images."""
    return bool(start) and all(byte in b"\t\n\r\f" or 32 <= byte < 127 or byte >= 128 for byte in start)


def _uncompressed_syntax(header: Dataset) -> UID:
    """Uncompressed transfer syntax of a file without meta information."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _files(paths: Sequence[Path]) -> list[Path]:
    """Files, and all files below folders in natural order; links to folders are followed, every folder is visited once.

    Raises:
        InputError: for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror or error}); {os_error_advice(error, 'copy it again')}"
        ) from error

    found: list[Path] = []
    seen: set[str] = set()
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside: list[Path] = []
        for folder, folders, names in os.walk(path, followlinks=True, onerror=stop):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
            inside += [Path(folder, name) for name in names if not name.startswith(".") and name.upper() != "DICOMDIR"]
        # Pipes and devices are not images; a broken link counts as a missing image.
        found += sorted((p for p in inside if p.is_file() or p.is_symlink()), key=natural_key)
    return found


def _scan(paths: Sequence[Path]) -> tuple[dict[str, list[tuple[Path, Dataset]]], list[InputError]]:
    """Images by SeriesInstanceUID, in natural order of their names, and errors of files that cannot be read."""
    series: dict[str, list[tuple[Path, Dataset]]] = {}
    errors: list[InputError] = []
    unknown: list[UnknownFileError] = []
    for file in _files(paths):
        try:
            header = _header(file)
        except UnknownFileError as error:
            unknown.append(error)
            continue
        except InputError as error:
            errors.append(error)
            continue
        if header is not None and "Rows" in header:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    # Where images have no suffix, other files without suffix are likely to be images.
    if any(not file.suffix for images in series.values() for file, _ in images):
        errors += unknown
    return series, errors


def find_series(path: str | Path | Sequence[Path]) -> dict[str, list[tuple[Path, Dataset]]]:
    """Images below a folder by SeriesInstanceUID, in natural order of their names; other files are ignored.

    Raises:
        InputError: for a damaged DICOM file.
    """
    series, errors = _scan([Path(path)] if isinstance(path, str | Path) else path)
    if errors:
        raise errors[0]
    return series


def image_header(path: Path) -> Dataset | None:
    """Header of a DICOM image; ``None`` for other files.

    Raises:
        UnknownFileError: for a file without suffix that is neither text nor readable.
        InputError: for a damaged DICOM file.
    """
    header = _header(path)
    return header if header is not None and "Rows" in header else None


def identity(header: Dataset) -> tuple[str, ...]:
    """Attributes that identify an image; copies of one SOP instance share all of them.

    The SOPInstanceUID is not sufficient: some deidentification tools write the same one to all files of a series.
    """
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns",
                "ImagePositionPatient", "EchoTime", "ImageType", "TemporalPositionIdentifier", "AcquisitionNumber")  # fmt: skip
    return tuple(str(header.get(keyword)) for keyword in keywords)


def _group_attributes(group: Dataset | None) -> dict[str, Any]:
    """Attributes of a functional group from all of its sequences.

    Private sequences are skipped: vendors repeat some attributes there with other values.
    """
    attributes: dict[str, Any] = {}
    for element in group or ():
        if element.VR != "SQ" or element.tag.is_private or not len(element.value):
            continue
        if element.keyword == "RealWorldValueMappingSequence":
            attributes[element.keyword] = element.value
        elif element.keyword not in ("ReferencedImageSequence", "DerivationImageSequence"):
            attributes |= {item.keyword: item.value for item in element.value[0] if item.VR != "SQ" and item.keyword}
    return attributes


def _check_size(header: Dataset) -> int:
    """Compare the image size in the header with the file; returns the number of frames.

    Raises:
        InputError: if the image is larger than the file can hold.
        ValueError: if the image has no pixels.
    """
    sizes = [int(header.get(keyword) or 1) for keyword in ("NumberOfFrames", "SamplesPerPixel", "BitsAllocated")]
    sizes += [int(header.get("Rows") or 0), int(header.get("Columns") or 0)]
    if min(sizes) < 1:
        raise ValueError("its image has no pixels")
    n, colours, bits, rows, columns = sizes
    claimed, stored = -(-n * colours * bits * rows * columns // 8), os.path.getsize(header.filename)
    syntax = header.file_meta.TransferSyntaxUID
    packed = syntax.is_private or syntax.is_encapsulated or syntax.is_deflated
    # Native YBR_FULL_422 stores two thirds of this; a compressed frame takes at least the 8 bytes of its item.
    if (n > stored) if packed else (claimed > stored and colours == 1):
        raise InputError(
            f"{header.filename}: its header says {n} frame{'s' if n > 1 else ''} of {rows} x {columns} ({claimed} bytes), "
            f"but the file has {stored} bytes; export it again"
        )
    check_claim(claimed, stored, header.filename)
    return n


def _frames(header: Dataset) -> list[Frame]:
    n = _check_size(header)
    shared = header.get("SharedFunctionalGroupsSequence")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    common = _group_attributes(shared[0]) if shared else {}
    if per_frame is not None and len(per_frame) != n:
        raise InputError(
            f"{header.filename}: has {n} frames by its header, but describes {len(per_frame)}; export it again"
        )
    return [
        Frame(header, i, {**common, **(_group_attributes(per_frame[i]) if per_frame is not None else {})})
        for i in range(n)
    ]


def _positive(frame: Frame, *keywords: str) -> float | None:
    for keyword in keywords:
        try:
            value = float(frame.get(keyword))
        except (TypeError, ValueError):
            continue
        if 0 < value < np.inf:
            return value
    return None


def _evenly_spaced(at: np.ndarray, places: np.ndarray) -> bool:
    """Whether sorted positions ``at`` are equally spaced on one line; ``places`` are their coordinates along the normal.

    Positions are written with few digits. They are compared with a fitted line, since rounding affects single steps more.
    """
    index = np.arange(len(at))
    step, first = np.polynomial.polynomial.polyfit(index, at, 1)[::-1]
    return float(np.abs(at - first - index[:, None] * step).max()) <= max(0.02 * float(np.median(np.diff(places))), 0.1)


def _spacing_error(frames: list[Frame], at: np.ndarray, places: np.ndarray, name: str) -> InputError:
    """Error for slices that are not equally spaced: some are missing, or they belong to several stacks."""
    steps = np.diff(places)
    text = f"{name}: slices are not equally spaced on one line ({steps.min():.2f} to {steps.max():.2f} mm)"
    choice = _even_parts(frames, at, places=places, keywords=("StackID",))
    if choice:
        return SelectionError(text + choice)
    whole = np.round(steps / steps.min())
    regular = np.abs(steps - whole * steps.min()).max() < max(0.02 * steps.min(), 0.02) * whole.max()
    if whole.max() > 1 and regular:
        k = int(np.argmax(whole))
        return InputError(
            f"{name}: {int((whole - 1).sum())} slices are missing, e.g. between {places[k]:.1f} and {places[k + 1]:.1f} mm along "
            "the stack; export the series again"
        )
    choice = _even_parts(frames, at, places=places, keywords=("AcquisitionNumber", "ImageType", "SliceThickness"))
    if choice:
        return SelectionError(text + choice)
    k = int(np.argmax(steps))
    if (
        0 < k < len(steps) - 1
        and _evenly_spaced(at[: k + 1], places[: k + 1])
        and _evenly_spaced(at[k + 1 :], places[k + 1 :])
    ):
        return InputError(
            f"{name}: two stacks that differ only in ImagePositionPatient: {k + 1} slices from {places[0]:.1f} to "
            f"{places[k]:.1f} mm along their normal, and {len(places) - k - 1} from {places[k + 1]:.1f} to {places[-1]:.1f} mm; "
            "give the files of one stack"
        )
    return InputError(f"{text}; export the series again, or give the files of one stack")


def _even_parts(frames: list[Frame], at: np.ndarray, places: np.ndarray, keywords: Sequence[str]) -> str | None:
    """Advice to select one of several stacks of equally spaced slices, if an attribute distinguishes them."""
    for keyword in keywords:
        groups: dict[str, list[int]] = {}
        for i, frame in enumerate(frames):
            groups.setdefault(show(frame.get(keyword)), []).append(i)
        members = list(groups.values())
        if len(members) > 1 and all(len(m) > 1 and _evenly_spaced(at[m], places[m]) for m in members):
            choice = advice([[frames[i] for i in m] for m in members], numbered=False)
            if "e.g." in choice:
                return choice
    return None


def _sort_frames(
    frames: list[Frame], name: str
) -> tuple[list[Frame], tuple[float, float, float] | None, np.ndarray | None, dict[str, str | float], list[str]]:
    """Sorted frames, voxel size, RAS affine for (x, y, slice), attributes, and warnings."""
    first = frames[0]
    pixel = numbers(first, "PixelSpacing", 2)
    pixel = pixel if pixel is None or pixel.min() > 0 else None
    thickness = _positive(first, "SpacingBetweenSlices", "SliceThickness")
    positions = [numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    directions = [numbers(frame, "ImageOrientationPatient", 6) for frame in frames]
    if pixel is None or any(p is None for p in positions) or any(d is None for d in directions):
        missing = "PixelSpacing" if pixel is None else "ImagePositionPatient or ImageOrientationPatient"
        numbered = all(frame.get("InstanceNumber") is not None for frame in frames)
        if (
            numbered
            and len(frames) > 1
            and "InstanceNumber" not in first.attributes
            and first.header is not frames[1].header
        ):
            frames = sorted(frames, key=lambda frame: int(frame.get("InstanceNumber")))
        spacing = None if pixel is None or thickness is None else (thickness, float(pixel[0]), float(pixel[1]))
        return frames, spacing, None, {"orientation": f"unknown: no {missing}"}, []
    at = np.array(positions)
    right, down = axes(directions[0], name)  # type: ignore[arg-type]
    normal = np.cross(right, down)
    places = at @ normal
    order = np.argsort(places, kind="stable")
    frames, at, places = [frames[i] for i in order], at[order], places[order]
    notes: dict[str, str | float] = {}
    messages: list[str] = []
    if len(frames) > 1:
        if not _evenly_spaced(at, places):
            raise _spacing_error(frames, at, places=places, name=name)
        step = (at[-1] - at[0]) / (len(at) - 1)
        if step @ normal < (1 - 1e-4) * np.linalg.norm(step):
            notes["sheared"] = "slices are not stacked along their normal (gantry tilt)"
        recorded = _positive(first, "SpacingBetweenSlices")
        ratio = float(np.median(np.diff(places))) / recorded if recorded else 1.0
        if recorded and ratio > 1.5 and abs(ratio - round(ratio)) < 0.02 * ratio:
            messages.append(
                f"the distance between slices is {ratio * recorded:.2f} mm, but SpacingBetweenSlices is {recorded:.2f} mm: "
                "slices may be missing"
            )
    else:
        step = normal * (thickness or 1.0)
        if thickness is None:
            notes["slice_thickness"] = "unknown: 1 mm assumed"
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = right * pixel[1], down * pixel[0], step, at[0]
    if not np.abs(affine).max() < FARTHEST:
        raise InputError(f"{name}: its positions or pixel sizes are impossible; export it again")
    spacing = (float(np.linalg.norm(step)), float(pixel[0]), float(pixel[1]))
    return frames, spacing, lps_to_ras(affine), notes, messages


def _scale(frame: Frame) -> tuple[float, float] | None:
    """Slope and intercept of a frame as stored, or ``None`` if a lookup table replaces them."""
    slope, intercept = frame.get("RescaleSlope"), frame.get("RescaleIntercept")
    if slope is None and intercept is None:
        if frame.header.get("ModalityLUTSequence"):
            return None
        maps = frame.get("RealWorldValueMappingSequence")
        slope = maps[0].get("RealWorldValueSlope") if maps else None
        intercept = maps[0].get("RealWorldValueIntercept") if maps else None
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _values(frame: Frame, stored: np.ndarray) -> np.ndarray:
    """Convert stored values to the unit of the series: by the rescale attributes, or otherwise the real-world mapping."""
    scale = _scale(frame)
    if scale is None:
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(stored, frame.header).astype(np.float32)
    return (stored.astype(np.float64) * (scale[0] or 1.0) + scale[1]).astype(np.float32)


def _facts(frame: Frame) -> dict[str, str | float]:
    """Attributes of a header: the modality and the numbers listed here, without patient data and free text."""
    facts: dict[str, str | float] = {}
    modality = str(frame.get("Modality") or "")
    if re.fullmatch(r"[A-Z0-9_]{1,16}", modality):
        facts["Modality"] = modality
    for keyword in ("SeriesNumber", "EchoTime", "RepetitionTime", "MagneticFieldStrength", "KVP"):
        value = frame.get(keyword)
        if isinstance(value, int | float) and np.isfinite(value):
            facts[keyword] = float(value)
    return facts


@contextmanager
def _decoding(header: Dataset) -> Iterator[None]:
    """Turn any exception raised while decoding the pixels of a file into an :class:`InputError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise InputError(
            f"{header.filename}: its pixels cannot be decoded ({redacted(error)}); export it again, uncompressed"
        ) from error


def _with_pixels(header: Dataset) -> Dataset:
    """Read the data set of a header again, with its pixels."""
    from pydicom import dcmread

    with _DicomFile(str(header.filename)) as file:
        dataset = dcmread(file, force=True)
    dataset.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    return dataset


def _stored(header: Dataset) -> np.ndarray:
    """Stored values ``(frames, y, x)`` of one file.

    Raises:
        InputError: if they cannot be decoded, or have more than twice the size in the header.
    """
    with _decoding(header):
        n = int(header.get("NumberOfFrames") or 1) * int(header.get("SamplesPerPixel") or 1)
        expected = n * int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated") or 8) // 8
        if header.file_meta.TransferSyntaxUID.is_encapsulated:
            # Some decoders return 16 bits for 8.
            stored = decode_file(str(header.filename), str(header.file_meta.TransferSyntaxUID), 2 * expected)
        else:
            dataset = _with_pixels(header)
            if "PixelData" in dataset and len(dataset.PixelData) >= 2 * max(expected, 1):
                raise ValueError(f"they take {len(dataset.PixelData)} bytes, but its header says {expected}")
            stored = dataset.pixel_array
        return stored.reshape(-1, *stored.shape[-2:])


def _pixels_of_copies(headers: Sequence[Dataset]) -> np.ndarray:
    """Pixels of a file, or of a copy if the file is damaged.

    Raises:
        InputError: if none can be decoded, or two differ.
    """
    copies_read: list[tuple[Dataset, np.ndarray]] = []
    errors: list[InputError] = []
    for header in headers:
        if copies_read and filecmp.cmp(str(copies_read[0][0].filename), str(header.filename), shallow=False):
            continue
        try:
            copies_read.append((header, _stored(header)))
        except InputError as error:
            errors.append(error)
    for copy, pixels in copies_read[1:]:
        if not np.array_equal(pixels, copies_read[0][1]):
            raise _CopiesError(
                f"{copy.filename} and {copies_read[0][0].filename}: have the same SOPInstanceUID but different pixels; remove "
                "the wrong one"
            )
    if not copies_read:
        raise errors[0]
    return copies_read[0][1]


class _CopiesError(InputError):
    """Two copies of one image differ."""


def _mosaic(header: Dataset) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Slices, voxel size and RAS affine of a Siemens mosaic; nibabel reads the geometry from its private header."""
    with _decoding(header):
        from nibabel.nicom.dicomwrappers import wrapper_from_data  # warns that it is experimental

        dataset = _with_pixels(header)
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            pixels = _stored(header)
            dataset.file_meta.TransferSyntaxUID = _uncompressed_syntax(header)
            dataset.BitsAllocated, dataset.PixelData = 8 * pixels.itemsize, pixels.tobytes()
        if dataset.get("RescaleSlope") == 0:
            dataset.RescaleSlope = 1
        wrapper: Any = wrapper_from_data(dataset)
        data, affine = wrapper.get_data(), np.array(wrapper.affine, float)
        if not wrapper.is_mosaic or data.ndim != 3 or not np.abs(affine).max() < FARTHEST:
            raise ValueError("its Siemens header does not describe a mosaic")
        if not np.isfinite(data.astype(np.float32)).all():
            raise ValueError("its values are too large or NaN")
    affine = lps_to_ras(affine[:, [1, 0, 2, 3]])  # nibabel's axes are row, column, slice
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return np.ascontiguousarray(data.transpose(2, 0, 1), np.float32), (z, y, x), affine


def _mosaic_of_copies(headers: Sequence[Dataset]) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """:func:`_mosaic` of a file, or of a copy if the file is damaged.

    Raises:
        InputError: if none can be decoded, or two differ.
    """
    mosaics, errors = [], []
    for header in headers:
        try:
            mosaics.append((header, _mosaic(header)))
        except InputError as error:
            errors.append(error)
    if not mosaics:
        raise errors[0]
    for copy, mosaic in mosaics[1:]:
        if not np.array_equal(mosaic[0], mosaics[0][1][0]):
            raise _CopiesError(
                f"{copy.filename} and {mosaics[0][0].filename}: have the same SOPInstanceUID but different pixels; remove the "
                "wrong one"
            )
    return mosaics[0][1]


def _pixels(
    frames: list[Frame], copies: Mapping[int, Sequence[Dataset]]
) -> tuple[np.ndarray | None, list[int], list[InputError]]:
    """Pixels ``(slices, y, x)`` float32, frames that cannot be decoded, and errors; every file is decoded once, separately."""
    out: np.ndarray | None = None
    bad: list[int] = []
    errors: list[InputError] = []
    by_file: dict[int, list[int]] = {}
    for i, frame in enumerate(frames):
        by_file.setdefault(id(frame.header), []).append(i)
    shape = int(frames[0].get("Rows")), int(frames[0].get("Columns"))
    for file, members in by_file.items():
        header = frames[members[0]].header
        try:
            stored = _pixels_of_copies([header, *copies.get(file, ())])
            with _decoding(header):
                images = [_values(frames[i], stored[frames[i].index]) for i in members]
                if any(image.shape != shape or not np.isfinite(image).all() for image in images):
                    raise ValueError("they do not fit its header, or contain NaN")
        except _CopiesError:
            raise
        except InputError as error:
            bad += members
            errors.append(error)
            continue
        out = np.empty((len(frames), *shape), np.float32) if out is None else out
        out[members] = images
    return out, bad, errors


def read_dicom(paths: Sequence[Path], select: Mapping[str, str | int | float] | None = None) -> ImageScan:
    """Read one stack of slices.

    Slices are sorted by their position along the normal; numbers and names are used only without positions. Values are rescaled
    (CT: HU), or mapped to real-world values if a file has only that mapping. A slope of 0, which is invalid, counts as 1 with a
    warning, as in GDCM and thus ITK, SimpleITK and 3D Slicer (dcm2niix and DCMTK do the same without the intercept). The
    affine follows the positions, so a tilted gantry gives a correct, sheared affine.

    ``{"volume": K}`` selects one of several volumes of a series, counted from 0; see
    :func:`medrecon.formats.dicom.stacks.split` for their order. Copies of one SOP instance count once. A damaged file among good
    ones is skipped with a warning; if a gap remains, the series is refused.

    Args:
        paths: paths of files, or of folders that are searched recursively; links to folders are followed.
        select: attributes by DICOM keyword that select among several series or stacks: ``{"SeriesNumber": 3}``,
            ``{"EchoTime": 4.6}``, ``{"ImageType": "P"}`` (one of its values), ``{"DiffusionBValue": ""}`` (images without it),
            and ``volume``.

    Raises:
        InputError: if there is no image, several series or stacks, missing slices, colour images, or files that cannot be read;
            the message names the file and what to do.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    series, damaged = _scan(paths)
    try:
        with reading(name, "export it again"):
            return _read(paths, name, select=select or {}, series=series, damaged=damaged)
    except InputError as error:
        if damaged and error not in damaged:
            raise type(error)(f"{error} ({len(damaged)} damaged files were skipped, e.g. {damaged[0]})") from error
        raise


def _list_frames(
    series: Mapping[str, Sequence[tuple[Path, Dataset]]], damaged: list[InputError]
) -> tuple[dict[str, list[Frame]], dict[int, list[Dataset]]]:
    """Frames of every series, and copies of files; adds errors of files whose frames cannot be listed to ``damaged``."""
    frames: dict[str, list[Frame]] = {}
    copies: dict[int, list[Dataset]] = {}
    first: dict[tuple[str, ...], Dataset] = {}
    for uid, images in series.items():
        for path, header in images:
            key = identity(header)
            if header.get("SOPInstanceUID") and key in first:
                copies.setdefault(id(first[key]), []).append(header)
                continue
            try:
                found = _frames(header)
                for frame in found:  # raises on values of the wrong kind
                    geometry(frame)
                    _scale(frame)
                    cosines = numbers(frame, "ImageOrientationPatient", 6)
                    if cosines is not None:
                        axes(cosines, path)
            except InputError as error:
                damaged.append(error)
                continue
            except Exception as error:
                damaged.append(InputError(f"{path}: damaged DICOM file ({redacted(error)}); export it again"))
                continue
            first[key] = header
            frames.setdefault(uid, []).extend(found)
    return frames, copies


def _select_frames(
    frames_of: dict[str, list[Frame]], name: str, select: Mapping[str, str | int | float]
) -> list[Frame]:
    """Frames of one series that have the selected attributes."""
    from pydicom.datadict import tag_for_keyword

    for keyword, value in select.items():
        if keyword == "volume":
            continue
        if tag_for_keyword(keyword) is None:
            raise InputError(
                f"{name}: {keyword} is not a DICOM keyword; select by one, e.g. EchoTime=4.6, or by volume=0"
            )
        matches = {u: [f for f in frames if same_value(f.get(keyword), value)] for u, frames in frames_of.items()}
        matches = {u: frames for u, frames in matches.items() if frames}
        if not matches:
            text = f"{name}: no image with {keyword}={'' if value is None else value}"
            if keyword not in ADVISED:  # its values may be patient data
                raise InputError(f"{text}; select by another attribute, e.g. SeriesNumber")
            values = list(dict.fromkeys(show(f.get(keyword)) for frames in frames_of.values() for f in frames))
            raise InputError(f"{text}; there are {', '.join(values[:8])}{', ...' if len(values) > 8 else ''}")
        frames_of = matches
    if len(frames_of) > 1:
        summaries = [
            f"{show(f[0].get('SeriesNumber'))} ({show(f[0].get('Modality'))}, {len(f)} images of {f[0].get('Rows')} x "
            f"{f[0].get('Columns')})"
            for f in frames_of.values()
        ]
        uid, largest = max(frames_of.items(), key=lambda item: len(item[1]))
        numbers_of = [{show(f.get("SeriesNumber")) for f in frames} for frames in frames_of.values()]
        unique = len(set.union(*numbers_of)) == len(frames_of) and all(len(n) == 1 for n in numbers_of)
        number = largest[0].get("SeriesNumber")
        hint = f"SeriesNumber={'' if number is None else number}" if unique else f"SeriesInstanceUID={uid}"
        raise SelectionError(
            f"{name}: holds {len(frames_of)} series: {', '.join(summaries[:6])}{', ...' if len(summaries) > 6 else ''}; "
            f"select one, e.g. {hint}"
        )
    return next(iter(frames_of.values()))


def _read(
    paths: Sequence[Path],
    name: str,
    select: Mapping[str, str | int | float],
    series: Mapping[str, Sequence[tuple[Path, Dataset]]],
    damaged: list[InputError],
) -> ImageScan:
    """See :func:`read_dicom`; adds the errors of skipped files to ``damaged``."""
    frames_of, copies = _list_frames(series, damaged)
    if not frames_of:
        if damaged:
            raise damaged[0]
        raise InputError(f"{name}: holds no DICOM images; give a DICOM file or a folder of them, or a NIfTI file")
    selected = _select_frames(frames_of, name, select)
    derived = _NO_IMAGES.get(str(selected[0].get("Modality")))
    if derived is not None:
        raise InputError(f"{name}: holds {derived}, not an image; give the series of images that it belongs to")
    stacks = split(selected, name)
    if "volume" not in select and len(stacks) > 1:
        raise SelectionError(f"{name}: a series of {describe(stacks)}{advice([stack.frames for stack in stacks])}")
    number = volume_number(select.get("volume", 0), len(stacks), name)
    frames, messages = stacks[number].frames, list(stacks[number].warnings)
    attributes: dict[str, str | float] = {} if len(stacks) == 1 else {"volume": number, "volumes": len(stacks)}
    first = frames[0]
    _check_grey(frames, name)
    if any((_scale(frame) or (1.0, 0.0))[0] == 0 for frame in frames):
        messages.append("RescaleSlope is 0, which is not valid; 1 is used instead")
    # For files given one by one, name the series rather than its first slice.
    path = paths[0] if len(paths) == 1 else paths[0].parent / str(first.header.get("SeriesInstanceUID", "series"))
    if "MOSAIC" in (first.get("ImageType") or []):
        array, spacing, affine = _mosaic_of_copies([first.header, *copies.get(id(first.header), ())])
        headers: tuple[Dataset, ...] = (first.header,)
    else:
        frames, spacing, affine, notes, spacing_warnings = _sort_frames(frames, name)
        array, bad, errors = _pixels(frames, copies)
        if array is None:
            raise errors[0]
        if bad:
            damaged += errors
            frames = [frame for i, frame in enumerate(frames) if i not in set(bad)]
            array = np.delete(array, bad, axis=0)
            frames, spacing, affine, notes, spacing_warnings = _sort_frames(frames, name)
        messages += [*spacing_warnings, *_value_warnings(frames)]
        attributes = notes | attributes
        headers = tuple(_header_of(frame) for frame in frames)
    messages += [f"{error}; skipped" for error in damaged[:10]]
    if len(damaged) > 10:
        messages.append(f"{len(damaged) - 10} more damaged files were skipped")
    attributes |= _facts(frames[0])
    return ImageScan(
        path=path,
        format="DICOM",
        array=array,
        geometry=Geometry(spacing, affine),
        attributes=attributes,
        headers=headers,
        warnings=tuple(messages),
    )


def _check_grey(frames: Sequence[Frame], name: str) -> None:
    """Check that images are grey.

    Raises:
        InputError: for colour images.
    """
    for frame in frames:
        if int(frame.get("SamplesPerPixel") or 1) > 1 or str(frame.get("PhotometricInterpretation")).startswith("PAL"):
            kind = str(frame.get("PhotometricInterpretation"))
            raise InputError(f"{name}: holds colour images{f' ({kind})' if is_code(kind) else ''}; give grey ones")


_CLASSIC = {
    "EchoTime": ("EchoTime", "EffectiveEchoTime"),
    "EchoTrainLength": ("EchoTrainLength", "RFEchoTrainLength"),
    "InversionTime": ("InversionTime", "InversionTimes"),
    "ImagingFrequency": ("ImagingFrequency", "TransmitterFrequency"),
    "ImagedNucleus": ("ImagedNucleus", "ResonantNucleus"),
    "ImageLaterality": ("ImageLaterality", "FrameLaterality"),
} | {
    keyword: (keyword,)
    for keyword in (
        "RepetitionTime", "FlipAngle", "PixelBandwidth", "MagneticFieldStrength", "KVP", "ImagePositionPatient",
        "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    )
}  # fmt: skip
"""Attributes of classic images, and their names in the functional groups of enhanced images."""
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def _scanning_sequence(frame: Frame) -> list[str]:
    """ScanningSequence of an enhanced MR frame, derived from several attributes (PS3.3 C.8.13.4 and C.8.13.5.3)."""
    kinds = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(frame.get("EchoPulseSequence")), [])
    kinds = kinds + (["IR"] if frame.get("InversionRecovery") == "YES" else [])
    return kinds + (["EP"] if frame.get("EchoPlanarPulseSequence") == "YES" else [])


def _header_of(frame: Frame) -> Dataset:
    """Data set of a slice: the data set of its file, or of an equivalent classic image if the file has several frames.

    Functional groups are removed, and their attributes of the frame moved to the top level as in classic images. The number of
    the frame is stored as ``ReferencedFrameNumber``, by which other objects refer to it.
    """
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    header = frame.header
    if not frame.attributes and int(header.get("NumberOfFrames") or 1) == 1:
        return header
    flat = Dataset({element.tag: element for element in header if element.keyword not in (*_GROUPS, "NumberOfFrames")})
    for keyword, names in _CLASSIC.items():
        value = next((frame.attributes[name] for name in names if name in frame.attributes), None)
        several: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if value is None or (len(several) > 1 and keyword == "InversionTime"):
            continue
        if keyword == "EchoTrainLength":
            several = [int(number) for number in several]
        elif keyword not in ("ImagedNucleus", "ImageLaterality"):
            several = [format_number_as_ds(float(number)) for number in several]
        setattr(flat, keyword, several[0] if len(several) == 1 else several)
    kinds = _scanning_sequence(frame)
    if kinds and "ScanningSequence" not in flat:
        flat.ScanningSequence = kinds
    flat.ReferencedFrameNumber = frame.index + 1
    flat.filename = header.filename  # type: ignore[attr-defined]
    return flat


def _value_warnings(frames: Sequence[Frame]) -> list[str]:
    """Warnings about slices that store their values in different ways."""
    out = []
    for keyword in (
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "PhotometricInterpretation",
        "RescaleType",
        "Units",
    ):
        values = sorted({show(frame.get(keyword)) for frame in frames})
        if len(values) > 1:
            out.append(f"slices differ in {keyword} ({', '.join(values)}): some may have wrong values")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        values = sorted({show(frame.get(keyword)) for frame in frames})
        # PET, and MR of some vendors, have a different slope for every slice; CT has one.
        if len(values) > 1 and ("none" in values or str(frames[0].get("Modality")) == "CT"):
            out.append(f"slices differ in {keyword} ({', '.join(values[:6])}): some may have wrong values")
    return out
