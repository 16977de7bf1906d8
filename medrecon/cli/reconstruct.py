"""Reconstruct one scan as the options of ``medrecon recon`` ask for: read, plan, check the output, run, write."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.cli.cases import Case, image_stem, request_digest
from medrecon.settings import OPTION_GROUPS, given_maps

if TYPE_CHECKING:
    from medrecon.data.scan import Geometry, ImageScan
    from medrecon.posterior import PriorSpec
    from medrecon.writers import Output

__all__ = [
    "COMPANIONS",
    "clear_caches",
    "output_options",
    "reconstruct_case",
    "stem_of_images",
    "summary_of_run",
    "summary_of_samples",
]

_LOGGER = logging.getLogger(__name__)
COMPANIONS = {
    "trajectory": ("FILE", str, "k-space trajectory (.npy or BART pair), if the scan's file has none"),
    "matrix": ("Y,X", str, "matrix of the image for non-Cartesian k-space (default: the file's)"),
    "phase": ("FILE", str, "phase image that belongs to a NIfTI magnitude image"),
    "imaginary": ("FILE", str, "imaginary part that belongs to a NIfTI real part"),
    "detector_spacing": ("MM", float, "distance between detector pixels of a sinogram (default: the file's)"),
    "centre": ("P", float, "detector pixel of the rotation axis, counted from 0 (default: the file's)"),
    "axis_convention": ("NAME", str, "rotation axis of an even detector: middle (astra) or pixel (scikit-image)"),
}
"""Options that complete what the scan's file records: metavar, type, help."""
_IRRELEVANT = {
    "argv", "command", "config", "dask", "debug", "dry_run", "input", "json", "name", "output", "overwrite", "parser", "quiet",
    "report", "select", "threads", "verbose", "workers",
}  # fmt: skip
"""Arguments that do not change the image (``select`` is in the case). All others, also new ones, are part of the digest."""


def _load(arguments: argparse.Namespace, case: Case) -> Any:  # noqa: ANN401 - a scan
    """The scan, with its companions."""
    from medrecon.cli.options import parse_integers
    from medrecon.formats import Companions, load

    given = {name: getattr(arguments, name) for name in COMPANIONS}
    if given["matrix"] is not None:
        given["matrix"] = parse_integers("--matrix", given["matrix"])
    return load(case.path, case.select, companions=Companions(**given), frames=arguments.dynamic)


def output_options(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Output:
    """Folder and format of the images, without their name and their inputs."""
    from medrecon.bundle import chosen_solver
    from medrecon.writers import Output

    return Output(
        folder=arguments.output,
        stem="",
        format=arguments.format,
        overwrite=arguments.overwrite,
        part=arguments.part,
        like=_like(arguments.like, tuple(arguments.like_select), arguments.format),
        deidentify=arguments.deidentify,
        bids=arguments.bids,
        label=chosen_solver(options),
        report=arguments.report,
    )


@functools.cache
def _like(path: str | None, select: tuple[tuple[str, Any], ...], format_: str) -> ImageScan | None:
    """The series given by ``--like``, read once for all cases of a run."""
    from medrecon.writers import like_series

    return like_series(path, dict(select), format_)


def stem_of_images(arguments: argparse.Namespace, options: Mapping[str, Any], case: Case) -> str:
    """File name of the images without suffix, from ``--name``."""
    from medrecon.bundle import chosen_solver

    solver, format_ = chosen_solver(options), arguments.format
    bundle = Path(str(options.get("bundle", "default"))).name
    return image_stem(arguments.name, case, solver=solver, format=format_, bundle=bundle)


def _request_digest(arguments: argparse.Namespace, case: Case) -> str:
    """SHA-256 of everything that determines an image: options, and the contents of all files that they name."""
    from medrecon._version import __version__
    from medrecon.bundle import find_bundle

    relevant = {name: value for name, value in vars(arguments).items() if name not in _IRRELEVANT}
    paths = [Path(value) for value in relevant.values() if isinstance(value, str) and Path(value).is_file()]
    paths += [Path(relevant["like"])] if relevant["like"] is not None else []
    paths += [find_bundle(relevant["bundle"])] if "bundle" in relevant else []
    return request_digest(case, {"version": __version__, **relevant}, paths)


def reconstruct_case(
    arguments: argparse.Namespace,
    case: Case,
    stem: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Load, plan, check the output, run and write one case.

    Args:
        arguments: parsed command line.
        case: scan to reconstruct.
        stem: file name of the images without suffix; ``None`` for a single scan, which is named by ``--name`` and never skipped.
        progress: called with (steps done, total steps).

    Returns:
        The entry of the case in ``run.json``.

    Raises:
        InputError: for data or options that cannot be used.
    """
    from medrecon.cli.options import settings_from
    from medrecon.posterior import as_device
    from medrecon.reconstruction import plan
    from medrecon.writers import check, is_finished

    device = as_device(arguments.device)
    options = settings_from(arguments, OPTION_GROUPS)
    request = _request_digest(arguments, case) if case.path.exists() else None
    output = replace(output_options(arguments, options), stem=stem or "", request=request)
    if stem is not None and not arguments.overwrite and is_finished(output):
        return {"status": "skipped"}
    scan = _load(arguments, case)
    if stem is None:
        stem = stem_of_images(arguments, options, replace(case, stem=scan.stem))
    files = [options[name] for name in ("maps", "mask", "shots") if given_maps(options.get(name)) is not None]
    output = replace(output, stem=stem, sources=[scan.path, *files])
    planned = plan(scan, load=_prior, reading=_reading(arguments, case), **options)
    _LOGGER.debug("%s: %s", case.path, _plan_line(scan, planned))
    problem = planned.problem
    geometry = _geometry(problem, scan, output=output, options=options)
    paths = check(
        output,
        slices=problem.n_slices,
        samples=planned.sampling.n_samples > 1,
        geometry=geometry,
        phase=not problem.real,
        frames=problem.has_frames,
        maps=planned.maps,
    )
    reference = _reference(arguments, planned, geometry)
    if arguments.dry_run:
        return {"status": "planned", "files": [str(path) for path in paths], "solver": planned.solver}
    with _parts(planned, output, lambda: _request_digest(arguments, case)) as parts:
        made = planned.run(device, progress, trace=arguments.report, parts=parts)
        result = replace(made, geometry=geometry)
        page = functools.partial(_page, planned=planned, name=paths[-1].stem, reference=reference)
        record = _write(result, output, page if arguments.report else None, reference=reference)
    _LOGGER.debug("%s: %s", case.path, _record_line(record))
    return {"status": "done", "files": [str(path) for path in paths], **_run_entry(record)}


def _write(result: Any, output: Output, page: Callable[[Any], Any] | None, reference: Any) -> Mapping[str, Any]:  # noqa: ANN401
    """Write the images, their scores against the reference, and their page, made from the result; return the record."""
    from medrecon.writers import write

    if output.like is not None and output.like.warnings:
        warnings = [*result.record["warnings"], *output.like.warnings]
        result = replace(result, record={**result.record, "warnings": warnings})
    result = result if reference is None else _with_scores(result, reference)
    write(result, output, None if page is None else page(result))
    return result.record


@contextmanager
def _parts(planned: Any, output: Output, digest: Callable[[], str]) -> Iterator[Any]:  # noqa: ANN401 - a plan
    """Where finished slabs are kept beside the output until the image is written; ``None`` for images without slabs.

    Raises:
        InputError: if the scan was changed since the run began, or another run makes the same image.
    """
    from medrecon.data.errors import InputError
    from medrecon.data.parts import kept_parts

    slabs = getattr(planned.problem, "slabs", ())
    if len(slabs) < 2 or output.request is None:
        yield None
        return
    if digest() != output.request:
        raise InputError(
            f"{planned.problem.name}: was changed while it was read; run again when it is no longer written to"
        )
    request = f"{output.request} {planned.prior.weights_sha256} {slabs}"
    with kept_parts(Path(output.folder), output.stem, request) as parts:
        yield parts


def _reading(arguments: argparse.Namespace, case: Case) -> dict[str, Any]:
    """Options with which the scan is read and its images are written, as plain data for the record."""
    given = {name: getattr(arguments, name) for name in (*COMPANIONS, "bids", "like")}
    names = {name: value.rpartition("/")[2] if isinstance(value, str) else value for name, value in given.items()}
    if arguments.like is not None and Path(arguments.like).is_dir():
        names["like"] = "SERIES"  # names of folders may be names of patients
    names |= {"select": dict(case.select) or None, "like_select": dict(arguments.like_select) or None}
    names |= {"part": None if arguments.part == "mag" else arguments.part, "deidentify": arguments.deidentify or None}
    return {name: value for name, value in names.items() if value is not None}


def _reference(arguments: argparse.Namespace, planned: Any, geometry: Geometry) -> Any:  # noqa: ANN401 - a plan, a volume
    """The reference of ``--reference``, checked before the computation; ``None`` without one.

    Raises:
        InputError: if it is given without ``--report``, cannot be found or read, or does not fit the scan.
    """
    from medrecon.data.errors import InputError

    if arguments.reference is None:
        return None
    if not arguments.report:
        raise InputError("--reference is for --report; to compute scores alone, run medrecon evaluate")
    from medrecon.report.gather import find_beside, reference_of

    problem = planned.problem
    path = find_beside(Path(arguments.reference), Path(problem.name).name)
    frames = problem.image_shape[0] // 2 if problem.has_frames else 1
    shape = (frames * problem.n_slices, *problem.image_shape[-2:])
    return reference_of(path, shape, geometry=geometry, numbers=problem.numbers, is_ct=problem.modality == "CT")


def _with_scores(result: Any, reference: Any) -> Any:  # noqa: ANN401
    """The reconstruction with its scores against the reference in the record."""
    from medrecon.report.gather import entry_of_scores, scores_of

    scores = scores_of(result.image, reference, is_ct=result.modality == "CT")
    return replace(result, record={**result.record, **entry_of_scores(scores)})


def _page(result: Any, planned: Any, name: str, reference: Any) -> Callable[[Mapping[str, Any]], bytes]:  # noqa: ANN401
    """Function that makes the page of a report from the sidecar."""

    def page(sidecar: Mapping[str, Any]) -> bytes:
        from medrecon.report.gather import case_of_run
        from medrecon.report.page import page as page_of

        return page_of(case_of_run(result, sidecar, name, problem=planned.problem, reference=reference))

    return page


def _geometry(problem: Any, scan: Any, output: Output, options: Mapping[str, Any]) -> Geometry:  # noqa: ANN401
    """Geometry of the images; if the scan does not record its position, the position is taken from the series of ``--like``."""
    from medrecon.writers import output_geometry

    geometry = problem.geometry
    if geometry.affine is not None or output.like is None:
        return geometry
    index = options.get("slices", slice(None))
    # A volume has more slices than its scan records.
    n_slices = scan.n_slices if "slices" in options else problem.n_slices
    shape = (n_slices, *problem.image_shape[-2:])
    return replace(geometry, affine=output_geometry(scan.geometry, shape, like=output.like, index=index).affine)


@functools.cache
def _prior(name: str | Path) -> PriorSpec:
    """The prior of a bundle; its network is read once for all cases of a run."""
    from medrecon.bundle import load_prior

    prior = load_prior(name)
    return replace(prior, network=functools.cache(prior.network))


def clear_caches() -> None:
    """Forget priors and series read for an earlier run in this process, since their files may have changed."""
    _like.cache_clear()
    _prior.cache_clear()


def _plan_line(scan: Any, planned: Any) -> str:  # noqa: ANN401 - a scan, a plan
    """Format, size and solver, for the log."""
    matrix = " x ".join(map(str, planned.problem.image_shape[1:]))
    return f"{scan.format}, {planned.problem.n_items} of {matrix} pixels by {planned.solver}"


def _record_line(record: Mapping[str, Any]) -> str:
    """Main entries of the record, for the log."""
    names = (
        "noise_std",
        "noise_source",
        "maps_source",
        "acceleration",
        "relative_residual",
        "residual_over_noise",
        "device",
    )
    return ", ".join(f"{name.replace('_', ' ')} {record[name]}" for name in names if record.get(name) is not None)


def _run_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of the record that ``run.json`` repeats."""
    names = ("network_evaluations", "acceleration", "residual_over_noise", "seconds", "uncertainty", "warnings")
    names += ("calibration",) if record.get("calibration") else ()
    bundle = record.get("bundle")
    return {
        "solver": record["solver"]["name"],
        "weights_sha256": None if bundle is None else bundle["weights_sha256"],
        **{name: record[name] for name in names if name in record},
    }


def summary_of_run(entry: Mapping[str, Any]) -> str:
    """One line on a finished case."""
    acceleration = f"acceleration {entry['acceleration']:.2f}, " if "acceleration" in entry else ""
    return (
        f"{entry['solver']}, {entry['network_evaluations']} network evaluations, {acceleration}{entry['seconds']:.1f} s"
    )


def summary_of_samples(entry: Mapping[str, Any]) -> str | None:
    """One line on the samples of a finished case: self-test, flags, and what was not measured; ``None`` for one sample."""
    facts = entry.get("uncertainty")
    if facts is None:
        return None
    test = facts["self_test"]
    text = "no self-test, because the noise level is 0 or unknown" if test is None else f"self-test: {test['text']}"
    by = entry.get("calibration")
    source = "" if by is None else f"; uncertainty calibrated by {by['source']} ({by['images']} images)"
    return f"{text}; flagged {facts['flagged_fraction']:.1%}, not measured {facts['null_energy']:.1%} of the energy{source}"
