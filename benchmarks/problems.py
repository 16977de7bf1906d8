"""Problems shared by the benchmarks: simulated validation scans, and the real slice A. Not a program."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from medrecon.bundle import build_network, find_bundle, load_prior
from medrecon.data.espirit import combined_reference, espirit_maps
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import estimate_noise_std
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.phase import smooth_phase
from medrecon.data.scan import CartesianScan, Sinogram
from medrecon.data.yaml_files import read_yaml
from medrecon.formats import load_kspace
from medrecon.handlers import start_from
from medrecon.operators import ParallelBeam
from medrecon.posterior import PriorSpec, Reconstruction, as_device, fast_dtype
from medrecon.priors import Prior
from medrecon.reconstruction import Plan, plan
from medrecon.training.augment import anatomical_phase, resampling_matrix
from medrecon.training.slices import load_slices

WATER = 0.02
"""Attenuation of water per mm."""
PHOTONS = 1e5
DATA = Path(os.environ.get("MEDRECON_DATA", "../shared/data"))
DEVICE = as_device("auto")
ACS = {4: 24, 6: 18, 8: 14}


class Problem(NamedTuple):
    """Undersampled k-space ``(1, coils, y, x)``, mask ``(x,)``, maps from its ACS, noise, and the reference ``(1, y, x)``.

    ``truth`` is the magnitude ``(1, y, x)`` that was simulated, without noise; ``None`` for measured data.
    """

    name: str
    kspace: np.ndarray
    mask: np.ndarray
    maps: torch.Tensor
    noise_std: float
    reference: np.ndarray
    truth: np.ndarray | None = None


def problem(
    name: str, kspace: np.ndarray, reference: np.ndarray, accel: int, truth: np.ndarray | None = None
) -> Problem:
    """Undersample full k-space ``(coils, y, x)`` by columns at ``accel``, and estimate maps and noise as a user would."""
    mask = undersampling_mask(kspace.shape[1:], "gaussian1d", accel, ACS[accel], seed=0)
    kspace = (kspace * mask)[None]
    noise_std = estimate_noise_std(kspace, mask)
    maps = espirit_maps(kspace[0], mask, name=name, noise_std=noise_std)[None]
    return Problem(name, kspace, mask, maps, noise_std, reference[None], truth)


def held_out_brains(
    per_source: int, shape: tuple[int, int], zoom: float
) -> Iterator[tuple[str, np.ndarray, np.random.Generator]]:
    """Name, complex image and random numbers of held-out slices with skull, resampled by ``zoom``, with phase.

    At most ``per_source`` of each source, evenly spaced.
    """
    with np.load(DATA / "train" / "brain_slices_256_val.npz") as archive:
        images, subjects, stripped = (archive[key] for key in ("img", "subject", "stripped"))
    groups = {"omsL_12": subjects == "omsL_12", "torchio": np.char.startswith(subjects, "torchio"),
              "cheng": np.char.startswith(subjects, "cheng")}  # fmt: skip
    factor = torch.tensor([zoom])
    rows, columns = (resampling_matrix(256, n, factor, 128 - n / 2 / factor)[0] for n in shape)
    for group, chosen in groups.items():
        candidates = np.flatnonzero(chosen & (stripped == 0))
        for index in candidates[np.unique(np.linspace(0, len(candidates) - 1, per_source + 2).astype(int)[1:-1])]:
            image = rows @ torch.from_numpy(images[index] / np.float32(200)) @ columns.T
            seed = zlib.crc32(f"{group}:{index}".encode())
            phase = smooth_phase(shape, np.random.RandomState(seed), linear=2.0, quadratic=1.5)
            one = torch.ones(1)
            phase = phase + anatomical_phase(image[None, None], 0.5 * one, 1.0 * one, 5 * one)[0, 0].numpy()
            yield f"{group}[{index}]", image.numpy() * np.exp(1j * phase), np.random.default_rng(seed)


def validation(
    accel: int,
    per_source: int = 2,
    noise_std: float = 0.01,
    shape: tuple[int, int] = (216, 176),
    zoom: float = 0.85,
    coils: int = 8,
    acs: int | None = None,
) -> list[Problem]:
    """Simulated scans of held-out slices with skull: full bandwidth, phase with anatomy, noise.

    The slices are resampled to coarser pixels by cropping their k-space, so that they are as sharp as an acquisition; no
    prior has seen these subjects.
    """
    out = []
    for name, complex_image, generator in held_out_brains(per_source, shape, zoom):
        if coils == 1:
            out.append(single_coil(name, complex_image, accel, noise_std, generator, acs))
            continue
        kspace = simulate_kspace(complex_image, loop_coils(shape, coils), noise_std, generator)
        reference, truth = combined_reference(kspace[None])[0], np.abs(complex_image)[None]
        out.append(problem(name, kspace, reference, accel, truth))
    return out


def small(accel: int = 4) -> list[Problem]:
    """Single-coil scans of 64 x 64 pixels of six held-out slices, whole heads, with 6 ACS lines."""
    return validation(accel, shape=(64, 64), zoom=0.25, coils=1, acs=6)


def single_coil(
    name: str,
    image: np.ndarray,
    accel: int,
    noise_std: float,
    generator: np.random.Generator,
    acs: int | None = None,
) -> Problem:
    """Single-coil scan of a complex image, undersampled by columns, with noise; as many ACS lines as ``ACS`` has, or ``acs``."""
    shape = image.shape
    kspace = simulate_kspace(image, np.ones((1, *shape), np.complex64), noise_std, generator)
    mask = undersampling_mask(shape, "gaussian1d", accel, ACS[accel] if acs is None else acs, seed=0)
    maps = torch.ones(1, 1, *shape, dtype=torch.complex64)
    truth = np.abs(image)[None]
    return Problem(name, (kspace * mask)[None], mask, maps, noise_std, truth, truth)


def slice_a(accel: int) -> Problem:
    """The real eight-coil T1 slice of the data folder."""
    data = load_kspace(DATA / "kspace" / "brain_t1_8ch_sliceA.h5")
    return problem("slice A", data.kspace[0], combined_reference(data.kspace)[0], accel)


def knee(accel: int, noise_std: float = 0.01) -> Problem:
    """Single-coil scan of the complex knee image, undersampled by columns, with noise; the maximum is scaled to 1."""
    with np.load(DATA / "kspace" / "knee_singlecoil_image.npz") as archive:
        image = archive["image"]
    return single_coil("knee", image / np.abs(image).max(), accel, noise_std, np.random.default_rng(accel))


class Tomogram(NamedTuple):
    """Line integrals ``(1, 1, views, detectors)``, angles, pixel size in mm, and the reference ``(1, y, x)``, water is 1."""

    name: str
    sinogram: torch.Tensor
    angles: torch.Tensor
    spacing: float
    reference: np.ndarray


@functools.cache
def held_out_chests() -> list[dict]:
    """Slices of patients that were not used to train the chest prior."""
    *_, held_out = bundle_prior("chest_ct")
    return load_slices(DATA / "train" / "ct_slices_256.npz", {"subject": held_out})


def chest(views: int, index: int = 0) -> Tomogram:
    """Parallel views of a held-out slice, with photon noise."""
    row = held_out_chests()[index]
    spacing = float(np.ravel(row["spacing"])[0])
    truth = torch.from_numpy(row["image"][None] / np.float32(1000))
    angles = torch.arange(views, dtype=torch.float64) * torch.pi / views
    line = ParallelBeam(angles, (256, 256), spacing=spacing * WATER)(truth)
    counts = torch.poisson(PHOTONS * (-line).exp(), generator=torch.Generator().manual_seed(views)).clamp(min=1)
    return Tomogram(row["subject"], -(counts / PHOTONS).log(), angles, spacing, truth[0].numpy())


@functools.cache
def network(bundle: str) -> torch.nn.Module:
    """A bundle's network, read once."""
    return load_prior(bundle).network()


def prior_of(case: Problem | Tomogram, bundle: str | None = None, weights: str | None = None) -> PriorSpec:
    """The prior of a bundle (default: the bundle of the case), with its weights or the weights of a checkpoint of train.yaml."""
    name = bundle or ("chest_ct" if isinstance(case, Tomogram) else "brain_mri")
    spec = load_prior(name)
    if weights:
        loaded = start_from(build_network(find_bundle(name)), weights).eval().requires_grad_(False)
        return replace(spec, network=lambda: loaded)
    return replace(spec, network=lambda: network(name))


def planned(case: Problem | Tomogram, prior: PriorSpec | None = None, **options: object) -> Plan:
    """The reconstruction of a case before its run; ``options`` as for :func:`medrecon.reconstruct`."""
    given: dict[str, object] = {"bundle": prior or prior_of(case), **options}
    if isinstance(case, Tomogram):
        scan = Sinogram(
            path=Path(case.name), format="simulated", sinogram=case.sinogram[0].numpy(), angles=case.angles.numpy(),
            detector_spacing=case.spacing, photons=PHOTONS,
        )  # fmt: skip
        return plan(scan, image_size=256, voxel=case.spacing, **given)
    scan = CartesianScan(path=Path(case.name), format="simulated", kspace=case.kspace, mask=case.mask)
    return plan(scan, maps=case.maps.numpy(), noise_std=case.noise_std, **given)


def run(case: Problem | Tomogram, prior: PriorSpec | None = None, **options: object) -> Reconstruction:
    """Reconstruct a case; ``options`` as for :func:`medrecon.reconstruct`. CT images are in units of water."""
    made = planned(case, prior, **options).run(DEVICE)
    if not isinstance(case, Tomogram):
        return made
    samples = None if made.samples is None else made.samples / 1000 + 1
    return replace(made, image=made.image / 1000 + 1, samples=samples)


def samples_of(made: Reconstruction) -> np.ndarray:
    """``(samples, 1, y, x)``."""
    return made.image[None] if made.samples is None else made.samples


def bundle_prior(name: str, weights: str | None = None) -> tuple[Prior, torch.nn.Module, list[str]]:
    """The prior of any bundle as it was trained (not channel by channel), its network, and its held-out subjects."""
    root = find_bundle(name)
    spec = load_prior(root)
    network = start_from(build_network(root), weights).eval() if weights else spec.network()
    network = network.to(memory_format=torch.channels_last)
    held_out = read_yaml(root / "configs" / "train.yaml", "a bundle's config")["val_subjects"]
    return spec.objective.prior(network, spec.multiple, fast_dtype("cpu")), network, held_out
