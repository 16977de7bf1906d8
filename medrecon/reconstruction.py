"""The whole way from k-space to an image, in one call."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from torch import nn

from medrecon._version import __version__
from medrecon.bundle import find_bundle, metadata
from medrecon.data.errors import InputError, warn
from medrecon.data.espirit import CoilMaps, Espirit, coil_maps, trusted_noise
from medrecon.data.masks import achieved_acceleration
from medrecon.data.noise import noise_level
from medrecon.data.sampling import check_scale, common_mask, sampling_mask
from medrecon.inferers import PosteriorInferer, as_number, find_solver
from medrecon.monai_bundle import load_config, parsed

__all__ = [
    "Reconstruction",
    "estimate_maps",
    "finish_record",
    "magnitudes",
    "mean_phase",
    "provenance",
    "reconstruct",
    "sensitivity_maps",
]


@dataclass(frozen=True)
class Reconstruction:
    """The result of :func:`reconstruct`.

    Args:
        image: magnitude ``(slices, y, x)`` float32, in the scale of the coil-combined input; the mean of the samples.
        samples: magnitudes ``(n, slices, y, x)`` float32, or ``None`` for one sample.
        record: what was done, as the sidecar tells it.
        phase: of the mean of the complex samples, rad, ``(slices, y, x)`` float32.
    """

    image: np.ndarray
    samples: np.ndarray | None
    record: dict[str, Any]
    phase: np.ndarray


def _grouped(items: Sequence[tuple[int, str]], n: int) -> list[str]:
    """Texts of slices, each once, with the numbers of its slices where it is not of all ``n``."""
    texts: dict[str, list[int]] = {}
    for number, text in items:
        texts.setdefault(text, []).append(number)
    return [
        text if len(where) == n else f"{text} (slice{'s' * (len(where) > 1)} {', '.join(map(str, where))})"
        for text, where in texts.items()
    ]


def estimate_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    noise_std: float = 0.0,
    name: str = "k-space",
    settings: Espirit = Espirit(),  # noqa: B008 - frozen
    rss: bool = False,
    numbers: Sequence[int] | None = None,
) -> CoilMaps:
    """Maps of every slice of ``(slices, coils, y, x)``, the method and warnings.

    Arguments: see :func:`medrecon.data.espirit.coil_maps`; ``numbers`` are the slices' indices in their volume, for warnings.
    """
    found = [coil_maps(k, mask, noise_std, name, settings, rss) for k in kspace]
    numbers = range(len(kspace)) if numbers is None else numbers
    # Slices without signal have no maps, so nothing was estimated there.
    seen = [(number, one) for number, one in zip(numbers, found, strict=True) if one.maps.any()]
    texts = [(number, text) for number, one in seen for text in one.warnings]
    return CoilMaps(
        torch.stack([one.maps for one in found]),
        "; ".join(_grouped([(number, one.source) for number, one in seen], len(seen))) or found[0].source,
        tuple(_grouped(texts, len(seen))),
        found[0].sets,
    )


def sensitivity_maps(
    kspace: np.ndarray,
    mask: np.ndarray,
    name: str = "k-space",
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    noise_std: float = 0.0,
    sets: int = 1,
) -> torch.Tensor:
    """Maps of every slice of ``(slices, coils, y, x)``, complex64, by ESPIRiT where it works; ones for a single coil.

    ``(slices, sets, coils, y, x)`` for more than one set.

    Arguments: see :func:`medrecon.data.espirit.espirit_maps`.
    """
    return estimate_maps(kspace, mask, noise_std, name, Espirit(kernel, threshold, crop, sets)).maps


def magnitudes(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
    """The image to show, and the samples if there are several, of complex ``(samples, slices, y, x)``, float32."""
    size = images.abs().float().cpu().numpy()
    return size.mean(0), size if len(size) > 1 else None


def mean_phase(images: torch.Tensor) -> np.ndarray:
    """Of complex ``(samples, slices, y, x)``, rad, ``(slices, y, x)`` float32."""
    return images.mean(0).angle().float().cpu().numpy()


def provenance(record: Mapping[str, Any], root: str | Path) -> dict[str, Any]:
    """Versions, and the bundle whose weights were used."""
    facts = metadata(root)
    return {
        "versions": {
            "medrecon": __version__,
            "monai": monai.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "bundle": {"name": facts["name"], "version": facts["version"], "weights_sha256": facts["weights"]["sha256"]}
        if record["network_evaluations"]
        else None,  # a classical solver uses no weights
    }


def finish_record(record: Mapping[str, Any], root: str | Path, mask: np.ndarray, **more: object) -> dict[str, Any]:
    """Complete the inferer's record to what the sidecar holds."""
    acceleration = round(achieved_acceleration(mask), 4)
    return {**provenance(record, root), "acceleration": acceleration, **record, **more}


def _device(name: str) -> torch.device:
    if not isinstance(name, str) or (name not in ("auto", "cpu") and not name.startswith("cuda")):
        raise InputError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available; choose the device cpu")
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); choose auto or cpu"
        ) from error
    return device


def reconstruct(
    kspace: np.ndarray,
    mask: np.ndarray | None = None,
    maps: np.ndarray | None = None,
    bundle: str | Path = "brain_mri",
    solver: str = "dds",
    *,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    noise_std: float | None = None,
    noise_source: str = "given",
    settings: Mapping[str, Any] | None = None,
    condition: str | None = None,
    guidance: float = 1.0,
    start: str | None = None,
    start_sigma: float | None = None,
    slices: slice = slice(None),
    device: str = "auto",
    name: str = "k-space",
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstruct undersampled Cartesian k-space.

    Args:
        kspace: complex, centred, ``(slices, coils, y, x)`` or ``(coils, y, x)``, zero where not sampled.
        mask: true where sampled, ``(x,)`` or ``(y, x)``; default: wherever ``kspace`` is not zero.
        maps: coil sensitivities shaped like ``kspace`` (or one set for all slices); default: estimated from the fully
            sampled centre, see :func:`medrecon.data.espirit.coil_maps`.
        bundle: name or folder of the bundle that holds the prior.
        solver: a name that ``medrecon solvers`` lists.
        steps: network evaluations per sample; default: the bundle's.
        samples: posterior samples per slice.
        seed: of all random numbers.
        noise_std: of ``kspace``, per real component; default: estimated from the outermost sampled k-space.
        noise_source: of ``noise_std``, for the record. A level from a ``noise scan`` was compared with k-space when the file was
            read, see :func:`medrecon.data.sampling.loud_scan`, and is not compared again.
        settings: hyper-parameters of the solver, e.g. ``{"gamma": 5.0}``.
        condition: what the prior is told about the images, e.g. their contrast; the bundle's config lists its labels.
        guidance: how much the condition counts, see :func:`medrecon.priors.guided`.
        start: a solver without a prior, from whose estimate the run starts (CCDF); default: pure noise.
        start_sigma: the noise level that the estimate is given, for images of unit scale.
        slices: which slices to reconstruct.
        device: ``auto``, ``cpu`` or ``cuda``.
        name: what errors should call the data.
        progress: called with (steps done, steps in all).

    Raises:
        InputError: for any input that cannot be used, in one sentence.
    """
    kspace = np.asarray(kspace)
    if not np.iscomplexobj(kspace) or kspace.ndim not in (3, 4):
        raise InputError(f"{name}: k-space must be complex (slices, coils, y, x); got {kspace.dtype} {kspace.shape}")
    check_scale(kspace, name)
    kspace = kspace.reshape(-1, *kspace.shape[-3:]).astype(np.complex64)
    if not np.isfinite(kspace).all():
        raise InputError(f"{name}: k-space holds NaN or Inf; export the data again")
    if not kspace.any():
        raise InputError(f"{name}: k-space is all zeros; give other data")
    mask = sampling_mask(kspace, mask, name, alike=False)
    kspace = np.ascontiguousarray(kspace * mask)
    if noise_std is not None:
        noise_std = as_number("noise_std", noise_std)
    if noise_std is None:
        noise_std, noise_source = noise_level(kspace, mask)
    numbers = range(len(kspace))[slices]
    chosen = kspace[list(numbers)]
    if not len(chosen):
        raise InputError(f"{name}: no slices in {slices.start}:{slices.stop}; there are {len(kspace)}")
    mask = common_mask(chosen, mask, name)

    # Settings are judged before the long work: maps, weights, steps.
    root = find_bundle(bundle)
    for one in (solver, *([] if start is None else [start])):
        find_solver(one)
    values: dict[str, Any] = {"solver": solver, "settings": {} if settings is None else settings}
    values |= {"samples": samples, "seed": seed, "device": (where := _device(device))}
    if steps is not None:
        values["n_steps"] = steps
    if start is not None or start_sigma is not None:
        values |= {"start": start, "start_sigma": start_sigma}
    config = load_config(root, **values)
    if guidance != 1 and not condition:
        raise InputError("guidance weighs a condition; give a condition as well")
    if condition:
        if "condition" not in config:
            raise InputError(f"the prior of bundle {root.name} takes no condition; leave it out")
        config.bind(condition=condition, guidance=guidance)
    inferer = parsed(config, "inferer")
    if not isinstance(inferer, PosteriorInferer):
        raise InputError(f"bundle {root.name} does not reconstruct k-space; run its configs/inference.yaml instead")
    inferer.progress = progress
    network = parsed(config, "network") if inferer.solver.requires.prior else None
    if network is not None and not isinstance(network, nn.Module):
        raise InputError(f"bundle {root.name}: its 'network' is a {type(network).__name__}; correct its inference.yaml")

    if maps is None:
        believed = trusted_noise(noise_std, kspace, mask)
        estimated = estimate_maps(chosen, mask, believed, name, rss=solver == "zero-filled", numbers=numbers)
    else:
        maps = np.asarray(maps)
        if maps.shape not in (kspace.shape, kspace.shape[1:]):
            raise InputError(
                f"{name}: the maps have shape {maps.shape}, but k-space is {kspace.shape} (slices, coils, y, x); "
                "give one map per coil, of the same matrix"
            )
        if not np.isfinite(maps).all():
            raise InputError(f"the maps given for {name} hold NaN or Inf; estimate them again")
        sets = maps[list(numbers)] if maps.ndim == 4 else np.broadcast_to(maps, chosen.shape)
        largest = float(np.sqrt((np.abs(sets).astype(np.float64) ** 2).sum(axis=1)).max())
        if largest == 0:
            raise InputError(f"the maps given for {name} are all zeros; estimate them again")
        maps_source = "given"
        if abs(largest - 1) > 0.01:  # |A| <= 1 is what weights, steps and the unit of the image rest on
            sets, maps_source = sets / largest, f"given, divided by {largest:.4g}"
        # Zeros of a dead coil are no data, which a map would make of them.
        dead = ~chosen.any(axis=(2, 3)) & chosen.any(axis=(1, 2, 3))[:, None] & sets.any(axis=(2, 3))
        sets = np.where(dead[..., None, None], 0, sets)
        said = f"{name}: coil {', '.join(map(str, np.flatnonzero(dead.any(axis=0))))} holds no samples; its map is not used"
        estimated = CoilMaps(
            torch.from_numpy(np.array(sets, dtype=np.complex64)), maps_source, (said,) if dead.any() else ()
        )
    out = inferer(
        MetaTensor(torch.from_numpy(chosen)[None].to(where), meta={"noise_source": noise_source}),
        network,
        mask=torch.from_numpy(np.atleast_2d(mask))[None].to(where),
        maps=estimated.maps[None].to(where),
        noise_std=noise_std,
        slices=numbers,
    )
    images = out.as_tensor()[0]
    image, several = magnitudes(images)
    if not np.isfinite(image).all():
        raise InputError(
            f"{name}: the reconstruction diverged (NaN or Inf); change the settings of solver {solver!r}, or choose another"
        )
    record = finish_record(
        json.loads(out.meta["record"]), root, mask, noise_source=noise_source, maps_source=estimated.source
    )
    record["warnings"] = [*estimated.warnings, *record["warnings"]]
    for text in record["warnings"]:
        warn(text)
    return Reconstruction(image, several, record, mean_phase(images))
