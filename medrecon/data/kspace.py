"""Raw Cartesian k-space from files: one structure, whatever the format."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from medrecon.data.arrays import matlab_arrays, numpy_array, numpy_arrays
from medrecon.data.attributes import hdf5_attributes, permitted
from medrecon.data.centre import centre_warnings
from medrecon.data.coils import to_kspace
from medrecon.data.contents import about_arrays, about_hdf5, absent, bart_advice, lacking
from medrecon.data.errors import InputError, NotCartesianError
from medrecon.data.files import write_whole
from medrecon.data.hdf5 import open_hdf5, read_dataset, text_of
from medrecon.data.header import fitted, measured_columns, readout_cropped, voxel_size
from medrecon.data.ismrmrd import is_ismrmrd, read_ismrmrd, scrubbed
from medrecon.data.limits import open_bounded, reading
from medrecon.data.masks import achieved_acceleration, acs_block, bounding_box
from medrecon.data.noise import estimate_noise_std, noise_scan_std, scan_fault
from medrecon.data.twix import read_twix

__all__ = [
    "FORMATS",
    "KSpace",
    "check_mask",
    "check_scale",
    "common_mask",
    "load_array",
    "load_kspace",
    "loud_scan",
    "one_sided",
    "read_cfl_array",
    "rounding",
    "sampled",
    "sampling_mask",
    "save_fastmri",
    "undersampled",
    "unlike",
    "usable_scan",
]


@dataclass(frozen=True)
class KSpace:
    """Measured k-space, centred at index ``n // 2`` on every axis.

    Args:
        kspace: ``(slices, coils, y, x)`` complex64, zero where not sampled.
        mask: true where sampled, bool, ``(x,)`` for whole columns or ``(y, x)``.
        path: where it came from.
        format: one of ``FORMATS``' values.
        mask_in_file: whether the mask was stored (else inferred from zeros).
        noise: a noise scan ``(coils, n)`` complex, or ``None``.
        spacing: voxel size ``(z, y, x)`` in mm, or ``None`` where the file does not tell.
        affine: from the indices (x, y, slice) to mm in RAS, ``(4, 4)``, or ``None`` where the file does not tell.
        header: the ISMRMRD header without personal data, or ``None``.
        attributes: of the file those that :mod:`medrecon.data.attributes` lists, and what was decided in reading it.
        warnings: sentences on what may make the image wrong but could not be decided; ``info``, log and sidecar repeat them.
    """

    kspace: np.ndarray
    mask: np.ndarray
    path: Path
    format: str
    mask_in_file: bool = False
    noise: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    affine: np.ndarray | None = None
    header: bytes | None = None
    attributes: dict[str, str | float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def gaps(self) -> int:
        """Positions inside the bounding box of what was measured that were not; 0 for zero-padded full k-space."""
        measured = np.broadcast_to(self.mask, self.kspace.shape[-2:]) & self.kspace.any(axis=(0, 1))
        return int((bounding_box(measured) & ~measured).sum())

    @property
    def stem(self) -> str:
        """Name of outputs."""
        return self.path.stem

    def summary(self) -> dict:
        """What ``medrecon info`` shows: plain numbers and strings."""
        slices, coils, y, x = self.kspace.shape
        rows, columns = acs_block(np.broadcast_to(self.mask, (y, x)))
        return {
            "file": str(self.path),
            "format": self.format,
            "slices": slices,
            "coils": coils,
            "matrix": [y, x],
            "mask": "stored" if self.mask_in_file else "inferred from zeros",
            "gaps": self.gaps,
            "sampling": "columns" if self.mask.ndim == 1 else "points",
            "acceleration": round(achieved_acceleration(self.mask), 3),
            "acs": [rows.stop - rows.start, columns.stop - columns.start],
            "spacing_mm": None if self.spacing is None else [round(s, 4) for s in self.spacing],
            "orientation": "unknown" if self.affine is None else "known",
            "noise_scan": self.noise is not None,
            "attributes": self.attributes,
            "warnings": list(self.warnings),
        }


def sampled(kspace: np.ndarray) -> np.ndarray:
    """The mask told by zeros of ``(..., y, x)``: ``(x,)`` where all rows are alike, else ``(y, x)``."""
    return _reduced((kspace != 0).any(axis=tuple(range(kspace.ndim - 2))))


def _reduced(mask: np.ndarray) -> np.ndarray:
    """``(x,)`` where all rows of ``(y, x)`` are alike."""
    return mask[0] if mask.ndim == 2 and (mask == mask[0]).all() else mask


def check_mask(mask: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """Bring a mask to bool ``(x,)`` or ``(y, x)``; ``(y, 1)`` means whole rows, other axes of length 1 mean nothing.

    Masks of slices and coils in front, ``(..., y, x)``, must be alike.

    Raises:
        InputError: if it is not of true and false (or 1 and 0), does not fit ``shape`` ``(y, x)`` or samples nothing.
    """
    flat = np.asarray(mask)
    if flat.dtype.kind not in "biufc":
        raise InputError(f"{name}: the mask is {flat.dtype}, not numbers; give 1 where k-space was measured, else 0")
    if not np.isin(flat, (0, 1)).all():
        odd = flat[~np.isin(flat, (0, 1))].flat[0]
        raise InputError(f"{name}: the mask holds {odd:.4g}; give 1 where k-space was measured, else 0")
    while flat.ndim > 3 and flat.shape[-1] == 1:  # fastMRI's (1, 1, x, 1)
        flat = flat[..., 0]
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim > 2 and flat.shape[-2:] in (shape, (1, shape[1])):
        if (flat != flat[(0,) * (flat.ndim - 2)]).any():
            raise InputError(
                f"{name}: the mask {np.shape(mask)} differs between slices or coils; reconstruct those with one mask together, "
                f"and give that mask as ({shape[1]},) or {shape}"
            )
        flat = flat[(0,) * (flat.ndim - 2)]
    if flat.shape == (shape[0], 1):  # whole rows
        flat = np.broadcast_to(flat, shape)
    flat = flat[0] if flat.shape == (1, shape[1]) else flat
    if flat.shape not in (shape[1:], shape):
        raise InputError(
            f"{name}: the mask has shape {np.shape(mask)}, but k-space is {shape[0]} x {shape[1]}; "
            f"give ({shape[1]},) for columns or {shape} for points"
        )
    flat = flat != 0
    if not flat.any():
        raise InputError(f"{name}: the mask is 0 everywhere; give one that is 1 where k-space was measured")
    return _reduced(flat)


def _whole_numbers(kspace: np.ndarray) -> bool:
    """Whether k-space was rounded to whole numbers."""
    return all(np.abs(part).max() < 2**22 and (part == np.rint(part)).all() for part in (kspace.real, kspace.imag))


def _quiet(claimed: np.ndarray, held: np.ndarray, kspace: np.ndarray) -> bool:
    """Whether samples ``(y, x)`` that a mask has and whole-number k-space has not were rounded to 0.

    Either as many others were rounded to 1, or of those as far out as most of the zeros nearly all: noise is weaker there.
    """
    if not _whole_numbers(kspace):
        return False
    size = np.abs(kspace).reshape(-1, *claimed.shape).max(axis=0)
    zero, one = claimed & ~held, claimed & held & (size < 1.5)
    if one.sum() >= zero.sum():
        return True
    radius = np.hypot(*np.meshgrid(*[(np.arange(n) - n // 2) / n for n in claimed.shape], indexing="ij"))
    far = claimed & held & (radius >= np.median(radius[zero]))
    return bool(far.any() and (one & far).sum() >= 0.9 * far.sum())


def _absent(claimed: np.ndarray, held: np.ndarray, kspace: np.ndarray) -> int:
    """How many samples of a mask ``(y, x)`` k-space does not hold; 0 where these are but a few scattered zeros.

    Scattered are at most 1 % of the samples that fill no line of the mask, and weak samples of whole numbers, see :func:`_quiet`.
    """
    absent = claimed & ~held
    n = int(absent.sum())
    if not n:
        return 0
    for axis in (0, 1):
        line = claimed.sum(axis=axis)
        if ((absent.sum(axis=axis) == line) & (line >= 8)).any():
            return n
    if n <= 0.01 * claimed.sum():
        return 0
    return 0 if _quiet(claimed, held, kspace) else n


def _or_floats(kspace: np.ndarray) -> str:
    """More advice on zeros in whole-number data, which may be weak samples."""
    return ", or, if weak samples were rounded to 0, export floating-point data" if _whole_numbers(kspace) else ""


def unlike(kspace: np.ndarray, mask: np.ndarray) -> str | None:
    """Which slice or coil of ``(slices, coils, y, x)`` lacks samples of the mask that others hold, and what to do; or ``None``.

    Its zeros would count as data. Empty slices and dead coils have no image, so nothing is wrong with theirs.
    """
    claimed = np.broadcast_to(mask, kspace.shape[-2:])
    for number, one in enumerate(kspace):
        held = one != 0
        if not held.any() or (held | ~claimed).all():
            continue
        union = held.any(axis=0)
        n = _absent(claimed, union, one)
        if n:
            return (
                f"slice {number} lacks {n} of the {claimed.sum()} samples that other slices hold; reconstruct slices that were "
                f"sampled alike by themselves (medrecon recon --slices A:B){_or_floats(one)}"
            )
        for coil, own in enumerate(held):
            n = _absent(claimed & union, own, one[coil]) if own.any() else 0
            if n:
                return (
                    f"coil {coil} of slice {number} lacks {n} of the {claimed.sum()} samples that other coils hold; export the "
                    f"data without that coil{_or_floats(one)}"
                )
    return None


def undersampled(kspace: np.ndarray, mask: np.ndarray) -> bool:
    """Whether ``(slices, coils, y, x)`` has gaps, in all slices or in some; zero padding and a few scattered zeros are none."""
    held = np.asarray(mask & kspace.any(axis=(0, 1)))
    return bool(_absent(bounding_box(held), held, kspace)) or unlike(kspace, held) is not None


def one_sided(kspace: np.ndarray, mask: np.ndarray, name: str) -> tuple[str, ...]:
    """A warning where k-space that shall be a reference was sampled farther on one side of its centre than on the other.

    Fully sampled and zero-padded k-space reaches equally far on both sides, but for one sample. 5 % are allowed, since centres of
    real scans are off by a few lines.
    """
    held = np.asarray(np.broadcast_to(mask, kspace.shape[-2:]) & kspace.any(axis=(0, 1)))
    out = []
    for axis, what in ((1, "rows"), (0, "columns")):
        at = np.flatnonzero(held.any(axis=axis))
        if not len(at):
            continue
        middle = held.shape[1 - axis] // 2
        before, after = sorted((max(middle - int(at[0]), 0), max(int(at[-1]) - middle, 0)))
        if before + 1 < 0.95 * after:
            sides = f"{before} {what} on one side of the centre, {after} on the other"
            out.append(
                f"{name}: is partial Fourier or a partial echo ({sides}), so its image is blurred and not a full "
                "reference; take k-space that was sampled on both sides"
            )
    return tuple(out)


def common_mask(kspace: np.ndarray, mask: np.ndarray, name: str = "k-space") -> np.ndarray:
    """The mask of some of the slices: their own where they were sampled alike, but otherwise than the rest of the file.

    Raises:
        InputError: if they were not.
    """
    if unlike(kspace, mask) is None:
        return mask
    mask = _reduced(mask & np.asarray(kspace.any(axis=(0, 1))))
    differs = unlike(kspace, mask)
    if differs:
        raise InputError(f"{name}: {differs}")
    return mask


def loud_scan(path: Path, scan: np.ndarray, outermost: float) -> tuple[str, ...]:
    """A warning where a noise scan is much louder than the outermost k-space, whose estimate is at least the noise."""
    std = noise_scan_std(scan)
    if std <= 3 * outermost:
        return ()
    return (
        f"{path}: the noise scan has a standard deviation of {std:.3g}, the outermost k-space of {outermost:.3g}; if they differ "
        f"in scale, give the noise level of k-space, {outermost:.3g} (medrecon recon --noise-std)",
    )


def sampling_mask(
    kspace: np.ndarray, mask: np.ndarray | None = None, name: str = "k-space", of: str | None = None, alike: bool = True
) -> np.ndarray:
    """Where k-space counts as measured, ``(x,)`` or ``(y, x)``: a mask that is checked against it, or what is not zero.

    A mask may leave out what was measured. It may cover zero padding, which does not count. Where it claims more, zeros would
    count as data.

    Args:
        kspace: ``(slices, coils, y, x)``.
        mask: of the sampling, or ``None``.
        name: of the k-space.
        of: name of the mask; default: that of the k-space.
        alike: whether all slices and coils must hold the same samples.

    Raises:
        InputError: for a mask that :func:`check_mask` refuses or that claims samples which are zero, and for slices or coils that
            were not sampled alike.
    """
    if mask is None:
        checked = sampled(kspace)
    else:
        of = of or name
        held = np.asarray(kspace.any(axis=(0, 1)))
        checked = check_mask(mask, kspace.shape[2:], of)
        if not (held & checked).any():
            raise InputError(f"{of}: the mask selects only zeros of {name}; give the mask it was sampled with")
        n = _absent(bounding_box(held) & checked, held, kspace)
        if n:
            raise InputError(
                f"{of}: the mask has {n} samples that are zero in {name}; give the mask it was sampled with{_or_floats(kspace)}"
            )
        checked = _reduced(held & checked)
    differs = unlike(kspace, checked) if alike else None
    if differs:
        raise InputError(f"{name}: {differs}")
    return checked


def usable_scan(scan: object, coils: int, alive: np.ndarray, path: Path) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """A noise scan ``(coils, n)`` found in a file, or ``None`` and the warning that says why it cannot be used."""
    if scan is None:
        return None, ()
    array = np.asarray(scan)
    array = array[None] if coils == 1 and array.ndim == 1 else array
    fault = scan_fault(array, coils, alive)
    if fault is None:
        return array, ()
    return None, (
        f"{path}: the noise scan {fault}; it is not used, and the noise is estimated from the outermost k-space",
    )


SCALES = 1e-30, 1e35
"""The largest sample must lie between these, so that samples a million times smaller, and images, fit single precision."""


def check_scale(kspace: np.ndarray, name: str) -> None:
    """Refuse k-space whose numbers are too large or too small for images in single precision.

    Raises:
        InputError: naming the data.
    """
    size = max(float(np.abs(part).max(initial=0)) for part in (np.real(kspace), np.imag(kspace)))
    if 0 < size < float("inf") and not SCALES[0] <= size <= SCALES[1]:
        raise InputError(
            f"{name}: the largest sample of k-space is {size:.1e}, which images in single precision cannot hold "
            f"(at least {SCALES[0]:g} and at most {SCALES[1]:g} can be); scale the data to a maximum of about 1"
        )


def _sides(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size ``(z, y, x)``."""
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x


def _real_advice(array: np.ndarray) -> str:
    """What to do with real numbers in place of k-space."""
    if array.ndim > 2 and array.shape[-1] == 2 and array.dtype.kind == "f":
        return "if its last axis holds real and imaginary parts, store the complex numbers; an image is not raw data"
    return "an image or a sinogram is not raw data; give the complex samples"


def _finish(path: Path, kspace: np.ndarray, kind: str, mask: np.ndarray | None = None, **rest: object) -> KSpace:
    """Check what every format must satisfy."""
    if not np.iscomplexobj(kspace):
        raise InputError(f"{path}: k-space is {kspace.dtype} {kspace.shape}, not complex; {_real_advice(kspace)}")
    if kspace.ndim not in (2, 3, 4) or 0 in kspace.shape:
        raise InputError(
            f"{path}: k-space has shape {kspace.shape}; store (slices, coils, y, x), of several contrasts or frames each alone"
        )
    while kspace.ndim < 4:
        kspace = kspace[None]
    check_scale(kspace, str(path))
    kspace = np.ascontiguousarray(kspace, dtype=np.complex64)
    if not np.isfinite(kspace.view(np.float32)).all():
        raise InputError(f"{path}: k-space holds NaN or Inf; export the data again")
    if not kspace.any():
        raise InputError(f"{path}: k-space is all zeros; export the data again")
    warnings = tuple(rest.pop("warnings", ()))  # type: ignore[call-overload]
    kspace, more = _without_padding(path, kspace, rest.get("attributes") or {})  # type: ignore[arg-type]
    warnings += more
    if kind == "fastMRI HDF5" and "padding_left" not in (rest.get("attributes") or {}):  # type: ignore[operator]
        kspace = _without_rounding(kspace, measured_columns(rest.get("header"), kspace.shape[-1]))  # type: ignore[arg-type]
    stored = mask is not None
    if mask is None:
        mask = sampled(kspace)
    else:
        mask, more = _stored_mask(path, kspace, mask)
        warnings += more
        kspace = kspace * mask
    warnings += rounding(path, kspace)
    differs = unlike(kspace, mask)
    if differs:
        warnings += (f"{path}: {differs}",)
    scan, more = usable_scan(rest.pop("noise", None), kspace.shape[1], kspace.any(axis=(0, 2, 3)), path)
    warnings += more
    if scan is not None:
        warnings += loud_scan(path, scan, estimate_noise_std(kspace, mask))
    return KSpace(kspace, mask, path, kind, stored, scan, warnings=warnings, **rest)  # type: ignore[arg-type]


def _without_padding(
    path: Path, kspace: np.ndarray, attributes: Mapping[str, str | float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """K-space whose padding is zero: fastMRI's columns before ``padding_left`` and from ``padding_right`` on.

    What these hold may be rounding. Where they hold data, or do not fit the matrix, the attributes are of other k-space.
    """
    if not {"padding_left", "padding_right"} <= set(attributes):
        return kspace, ()
    left, right = (attributes[f"padding_{side}"] for side in ("left", "right"))
    columns = np.arange(kspace.shape[-1])
    ignored = (f"{path}: padding_left {left} and padding_right {right} do not fit its k-space; they are not used",)
    if isinstance(left, str) or isinstance(right, str) or not 0 <= left < right <= len(columns):
        return kspace, ignored
    inside = (columns >= left) & (columns < right)
    return (kspace * inside, ()) if _negligible(kspace, inside) else (kspace, ignored)


def _negligible(kspace: np.ndarray, inside: np.ndarray) -> bool:
    """Whether what columns hold outside is rounding beside what they hold inside."""
    held, padding = (np.abs(kspace[..., part]) for part in (inside, ~inside))
    return bool(held.any() and padding.max(initial=0) <= 1e-3 * np.median(held[held > 0]))


def _without_rounding(kspace: np.ndarray, measured: tuple[int, int] | None) -> np.ndarray:
    """K-space with zeros outside the columns ``first, last + 1`` that were measured, where it holds rounding there."""
    if measured is None:
        return kspace
    columns = np.arange(kspace.shape[-1])
    inside = (columns >= measured[0]) & (columns < measured[1])
    return kspace * inside if _negligible(kspace, inside) else kspace


def rounding(path: Path, kspace: np.ndarray) -> tuple[str, ...]:
    """A warning where samples are so weak that they are rounding of what was zero, as a Fourier transform and back leaves it."""
    size = np.abs(kspace).max(axis=(0, 1))
    weak = (size > 0) & (size < 3e-8 * size.max())
    n = int(weak.sum())
    if n <= 0.01 * (size > 0).sum():
        return ()
    return (
        f"{path}: {n} of {int((size > 0).sum())} samples are below 3e-8 of the largest, which is rounding; set what was not "
        "measured to exactly 0, or give the mask",
    )


def _stored_mask(path: Path, kspace: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The samples of a file's own mask that its k-space holds, and a warning where it claims more than these and padding."""
    held = np.asarray(kspace.any(axis=(0, 1)))
    checked = check_mask(mask, kspace.shape[2:], str(path))
    if not (held & checked).any():
        raise InputError(f"{path}: its mask selects only zeros; correct the mask, or leave it out of the file")
    n = _absent(bounding_box(held) & checked, held, kspace)
    warning = f"{path}: {n} samples that are marked as measured are zero; they count as not measured"
    return _reduced(held & checked), (warning,) if n else ()


def _read_hdf5(path: Path, select: Mapping[str, int | str] | None) -> KSpace:
    """FastMRI's layout, or ISMRMRD's."""
    with open_hdf5(path) as file:
        acquisitions = is_ismrmrd(file)
    if not acquisitions:
        if select:
            raise InputError(f"{path}: nothing can be selected in this format; leave the selection (--select) out")
        return _read_fastmri(path)
    held = read_ismrmrd(path, select)
    return _finish(path, held.pop("kspace"), "ISMRMRD", held.pop("mask"), **held)


def _read_fastmri(path: Path) -> KSpace:
    with open_hdf5(path) as file:
        if "kspace" not in file or not isinstance(file["kspace"], h5py.Dataset):
            raise lacking(path, "kspace", about_hdf5(file), file)
        data: dict[str, Any] = {
            key: read_dataset(file, key) for key in ("kspace", "mask", "noise", "affine") if key in file
        }
        header, lost = _optional_header(file)
        attributes = hdf5_attributes(file)
        odd = any(key in file.attrs and key not in attributes for key in ("padding_left", "padding_right"))
    kspace = data["kspace"]
    # Known by its names as well: real numbers alone may be anything.
    if (
        re.match(r"e\d+s\d+_P\d+", path.name)
        and kspace.dtype.kind == "f"
        and kspace.ndim == 4
        and kspace.shape[-1] % 2 == 0
    ):
        return _finish(path, _calgary_campinas(kspace), "Calgary-Campinas HDF5", spacing=(1.0, 1.0, 1.0))
    if kspace.ndim == 3:  # single coil: (slices, y, x)
        kspace = kspace[:, None]
    affine = data.get("affine")
    if affine is not None:
        affine = np.asarray(affine)
        affine = affine.astype(float) if affine.dtype.kind in "iuf" else np.empty(0)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or min(_sides(affine)) == 0:
            raise InputError(
                f"{path}: 'affine' is not a 4 x 4 matrix of numbers that can be inverted; correct it, or leave it out of the file"
            )
    return _by_header(
        _finish(
            path,
            kspace,
            "fastMRI HDF5",
            data.get("mask"),
            noise=data.get("noise"),
            affine=affine,
            header=header,
            attributes=attributes,
            warnings=tuple(f"{path}: {text}" for text in (*([_ODD_PADDING] if odd else []), *lost)),
        )
    )


_ODD_PADDING = "padding_left and padding_right are not two numbers; they are not used"


def _optional_header(file: h5py.File) -> tuple[bytes | None, tuple[str, ...]]:
    """The header of a file in fastMRI's layout without personal data, or ``None`` and what is to be said of it.

    Raises:
        InputError: if its text is damaged.
    """
    if "ismrmrd_header" not in file:
        return None, ()
    item, header = file["ismrmrd_header"], None
    if isinstance(item, h5py.Dataset) and item.shape is not None and (item.size == 1 or item.dtype == np.uint8):
        header = text_of(read_dataset(file, "ismrmrd_header"))
    with suppress(ElementTree.ParseError, ValueError, LookupError):  # also of an unknown encoding
        if header is not None:
            return scrubbed(header), ()
    return None, ("its ismrmrd_header cannot be read, so it is not used; the voxel size may not be known",)


def _by_header(data: KSpace) -> KSpace:
    """With voxel size and recon field of view (of the readout) by the header, and a warning where it does not fit."""
    shape, affine = data.kspace.shape[2:], data.affine
    spacing, misfit = voxel_size(data.header, shape) if affine is None else (_sides(affine), "")
    kspace, mask, said = readout_cropped(data.kspace, data.mask, data.header, affine is not None)
    return replace(
        data,
        kspace=kspace,
        mask=mask,
        spacing=spacing,
        attributes=data.attributes | said,
        warnings=data.warnings + ((f"{data.path}: {misfit}",) if misfit else ()),
    )


def _calgary_campinas(pairs: np.ndarray) -> np.ndarray:
    """Centred k-space ``(slices, coils, y, x)`` of the Calgary-Campinas multichannel layout.

    ``pairs`` is ``(readout, y, z, 2 coils)``, real and imaginary parts in turn, an image along the readout already; the plain
    inverse FFT of y and z gives images of 1 mm that need no shift (Souza et al., NeuroImage 170, 2018; Beauferris et al., Front.
    Neurosci. 16, 2022). Whether the centre of k-space lies in the corner or in the middle is seen from the data.
    """
    kspace = np.moveaxis(pairs[..., ::2] + 1j * pairs[..., 1::2], -1, 1).astype(np.complex64)
    y, x = np.unravel_index(np.argmax((np.abs(kspace) ** 2).sum(axis=(0, 1))), kspace.shape[-2:])
    ny, nx = kspace.shape[-2:]
    if abs(y - ny // 2) <= ny // 4 and abs(x - nx // 2) <= nx // 4:
        kspace = np.fft.ifftshift(kspace, (-2, -1))
    image = np.fft.ifft2(kspace, norm="ortho")
    centred = to_kspace(image).astype(np.complex64)
    # What was not measured is zero before and must be after: the way through the image leaves rounding there.
    measured = np.fft.fftshift((kspace != 0).any(axis=(0, 1)))
    return centred * measured


_BART_AXES = ("x", "y", "z", "coils", "maps", "TE", "coefficients", "coefficients 2", "iterations", "cardiac phases",
              "time", "time 2", "levels", "slices", "averages", "batch")  # fmt: skip


def _beside(path: Path, suffix: str) -> Path:
    """The file of a BART pair with a suffix, in lower or upper case."""
    upper = path.with_suffix(suffix.upper())
    return upper if upper.is_file() and not path.with_suffix(suffix).is_file() else path.with_suffix(suffix)


def read_cfl_array(path: Path) -> np.ndarray:
    """The array of a BART pair, with BART's axes in reverse (the first axis varies fastest in the file)."""
    header, samples = _beside(path, ".hdr"), _beside(path, ".cfl")
    for file in (header, samples):
        if not file.is_file():
            raise InputError(f"{file}: {absent(file)}; BART data need both {header.name} and {samples.name}")
    dims = _cfl_dims(header)
    n, size = math.prod(dims), samples.stat().st_size
    if not n:
        raise InputError(f"{header}: an axis of length 0 ({' x '.join(map(str, dims))}); export the pair again")
    if size != 8 * n:
        raise InputError(f"{samples}: {size} bytes, but the header says {8 * n} ({n} samples); copy the pair again")
    return np.fromfile(samples, dtype="<c8", count=n).astype(np.complex64, copy=False).reshape(dims[::-1])


def _cfl_dims(header: Path) -> list[int]:
    """The sizes of a BART header, without the ones at their end."""
    with open_bounded(header) as file:
        content = file.read(2**16)
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{header}: not a text file; is this a BART header?") from error
    sizes = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if not re.fullmatch(r"\s*[0-9]{1,18}(\s+[0-9]{1,18})*\s*", sizes):
        raise InputError(f"{header}: no line of dimensions; is this a BART header?")
    dims = [int(n) for n in sizes.split()]
    while len(dims) > 1 and dims[-1] == 1:
        dims.pop()
    if len(dims) > 16:
        raise InputError(f"{header}: {len(dims)} axes, but BART has 16; is this a BART header?")
    return dims


def _read_cfl_slices(path: Path, key: str) -> np.ndarray:
    """BART's x, y, coils and slices as ``(slices, coils, y, x)``; ``key`` says what they are of."""
    array = read_cfl_array(path)
    dims = list(array.shape[::-1]) + [1] * (16 - array.ndim)
    shown = [
        f"{name} ({n})"
        for k, (name, n) in enumerate(zip(_BART_AXES, dims, strict=False))
        if n > 1 and k not in (0, 1, 3, 13)
    ]
    if shown:
        sampled = array.reshape(-1, *dims[3::-1]).any(axis=(0, 1))
        raise InputError(f"{path}: has BART axes {', '.join(shown)}; {bart_advice(sampled, dims, key)}")
    return array.reshape(dims[13], dims[3], dims[1], dims[0])


def _read_cfl(path: Path) -> KSpace:
    return _finish(path, _read_cfl_slices(path, "kspace"), "BART cfl")


def _numpy_array(path: Path, key: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The array of an npy file, or ``key`` of an npz file, by what the file is; and of an npz file its mask and noise scan."""
    with open_bounded(path) as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        return numpy_array(path), {}
    held, names = numpy_arrays(path, (key, "mask", "noise"))
    if key not in held:
        raise lacking(path, key, about_arrays(_numbers_of(numpy_arrays, path, names), names))
    if key == "kspace" and "trajectory" in names:
        raise NotCartesianError(
            f"{path}: holds a trajectory, so its k-space is not Cartesian; load it with LoadNonCartesiand and reconstruct it "
            "with medrecon.operators.nufft_sense"
        )
    return held[key], held


def _numbers_of(read: Callable[..., tuple[dict[str, np.ndarray], list[str]]], path: Path, names: list[str]) -> dict:
    """The first arrays of a file that hold numbers, to say what they are."""
    held: dict[str, np.ndarray] = {}
    for name in names[:8]:
        with suppress(InputError):
            held |= read(path, (name,))[0]
    return held


def _read_numpy(path: Path) -> KSpace:
    kspace, held = _numpy_array(path, "kspace")
    return _finish(path, kspace, "NumPy", held.get("mask"), noise=held.get("noise"))


def _read_matlab(path: Path) -> KSpace:
    held, names = matlab_arrays(path, ("kspace", "mask", "noise"))
    if "kspace" not in held:
        raise lacking(path, "kspace", about_arrays(_numbers_of(matlab_arrays, path, names), names))
    kspace = held["kspace"]
    if kspace.ndim > 4:
        raise InputError(
            f"{path}: 'kspace' has size {kspace.shape}; store (y, x, coils, slices), one contrast or frame"
        )
    kspace = kspace.reshape(*kspace.shape, *[1] * (4 - kspace.ndim)).transpose(3, 2, 0, 1)
    mask, noise = held.get("mask"), held.get("noise")
    if mask is not None and 1 in mask.shape:
        mask = mask.ravel()
    elif mask is not None and mask.ndim > 2:
        mask = mask.transpose(*range(mask.ndim)[:1:-1], 0, 1)
    if noise is not None and kspace.shape[1] == 1:
        noise = noise.reshape(1, -1)
    return _finish(path, kspace, "MATLAB", mask, noise=noise)


def _read_twix(path: Path, select: Mapping[str, int | str] | None) -> KSpace:
    held = read_twix(path, select)
    return _finish(path, held.pop("kspace"), "Siemens twix", held.pop("mask"), **held)


FORMATS: dict[str, tuple[Callable[..., KSpace], str]] = {
    ".h5": (_read_hdf5, "fastMRI HDF5 or ISMRMRD"),
    ".hdf5": (_read_hdf5, "fastMRI HDF5 or ISMRMRD"),
    ".mrd": (_read_hdf5, "ISMRMRD"),
    ".cfl": (_read_cfl, "BART cfl"),
    ".hdr": (_read_cfl, "BART cfl"),
    ".npz": (_read_numpy, "NumPy"),
    ".npy": (_read_numpy, "NumPy"),
    ".mat": (_read_matlab, "MATLAB"),
    ".dat": (_read_twix, "Siemens twix"),
}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.name and path.suffix.lower() not in FORMATS and path.with_name(path.name + ".cfl").is_file():
        path = path.with_name(path.name + ".cfl")
    if path.is_dir():
        raise InputError(f"{path}: a folder; give one file of k-space")
    if not path.is_file():
        raise InputError(f"{path}: {absent(path)}")
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: unknown format {path.suffix or '(no suffix)'!r}; known are {', '.join(FORMATS)}")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty; copy or export it again")
    return path


def load_kspace(path: str | Path, select: Mapping[str, int | str] | None = None) -> KSpace:
    """Read Cartesian k-space of any known format (by suffix).

    Args:
        path: of the file.
        select: of ISMRMRD and twix files, which contrast, phase, repetition or set; of ISMRMRD which dataset.

    ISMRMRD: see :func:`medrecon.data.ismrmrd.read_ismrmrd`. Siemens: see :func:`medrecon.data.twix.read_twix`. fastMRI HDF5:
    dataset ``kspace`` ``(slices, coils, y, x)`` or ``(slices, y, x)``, optional ``mask``, ``noise``, ``ismrmrd_header``, (ours)
    ``affine``. Calgary-Campinas' hybrid layout, known by its files' names. NumPy: ``(coils, y, x)``,
    ``(slices, coils, y, x)`` or ``(y, x)``, in an npz under ``kspace``. BART: x, y, coils and slices (axes 0, 1, 3 and 13).
    MATLAB (to version 7.3): ``kspace`` ``(y, x, coils, slices)``, optional ``mask`` and ``noise`` ``(coils, n)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = _existing(path)
    read = FORMATS[path.suffix.lower()][0]
    if select and read not in (_read_hdf5, _read_twix):
        raise InputError(f"{path}: nothing can be selected in this format; leave the selection (--select) out")
    with reading(path):
        data = read(path, select) if read in (_read_hdf5, _read_twix) else read(path)
        return replace(data, warnings=data.warnings + centre_warnings(data.kspace, str(path), data.format))


def load_array(path: str | Path, key: str) -> np.ndarray:
    """Read one array, e.g. coil maps or a mask: a dataset ``key`` of HDF5 or npz, a whole npy, or a BART pair.

    MATLAB's (y, x, coils, slices) and BART's x, y, coils and slices become ``(coils, y, x)`` or ``(slices, coils, y, x)``.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = _existing(path)
    with reading(path):
        array = np.asarray(_array(path, key))
        if array.dtype.kind not in "biufc" or 0 in array.shape:
            raise InputError(f"{path}: '{key}' is {array.dtype} {array.shape}, not numbers; store an array of numbers")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise InputError(f"{path}: '{key}' holds NaN or Inf; export it again")
    return array


def _array(path: Path, key: str) -> np.ndarray:
    """See :func:`load_array`."""
    if path.suffix.lower() in (".cfl", ".hdr"):
        array = _read_cfl_slices(path, key)
        return array[0] if len(array) == 1 else array
    if path.suffix.lower() in (".npz", ".npy"):
        return _numpy_array(path, key)[0]
    if path.suffix.lower() == ".mat":
        held, names = matlab_arrays(path, (key,))
        if key not in held:
            raise lacking(path, key, about_arrays(_numbers_of(matlab_arrays, path, names), names))
        array = held[key]
        return array if array.ndim < 3 else array.transpose(*range(array.ndim)[:1:-1], 0, 1)
    with open_hdf5(path) as file:
        if key not in file:
            raise lacking(path, key, about_hdf5(file), file)
        return read_dataset(file, key)


def save_fastmri(path: str | Path, data: KSpace, overwrite: bool = False) -> None:
    """Write k-space in fastMRI layout with a ``mask`` dataset, whole or not at all; no reference image goes along.

    The header's spaces are made those of the arrays, so that nothing is cropped again when the file is read.

    Raises:
        InputError: if the file exists (without ``overwrite``) or cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["kspace"] = data.kspace
        file["mask"] = data.mask
        if data.affine is not None:
            file["affine"] = data.affine
        if data.header is not None:
            own = data.format == "fastMRI HDF5"
            file["ismrmrd_header"] = fitted(data.header, data.kspace.shape[2:], data.spacing, own)
        if data.noise is not None:
            file["noise"] = data.noise
        for key, value in data.attributes.items():
            if key not in ("max", "norm") and permitted(key, value) is not None:  # those two are of the reference image
                file.attrs[key] = value
        file.attrs["acceleration"] = achieved_acceleration(data.mask)
    write_whole({Path(path): buffer.getvalue()}, overwrite)
