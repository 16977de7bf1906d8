"""The methods paragraph of a page: what was done, with exact settings and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medrecon.report.citations import PAPERS, SOLVER_PAPERS
from medrecon.report.html import Html, el, joined, link

__all__ = ["methods", "number"]


def number(value: Any) -> str:  # noqa: ANN401 - of JSON
    """A value as text: numbers with four digits."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        texts = list(dict.fromkeys(number(one) for one in value))
        return ", ".join(texts[:6]) + (f", … ({len(value)} values)" if len(texts) > 6 else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(one)}" for key, one in value.items()) or "none"
    return str(value)


class _References:
    """Citations in the order of their first use."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def cite(self, *keys: str) -> Html:
        """The numbers of papers in brackets; empty for none."""
        for key in keys:
            if key not in self.keys:
                self.keys.append(key)
        numbers = [self.keys.index(key) + 1 for key in keys]
        if not numbers:
            return Html("")
        return joined([" [", *_between([el("a", str(n), href=f"#paper-{n}") for n in numbers]), "]"])

    def listed(self) -> Html:
        """The list of papers."""
        items = []
        for n, key in enumerate(self.keys, 1):
            text, address = PAPERS[key]
            papers = [text, ". ", link(address.removeprefix("https://"), address) if address else None]
            items.append(el("li", *papers, id=f"paper-{n}"))
        return el("ol", *items, class_="papers")


def _between(parts: list[Html]) -> Sequence[object]:
    return [one for part in parts for one in (", ", part)][1:]


def _data(record: Mapping[str, Any], cite: _References) -> list[object]:
    """Sentences on the data and their model."""
    out: list[object] = []
    if "views" in record:
        beam = record.get("beam", "parallel")
        out += [f"Line integrals of {record['views']} views ({beam} beam, {record.get('detectors')} detector pixels)"]
        out += [" were reconstructed on pixels of ", number(record.get("spacing_mm")), " mm."]
    elif "task" in record:
        task = {"superres": "super-resolution", "denoise": "denoising", "deblur": "deblurring"}.get(str(record["task"]))
        out += [f"The images were processed by {task or record['task']}."]
    elif "readout" in record:
        out += [
            f"Non-Cartesian k-space ({record.get('shots')} shots of {record['readout']} samples) was reconstructed with a "
        ]
        out += ["density-weighted non-uniform Fourier transform", cite.cite("nufft", "cg-sense"), "."]
    else:
        frames = f" of {record['frames']} frames" if "frames" in record else ""
        coils = {"ssos": "one image per coil", "hybrid": "a hybrid of one image and one image per coil"}.get(
            str(record.get("coil_images"))
        )
        model = ["with a SENSE model", cite.cite("sense")] if coils is None else [f"as {coils}"]
        out += [f"K-space{frames} was reconstructed ", *model, "."]
    if record.get("acceleration") is not None:
        out += [f" The acceleration was {number(record['acceleration'])}."]
    maps = record.get("maps_source")
    if maps is not None and maps != "none" and not record.get("coil_images"):
        known = [key for key, name in (("espirit", "ESPIRiT"), ("nlinv", "NLINV")) if name in str(maps)]
        paper = cite.cite(*known) if known else None
        out += [f" Source of the coil sensitivities: {maps}", paper, "."]
    motion = record.get("motion")
    if isinstance(motion, Mapping):
        out += [
            f" Rigid in-plane motion of {motion.get('shots')} shots was estimated between the noise levels and corrected"
        ]
        out += [cite.cite("batchelor", "cordero-grande"), "."]
    if record.get("whitened"):
        out += [" Coils were prewhitened with a noise scan."]
    if record.get("virtual_coils"):
        out += [f" Coils were compressed to {record['virtual_coils']} virtual coils."]
    if record.get("noise_std") is not None:
        model, source = record.get("noise_model", "gaussian"), record.get("noise_source", "estimated from the data")
        name = {"gaussian": "Gaussian", "poisson": "Poisson", "rician": "Rician"}.get(str(model), str(model))
        out += [f" The noise was assumed {name} with a standard deviation of {number(record['noise_std'])} ({source})."]
    return out


def _solver(record: Mapping[str, Any], cite: _References) -> list[object]:
    """Sentences on the solver, its settings and the prior."""
    solver = dict(record.get("solver") or {})
    name = str(solver.pop("name", "unknown"))
    calibrated = solver.pop("calibrated", False)
    settings = ", ".join(f"{key} = {number(value)}" for key, value in solver.items()) or "none"
    out: list[object] = [f" Solver: {name}", cite.cite(*SOLVER_PAPERS.get(name, ())), f" (settings: {settings})."]
    bundle = record.get("bundle")
    if bundle:
        out += [f" The prior was the diffusion model {bundle.get('name')} {bundle.get('version')}", cite.cite("edm")]
        condition = (
            f", conditioned on {record['condition']} (guidance {number(record.get('guidance'))})"
            if record.get("condition")
            else ""
        )
        out += [
            f"{condition}. From noise level {number(record.get('sigma_max'))} to {number(record.get('sigma_min'))} it took "
        ]
        out += [f"{record.get('steps')} steps ({record.get('network_evaluations')} network evaluations in all)."]
        planes = record.get("planes") or []
        if len(planes) > 1:
            names = f"{', '.join(planes[:-1])} and {planes[-1]}"
            out += [f" Of the volume it took the {names} planes in turn", cite.cite("tpdm"), "."]
        if record.get("symmetries"):
            out += [f" The prior was averaged over symmetries: {number(record['symmetries'])}."]
        if record.get("start"):
            start = str(record["start"])
            out += [
                f" The run started from the estimate of {start}",
                cite.cite(*SOLVER_PAPERS.get(start, ()), "ccdf"),
                ".",
            ]
    if record.get("particles"):
        out += [f" {record['particles'].get('number')} particles were used; the image is their weighted mean."]
    elif record.get("samples", 1) > 1:
        out += [f" {record['samples']} samples were drawn; the image is their mean."]
        if calibrated:
            out += [" With its noise levels, the solver draws from the posterior of an exact Gaussian prior."]
    calibration = record.get("calibration")
    if isinstance(calibration, Mapping):
        out += [
            " The standard deviation and the limits of the interval are the spread of the samples times factors from"
        ]
        out += [
            f" {number(calibration.get('images'))} images with references (conformal risk control",
            cite.cite("risk-control"),
        ]
        out += [f"; {number(calibration.get('source'))}, factors {number(calibration.get('factors'))} by coverage)."]
    return out


def methods(record: Mapping[str, Any], classical: str | None = None) -> Html:
    """The paragraph and its list of papers.

    Args:
        record: content of the sidecar.
        classical: name of the classical solver that the page compares with.
    """
    cite = _References()
    versions = record.get("versions") or {}
    parts: list[object] = [*_data(record, cite), *_solver(record, cite)]
    if classical is not None:
        parts += [f" For comparison: {classical}", cite.cite(*SOLVER_PAPERS.get(classical, ())), "."]
    parts += [f" Software: medrecon {versions.get('medrecon', 'of unknown version')}"]
    if versions.get("torch"):
        parts += [f", PyTorch {versions['torch']}", cite.cite("pytorch")]
    if versions.get("monai") and versions["monai"] != "not installed":
        parts += [f", MONAI {versions['monai']}", cite.cite("monai")]
    return joined([el("p", *parts, "."), cite.listed()])
