"""DICOM images: series of files or frames sorted in space, with their affine.

Classic series (one slice a file) and multi-frame objects, the functional groups of enhanced ones included.
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

from medrecon.data.errors import InputError, SelectionError, advised, redacted
from medrecon.data.geometry import lps_to_ras
from medrecon.data.names import natural
from medrecon.data.scan import Geometry, ImageScan
from medrecon.formats.dicom.decoding import decoded
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
"""Of files that may lack the preamble by which DICOM is known."""
_NO_IMAGES = {
    "RTDOSE": "a radiotherapy dose (RTDOSE)",
    "SEG": "a segmentation (SEG)",
    "PR": "a presentation state (PR)",
    "KO": "a selection of key objects (KO)",
}
"""Objects with pixels that were not measured, by modality."""
_DIRECTORY = "1.2.840.10008.1.3.10"
"""Media Storage Directory: an index of files, not an image."""


def _header(path: Path) -> Dataset | None:
    """A file's data set without pixels, or ``None`` if it is not a DICOM image.

    Raises:
        InputError: if it begins as DICOM and cannot be read.
    """
    from pydicom import dcmread
    from pydicom.uid import UID

    named = path.suffix.lower() in _SUFFIXES[1:]
    marked = False
    try:
        with path.open("rb") as file:
            start = file.read(132)
        marked = start[128:] == b"DICM"
        if not marked and not named and (path.suffix or _is_text(start)):
            return None
        if not start:
            raise ValueError("it is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _DicomFile(str(path)) as file:
                header = dcmread(file, stop_before_pixels=True, force=not marked)
            if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
                return None
            if not marked and not ("SOPClassUID" in header and "Rows" in header):
                raise ValueError("it lacks the mark of DICOM, or its image")
            if not hasattr(header.file_meta, "TransferSyntaxUID"):
                header.file_meta.TransferSyntaxUID = _plain(header)
            for element in header:  # pydicom converts when asked
                str(element.value)
            classes = [UID(str(d.get(k, ""))) for d, k in
                       ((header, "SOPClassUID"), (header.file_meta, "MediaStorageSOPClassUID"))]  # fmt: skip
            image = any("Image Storage" in uid.name for uid in classes) or not classes[0].is_valid
            if "SOPClassUID" not in header or (image and not ("Rows" in header and "Columns" in header)):
                raise ValueError("it ends before its image")
            if ("Rows" in header) != ("Columns" in header):
                raise ValueError("it gives half of the size of its image")
    except Exception as error:  # pydicom raises many kinds on damaged files
        if isinstance(error, OSError) and error.errno:  # of the system, not of the content
            advice = advised(error, "copy it again")
            raise InputError(f"{path}: cannot be read ({os.strerror(error.errno)}); {advice}") from error
        if not marked and not named:
            raise UnknownFileError(f"{path}: is not DICOM, or damaged ({redacted(error)}); export it again") from error
        raise InputError(f"{path}: damaged DICOM file ({redacted(error)}); export it again") from error
    return header


class _DicomFile(BoundedReader):
    """A file for pydicom, which reads it to its end at once only to unpack it (the deflated transfer syntax)."""

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes.

        Raises:
            InputError: if what is read to the end unpacks to far more than it stores.
        """
        data = super().read(size)
        if size is None or size < 0:
            machine, packed, total = zlib.decompressobj(-zlib.MAX_WBITS), data, 0
            while packed and not machine.eof:
                total += len(machine.decompress(packed, 2**20))
                packed = machine.unconsumed_tail
                check_claim(total, len(data), name=self.name, what="its deflated part")
        return data


class UnknownFileError(InputError):
    """A file without suffix that is neither text nor readable."""


def _is_text(start: bytes) -> bool:
    """Whether a file begins as text does: a note beside the images."""
    return bool(start) and all(byte in b"\t\n\r\f" or 32 <= byte < 127 or byte >= 128 for byte in start)


def _plain(header: Dataset) -> UID:
    """The uncompressed transfer syntax in which a file without meta information is written."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _files(paths: Sequence[Path]) -> list[Path]:
    """Files, and those below folders in the order of their names; links to folders are followed, every folder once.

    Raises:
        InputError: for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror or error}); {advised(error, 'copy it again')}"
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
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
            inside += [Path(folder, name) for name in names if not name.startswith(".") and name.upper() != "DICOMDIR"]
        # A pipe or device is no image; a link that leads nowhere stands for one that is missing.
        found += sorted((p for p in inside if p.is_file() or p.is_symlink()), key=natural)
    return found


def _scan(paths: Sequence[Path]) -> tuple[dict[str, list[tuple[Path, Dataset]]], list[InputError]]:
    """The images by SeriesInstanceUID, in the order of their names, and the errors of files that cannot be read."""
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
    # Files without suffix are likely to be images where the images have none.
    if any(not file.suffix for held in series.values() for file, _ in held):
        errors += unknown
    return series, errors


def find_series(path: str | Path | Sequence[Path]) -> dict[str, list[tuple[Path, Dataset]]]:
    """The images below a folder, by SeriesInstanceUID, in the order of their names; what is no DICOM image is left out.

    Raises:
        InputError: for a damaged DICOM file.
    """
    series, errors = _scan([Path(path)] if isinstance(path, str | Path) else path)
    if errors:
        raise errors[0]
    return series


def image_header(path: Path) -> Dataset | None:
    """The header of a DICOM image, ``None`` for a file that is something else.

    Raises:
        UnknownFileError: for a file without suffix that is neither text nor readable.
        InputError: for a damaged DICOM file.
    """
    header = _header(path)
    return header if header is not None and "Rows" in header else None


def identity(header: Dataset) -> tuple[str, ...]:
    """What copies of one SOP instance have in common.

    More than the SOPInstanceUID: some tools for deidentification write one into all files of a series.
    """
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "NumberOfFrames", "Rows", "Columns",
                "ImagePositionPatient", "EchoTime", "ImageType", "TemporalPositionIdentifier", "AcquisitionNumber")  # fmt: skip
    return tuple(str(header.get(keyword)) for keyword in keywords)


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


def _check_size(header: Dataset) -> int:
    """The number of frames of a file whose size agrees with its header.

    Raises:
        InputError: if it announces more than the file can hold.
        ValueError: if it announces no pixels.
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
    own = header.get("PerFrameFunctionalGroupsSequence")
    common = _leaves(shared[0]) if shared else {}
    if own is not None and len(own) != n:
        raise InputError(f"{header.filename}: says that it has {n} frames, but describes {len(own)}; export it again")
    return [Frame(header, i, {**common, **(_leaves(own[i]) if own is not None else {})}) for i in range(n)]


def _positive(frame: Frame, *keywords: str) -> float | None:
    for keyword in keywords:
        try:
            value = float(frame.get(keyword))
        except (TypeError, ValueError):
            continue
        if 0 < value < np.inf:
            return value
    return None


def _even(at: np.ndarray, places: np.ndarray) -> bool:
    """Whether positions in order lie on one evenly divided line.

    They are written with few digits: that line is fitted, for rounding moves it by half a digit, and single steps by more.
    """
    index = np.arange(len(at))
    step, first = np.polynomial.polynomial.polyfit(index, at, 1)[::-1]
    return float(np.abs(at - first - index[:, None] * step).max()) <= max(0.02 * float(np.median(np.diff(places))), 0.1)


def _uneven(frames: list[Frame], at: np.ndarray, places: np.ndarray, name: str) -> InputError:
    """Slices are missing, or of several stacks: the error."""
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
    if 0 < k < len(steps) - 1 and _even(at[: k + 1], places[: k + 1]) and _even(at[k + 1 :], places[k + 1 :]):
        return InputError(
            f"{name}: two stacks, which differ in ImagePositionPatient alone: {k + 1} slices from {places[0]:.1f} to "
            f"{places[k]:.1f} mm along their normal, and {len(places) - k - 1} from {places[k + 1]:.1f} to {places[-1]:.1f} mm; "
            "give the files of one stack"
        )
    return InputError(f"{text}; export the series again, or give the files of one stack")


def _even_parts(frames: list[Frame], at: np.ndarray, places: np.ndarray, keywords: Sequence[str]) -> str | None:
    """How to select one of several stacks that are evenly spaced each, if an attribute distinguishes them."""
    for keyword in keywords:
        groups: dict[str, list[int]] = {}
        for i, frame in enumerate(frames):
            groups.setdefault(show(frame.get(keyword)), []).append(i)
        members = list(groups.values())
        if len(members) > 1 and all(len(m) > 1 and _even(at[m], places[m]) for m in members):
            choice = advice([[frames[i] for i in m] for m in members], numbered=False)
            if "e.g." in choice:
                return choice
    return None


def _placed(
    frames: list[Frame], name: str
) -> tuple[list[Frame], tuple[float, float, float] | None, np.ndarray | None, dict[str, str | float], list[str]]:
    """Frames in their order, voxel size, RAS affine of (x, y, slice), what is to be said of them, and warnings."""
    first = frames[0]
    pixel = numbers(first, "PixelSpacing", 2)
    pixel = pixel if pixel is None or pixel.min() > 0 else None
    thick = _positive(first, "SpacingBetweenSlices", "SliceThickness")
    positions = [numbers(frame, "ImagePositionPatient", 3) for frame in frames]
    directions = [numbers(frame, "ImageOrientationPatient", 6) for frame in frames]
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
        return frames, spacing, None, {"orientation": f"unknown: no {missing}"}, []
    at = np.array(positions)
    right, down = axes(directions[0], name)  # type: ignore[arg-type]
    normal = np.cross(right, down)
    places = at @ normal
    order = np.argsort(places, kind="stable")
    frames, at, places = [frames[i] for i in order], at[order], places[order]
    notes: dict[str, str | float] = {}
    doubts: list[str] = []
    if len(frames) > 1:
        if not _even(at, places):
            raise _uneven(frames, at, places=places, name=name)
        step = (at[-1] - at[0]) / (len(at) - 1)
        if step @ normal < (1 - 1e-4) * np.linalg.norm(step):
            notes["sheared"] = "slices are not stacked along their normal (gantry tilt)"
        given = _positive(first, "SpacingBetweenSlices")
        times = float(np.median(np.diff(places))) / given if given else 1.0
        if given and times > 1.5 and abs(times - round(times)) < 0.02 * times:
            doubts.append(
                f"the slices lie {times * given:.2f} mm apart, but SpacingBetweenSlices is {given:.2f} mm: slices may be missing"
            )
    else:
        step = normal * (thick or 1.0)
        if thick is None:
            notes["slice_thickness"] = "unknown: 1 mm taken"
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = right * pixel[1], down * pixel[0], step, at[0]
    if not np.abs(affine).max() < FARTHEST:
        raise InputError(f"{name}: its positions or pixel sizes are impossible; export it again")
    spacing = (float(np.linalg.norm(step)), float(pixel[0]), float(pixel[1]))
    return frames, spacing, lps_to_ras(affine), notes, doubts


def _scale(frame: Frame) -> tuple[float, float] | None:
    """Slope and intercept of a frame as they are written, or ``None`` where a table takes their place."""
    slope, intercept = frame.get("RescaleSlope"), frame.get("RescaleIntercept")
    if slope is None and intercept is None:
        if frame.header.get("ModalityLUTSequence"):
            return None
        maps = frame.get("RealWorldValueMappingSequence")
        slope = maps[0].get("RealWorldValueSlope") if maps else None
        intercept = maps[0].get("RealWorldValueIntercept") if maps else None
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _values(frame: Frame, stored: np.ndarray) -> np.ndarray:
    """Stored values in the unit of the series: rescaled, else by the real-world map."""
    scale = _scale(frame)
    if scale is None:
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(stored, frame.header).astype(np.float32)
    return (stored.astype(np.float64) * (scale[0] or 1.0) + scale[1]).astype(np.float32)


def _facts(frame: Frame) -> dict[str, str | float]:
    """What of a header is worth knowing: the modality and numbers of this list, nothing of the patient and no free text."""
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
    """What goes wrong while the pixels of a file are used becomes one sentence."""
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


def _whole(header: Dataset) -> Dataset:
    """The data set of a header with its pixels."""
    from pydicom import dcmread

    with _DicomFile(str(header.filename)) as file:
        dataset = dcmread(file, force=True)
    dataset.file_meta.TransferSyntaxUID = header.file_meta.TransferSyntaxUID
    return dataset


def _stored(header: Dataset) -> np.ndarray:
    """``(frames, y, x)`` as stored in one file.

    Raises:
        InputError: if they cannot be decoded, or are more than twice what the header announces.
    """
    with _decoding(header):
        n = int(header.get("NumberOfFrames") or 1) * int(header.get("SamplesPerPixel") or 1)
        expected = n * int(header.Rows) * int(header.Columns) * int(header.get("BitsAllocated") or 8) // 8
        if header.file_meta.TransferSyntaxUID.is_encapsulated:
            # Some decoders give 16 bits for 8.
            stored = decoded(str(header.filename), str(header.file_meta.TransferSyntaxUID), 2 * expected)
        else:
            dataset = _whole(header)
            if "PixelData" in dataset and len(dataset.PixelData) >= 2 * max(expected, 1):
                raise ValueError(f"they take {len(dataset.PixelData)} bytes, but its header says {expected}")
            stored = dataset.pixel_array
        return stored.reshape(-1, *stored.shape[-2:])


def _agreed(headers: Sequence[Dataset]) -> np.ndarray:
    """The pixels of a file, or of a copy of it where it is damaged.

    Raises:
        InputError: if none can be decoded, or two differ.
    """
    found: list[tuple[Dataset, np.ndarray]] = []
    errors: list[InputError] = []
    for header in headers:
        if found and filecmp.cmp(str(found[0][0].filename), str(header.filename), shallow=False):
            continue
        try:
            found.append((header, _stored(header)))
        except InputError as error:
            errors.append(error)
    for other, pixels in found[1:]:
        if not np.array_equal(pixels, found[0][1]):
            raise _CopiesError(
                f"{other.filename} and {found[0][0].filename}: have one SOPInstanceUID and different pixels; remove the wrong one"
            )
    if not found:
        raise errors[0]
    return found[0][1]


class _CopiesError(InputError):
    """Two copies of one image differ."""


def _mosaic(header: Dataset) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Slices, voxel size and RAS affine of a Siemens mosaic, whose geometry lies in a private header that nibabel reads."""
    with _decoding(header):
        from nibabel.nicom.dicomwrappers import wrapper_from_data  # warns that it is experimental

        dataset = _whole(header)
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            pixels = _stored(header)
            dataset.file_meta.TransferSyntaxUID = _plain(header)
            dataset.BitsAllocated, dataset.PixelData = 8 * pixels.itemsize, pixels.tobytes()
        if dataset.get("RescaleSlope") == 0:
            dataset.RescaleSlope = 1
        wrapper: Any = wrapper_from_data(dataset)
        data, affine = wrapper.get_data(), np.array(wrapper.affine, float)
        if not wrapper.is_mosaic or data.ndim != 3 or not np.abs(affine).max() < FARTHEST:
            raise ValueError("its Siemens header does not describe a mosaic")
        if not np.isfinite(data.astype(np.float32)).all():
            raise ValueError("its values are too large, or NaN")
    affine = lps_to_ras(affine[:, [1, 0, 2, 3]])  # nibabel's axes are row, column, slice
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return np.ascontiguousarray(data.transpose(2, 0, 1), np.float32), (z, y, x), affine


def _mosaic_of(headers: Sequence[Dataset]) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """:func:`_mosaic` of a file, or of a copy of it where it is damaged.

    Raises:
        InputError: if none can be decoded, or two differ.
    """
    found, errors = [], []
    for header in headers:
        try:
            found.append((header, _mosaic(header)))
        except InputError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for other, held in found[1:]:
        if not np.array_equal(held[0], found[0][1][0]):
            raise _CopiesError(
                f"{other.filename} and {found[0][0].filename}: have one SOPInstanceUID and different pixels; remove the wrong one"
            )
    return found[0][1]


def _pixels(
    frames: list[Frame], copies: Mapping[int, Sequence[Dataset]]
) -> tuple[np.ndarray | None, list[int], list[InputError]]:
    """``(slices, y, x)`` float32, which frames could not be decoded, and why; every file is decoded once, alone."""
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
            stored = _agreed([header, *copies.get(file, ())])
            with _decoding(header):
                images = [_values(frames[i], stored[frames[i].index]) for i in members]
                if any(image.shape != shape or not np.isfinite(image).all() for image in images):
                    raise ValueError("they do not fit its header, or hold NaN")
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

    Slices are sorted by their position along the normal, never by number or name (which serve only where there is no position).
    Values are rescaled (CT: HU), or mapped to real-world values where a file has that map alone. A slope of 0, which is not
    valid, counts as 1, as in GDCM and so in ITK, SimpleITK and 3D Slicer (dcm2niix and DCMTK do the same, without the
    intercept), with a warning. The affine follows the positions, so that tilted gantries give sheared, true ones.

    Of several volumes in one series ``{"volume": K}`` selects one, counted from 0; see
    :func:`medrecon.formats.dicom.stacks.split` for their order. Copies of one SOP instance count once. A damaged file beside
    good ones is left out, with a warning; if it leaves a gap, the series is refused.

    Args:
        paths: of files, or of folders that are searched to the bottom; links to folders are followed.
        select: attributes by DICOM keyword, for several series or stacks: ``{"SeriesNumber": 3}``, ``{"EchoTime": 4.6}``,
            ``{"ImageType": "P"}`` (one of its values), ``{"DiffusionBValue": ""}`` (images without it), and ``volume``.

    Raises:
        InputError: for no images, several series or stacks, missing slices, colour, and files that cannot be read; naming the
            file and what to do.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    series, damaged = _scan(paths)
    try:
        with reading(name, "export it again"):
            return _read(paths, name, select=select or {}, series=series, damaged=damaged)
    except InputError as error:
        if damaged and error not in damaged:
            raise type(error)(f"{error} ({len(damaged)} damaged files were left out, e.g. {damaged[0]})") from error
        raise


def _framed(
    series: Mapping[str, Sequence[tuple[Path, Dataset]]], damaged: list[InputError]
) -> tuple[dict[str, list[Frame]], dict[int, list[Dataset]]]:
    """The frames of every series, and of files the copies; adds the errors of files whose frames cannot be listed."""
    frames: dict[str, list[Frame]] = {}
    copies: dict[int, list[Dataset]] = {}
    first: dict[tuple[str, ...], Dataset] = {}
    for uid, held in series.items():
        for path, header in held:
            key = identity(header)
            if header.get("SOPInstanceUID") and key in first:
                copies.setdefault(id(first[key]), []).append(header)
                continue
            try:
                found = _frames(header)
                for frame in found:  # values of the wrong kind come to light
                    geometry(frame)
                    _scale(frame)
                    turn = numbers(frame, "ImageOrientationPatient", 6)
                    if turn is not None:
                        axes(turn, path)
            except InputError as error:
                damaged.append(error)
                continue
            except Exception as error:
                damaged.append(InputError(f"{path}: damaged DICOM file ({redacted(error)}); export it again"))
                continue
            first[key] = header
            frames.setdefault(uid, []).extend(found)
    return frames, copies


def _selected(frames_of: dict[str, list[Frame]], name: str, select: Mapping[str, str | int | float]) -> list[Frame]:
    """The frames of one series that have the attributes which are asked for."""
    from pydicom.datadict import tag_for_keyword

    for keyword, wanted in select.items():
        if keyword == "volume":
            continue
        if tag_for_keyword(keyword) is None:
            raise InputError(
                f"{name}: {keyword} is not a DICOM keyword; select by one, e.g. EchoTime=4.6, or by volume=0"
            )
        kept = {u: [f for f in frames if same_value(f.get(keyword), wanted)] for u, frames in frames_of.items()}
        kept = {u: frames for u, frames in kept.items() if frames}
        if not kept:
            text = f"{name}: no image with {keyword}={'' if wanted is None else wanted}"
            if keyword not in ADVISED:  # its values may be of the patient
                raise InputError(f"{text}; select by another attribute, e.g. SeriesNumber")
            held = list(dict.fromkeys(show(f.get(keyword)) for frames in frames_of.values() for f in frames))
            raise InputError(f"{text}; there are {', '.join(held[:8])}{', ...' if len(held) > 8 else ''}")
        frames_of = kept
    if len(frames_of) > 1:
        held = [
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
            f"{name}: holds {len(frames_of)} series: {', '.join(held[:6])}{', ...' if len(held) > 6 else ''}; "
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
    """See :func:`read_dicom`; adds the errors of files that are left out to ``damaged``."""
    frames_of, copies = _framed(series, damaged)
    if not frames_of:
        if damaged:
            raise damaged[0]
        raise InputError(f"{name}: holds no DICOM images; give a DICOM file or a folder of them, or a NIfTI file")
    chosen = _selected(frames_of, name, select)
    other = _NO_IMAGES.get(str(chosen[0].get("Modality")))
    if other is not None:
        raise InputError(f"{name}: holds {other}, not an image; give the series of images that it belongs to")
    stacks = split(chosen, name)
    if "volume" not in select and len(stacks) > 1:
        raise SelectionError(f"{name}: a series of {describe(stacks)}{advice([stack.frames for stack in stacks])}")
    number = volume_number(select.get("volume", 0), len(stacks), name)
    frames, doubts = stacks[number].frames, list(stacks[number].warnings)
    about: dict[str, str | float] = {} if len(stacks) == 1 else {"volume": number, "volumes": len(stacks)}
    first = frames[0]
    _check_grey(frames, name)
    if any((_scale(frame) or (1.0, 0.0))[0] == 0 for frame in frames):
        doubts.append("RescaleSlope is 0, which is not valid; 1 is taken instead")
    # Of files that were given one by one: a name for the series, not for its first slice.
    path = paths[0] if len(paths) == 1 else paths[0].parent / str(first.header.get("SeriesInstanceUID", "series"))
    if "MOSAIC" in (first.get("ImageType") or []):
        array, spacing, affine = _mosaic_of([first.header, *copies.get(id(first.header), ())])
        headers: tuple[Dataset, ...] = (first.header,)
    else:
        frames, spacing, affine, notes, more = _placed(frames, name)
        array, bad, errors = _pixels(frames, copies)
        if array is None:
            raise errors[0]
        if bad:
            damaged += errors
            frames = [frame for i, frame in enumerate(frames) if i not in set(bad)]
            array = np.delete(array, bad, axis=0)
            frames, spacing, affine, notes, more = _placed(frames, name)
        doubts += [*more, *_unlike(frames)]
        about = notes | about
        headers = tuple(_header_of(frame) for frame in frames)
    doubts += [f"{error}; left out" for error in damaged[:10]]
    if len(damaged) > 10:
        doubts.append(f"{len(damaged) - 10} more damaged files were left out")
    about |= _facts(frames[0])
    return ImageScan(
        path=path,
        format="DICOM",
        array=array,
        geometry=Geometry(spacing, affine),
        attributes=about,
        headers=headers,
        warnings=tuple(doubts),
    )


def _check_grey(frames: Sequence[Frame], name: str) -> None:
    """Refuse colour images.

    Raises:
        InputError: for them.
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
"""Attributes of classic images, and what enhanced ones call them in their functional groups."""
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def _scanning_sequence(frame: Frame) -> list[str]:
    """ScanningSequence of an enhanced MR frame, which says the same by several attributes (PS3.3 C.8.13.4 and C.8.13.5.3)."""
    kinds = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(frame.get("EchoPulseSequence")), [])
    kinds = kinds + (["IR"] if frame.get("InversionRecovery") == "YES" else [])
    return kinds + (["EP"] if frame.get("EchoPlanarPulseSequence") == "YES" else [])


def _header_of(frame: Frame) -> Dataset:
    """The data set of a slice: its file's, or of a file with several frames one as a classic image would have it.

    Functional groups are left out, and what they say of the frame stands where classic images have it. The number of the frame
    is ``ReferencedFrameNumber``, by which others refer to it.
    """
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    header = frame.header
    if not frame.own and int(header.get("NumberOfFrames") or 1) == 1:
        return header
    flat = Dataset({element.tag: element for element in header if element.keyword not in (*_GROUPS, "NumberOfFrames")})
    for keyword, names in _CLASSIC.items():
        value = next((frame.own[name] for name in names if name in frame.own), None)
        several: list[Any] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if value is None or (len(several) > 1 and keyword == "InversionTime"):
            continue
        if keyword == "EchoTrainLength":
            several = [int(one) for one in several]
        elif keyword not in ("ImagedNucleus", "ImageLaterality"):
            several = [format_number_as_ds(float(one)) for one in several]
        setattr(flat, keyword, several[0] if len(several) == 1 else several)
    kinds = _scanning_sequence(frame)
    if kinds and "ScanningSequence" not in flat:
        flat.ScanningSequence = kinds
    flat.ReferencedFrameNumber = frame.index + 1
    flat.filename = header.filename  # type: ignore[attr-defined]
    return flat


def _unlike(frames: Sequence[Frame]) -> list[str]:
    """Warnings of slices that store their values in different ways."""
    out = []
    for keyword in (
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
        "PhotometricInterpretation",
        "RescaleType",
        "Units",
    ):
        held = sorted({show(frame.get(keyword)) for frame in frames})
        if len(held) > 1:
            out.append(f"slices differ in {keyword} ({', '.join(held)}): some may have wrong values")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        held = sorted({show(frame.get(keyword)) for frame in frames})
        # PET, and MR of some makers, have slopes of their own for every slice; CT has one.
        if len(held) > 1 and ("none" in held or str(frames[0].get("Modality")) == "CT"):
            out.append(f"slices differ in {keyword} ({', '.join(held[:6])}): some may have wrong values")
    return out
