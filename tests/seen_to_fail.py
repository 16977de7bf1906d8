"""Break a copy of the package in one place at a time and see that its suite fails.

    python tests/seen_to_fail.py [PART OF A FILE'S NAME ...]

Not collected by pytest: a few minutes. Every line is (file, what stands there, what is put there, suite). Exits with 1 if
a break goes unseen, or if the code has moved on and the text to break is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BREAKS = [
    ("operators/mri.py", "fresh.conj_physical_(), maps", "fresh, maps", "operators"),
    ("operators/fourier.py", "        c = n // 2", "        c = (n + 1) // 2", "operators"),
    (
        "operators/linalg.py",
        "t.resolve_conj() if t.is_complex()",
        "t.conj_physical() if t.is_complex() and t is a",
        "operators",
    ),
    ("operators/linalg.py", "step = torch.where(active, rs", "step = torch.where(active, rs.mean()", "operators"),
    ("operators/base.py", "self.outer.normal(self.inner(x))", "self.outer.normal(self.inner(2 * x))", "operators"),
    ("priors/nets.py", "return x - per_item(levels, x) * out", "return x + per_item(levels, x) * out", "priors"),
    ("priors/nets.py", "out=sigma * sigma_data", "out=2 * sigma * sigma_data", "priors"),
    ("training/objectives.py", "(x0 - c.skip * x) / c.out", "(x0 - x) / c.out", "priors"),
    ("training/objectives.py", "1000 * tau, noise - x0", "1000 * tau, x0 - noise", "priors"),
    ("training/objectives.py", "(1 - kept).sqrt() * noise, t", "(1 - kept) * noise, t", "priors"),
    ("operators/fourier.py", "n * zoom.clamp(max=1.0)", "n * zoom", "priors"),
    ("training/augment.py", "dipole = along / square.clamp(min=1e-12) - 1 / 3", "dipole = along", "priors"),
    ("priors/combine.py", "base + scale * (conditional(x, sigma) - base)", "scale * conditional(x, sigma)", "priors"),
    ("priors/combine.py", "repeat_interleave(x.shape[1])", "repeat(x.shape[1])", "priors"),
    ("data/trajectories.py", "turns = max(shape) / 2 /", "turns = max(shape) / 3 /", "operators"),
    ("data/trajectories.py", "samples // 2) / samples", "(samples - 1) / 2) / samples", "operators"),
    ("data/trajectories.py", "trains[:, 1::2].flip(2)", "trains[:, 1::2]", "operators"),
    ("data/trajectories.py", "1 - rise - (1 - t) ** 2", "1 - (1 - t) ** 2", "operators"),
    ("solvers/tomography.py", "_inverse(A.adjoint(", "torch.ones_like(x) / 9 + 0 * _inverse(A.adjoint(", "solvers"),
    ("solvers/tomography.py", "A.adjoint(rows * data", "A.adjoint(data", "solvers"),
    ("operators/base.py", "outer.nonnegative and", "True and", "solvers"),
    ("operators/base.py", "if t.layout == torch.sparse_csr", "", "operators/test_operators.py"),
    ("operators/ct.py", "y * sin[rays]) / cos[rays]", "y * sin[rays]) * cos[rays]", "operators"),
    ("operators/spectral.py", "c / torch.where(total > 0, total, 1.0)", "c * total", "operators"),
    ("operators/spectral.py", "per_item(rho, c) / singular)", "0.0)", "operators/test_precision.py"),
    ("operators/linalg.py", "(8 * torch.finfo(rs.dtype).eps) ** 2", "0.0", "operators/test_precision.py"),
    (
        "likelihood.py",
        'self._linear("fit").pinv(self.residual(x), n_iter, rho)',
        "self.A.solve(self.back - self.A.normal(x), rho)",
        "operators/test_precision.py",
    ),
    ("solvers/ddim.py", "(state - x0) / sigma, sigma", "(x0 - state) / sigma, sigma", "solvers"),
    ("handlers.py", "trainer.state.iteration = reached", "trainer.state.epoch = reached", "edge/test_training.py"),
    ("handlers.py", "Checkpoint.load_objects({", "dict({", "edge/test_training.py"),
    ("handlers.py", "if metric > self.metric:", "if True:", "edge/test_training.py"),
    ("handlers.py", "self.metric > -math.inf and", "", "edge/test_training.py"),
    (
        "engines.py",
        "labels[: len(x0) // copies].repeat",
        "labels[-len(x0) // copies :].repeat",
        "edge/test_training.py",
    ),
    ("data/files.py", "_second_name(path, old)", "os.replace(path, old)", "edge/test_data.py"),
    (
        "engines.py",
        "torch.where(drop, self.null, labels)",
        "torch.where(drop, labels, self.null)",
        "edge/test_training.py",
    ),
    ("inferers.py", "return 1000 * (x.view", "return 1000 * (x.mT.view", "edge/test_ct.py"),
    ("inferers.py", "offset * pitch * self.water", "-offset * pitch * self.water", "edge/test_ct.py"),
    ("solvers/base.py", "1 - (sigma_next / sigma) ** 2 if", "1.0 if", "solvers"),
    ("solvers/dds.py", "(state - x0) / sigma", "3 * (state - xe) / sigma", "solvers"),
    ("solvers/ddnm.py", "damping * data.A.pinv", "data.A.pinv", "solvers"),
    ("solvers/base.py", "size = dot(r, r).sqrt()", "size = dot(r, r).sqrt().mean().expand(len(r))", "solvers"),
    ("solvers/mgdm.py", "x = x + 2 * self.rho", "x = x - 2 * self.rho", "solvers"),
    ("operators/image.py", "d.roll(1, dim) - d", "d.roll(-1, dim) - d", "solvers"),
    ("solvers/classical.py", "(self.lam / size)", "(2 * self.lam / size)", "solvers"),
    ("likelihood.py", "rho = self.noise_std**2 / var", "rho = self.noise_std / var", "solvers"),
    ("noise.py", "generator=g,", "generator=self._streams[0],", "solvers"),
    ("sample.py", "if sigma_next > sigma:", "if sigma_next > 1e9:", "solvers"),
    ("operators/bridge.py", "import torch\n", "import torch\nimport medrecon.solvers\n", "test_house.py"),
    ("data/masks.py", "start = n // 2 - width // 2", "start = n // 2 - width // 2 + 1", "edge/test_data.py"),
    ("data/espirit.py", "max(threshold**2", "max(100 * threshold**2", "edge/test_data.py"),
    ("data/espirit.py", "_COVERED = 0.99", "_COVERED = 0.0", "edge/test_maps.py"),
    (
        "data/espirit.py",
        "return min(noise_std, estimate_noise_std(kspace, mask))",
        "return noise_std",
        "edge/test_maps.py",
    ),
    (
        "data/espirit.py",
        "kspace, noise_std = kspace * (1 / unit), noise_std / unit\n    calib",
        "calib",
        "edge/test_maps.py",
    ),
    ("inferers.py", "and self.misfit - noise > limit**2 * signal", "and False", "edge/test_maps.py"),
    ("inferers.py", "if not image.any() and holds_signal(k, believed)", "if False", "edge/test_maps.py"),
    ("transforms/save.py", "maps_source=self._maps_source(data)", "maps_source='ESPIRiT'", "edge/test_maps.py"),
    ("data/espirit.py", "values.max(), edge)", "values.max(), 0)", "edge/test_data.py"),
    ("data/files.py", "temporary.unlink(missing_ok=True)", "pass", "edge/test_data.py"),
    ("operators/spectral.py", "c @ self.right.conj()", "c @ self.right.mT", "operators"),
    ("operators/spectral.py", "u[:, :k][:, :rank]", "u[:, :k][:, :rank].flip(1)", "operators"),
    ("operators/image.py", ".roll([-(k // 2) for k in sides], self.dims)", "", "operators"),
    ("operators/image.py", "n // 2 - m // 2 / zoom", "0 * zoom", "operators"),
    ("operators/nufft.py", "values = values * (1 - 2 * (near.long() % 2))", "pass", "operators/test_nufft.py"),
    ("operators/nufft.py", "integral**2", "integral", "operators/test_nufft.py"),
    ("data/ismrmrd.py", "np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine", "affine", "edge/test_ismrmrd.py"),
    ("data/ismrmrd.py", "samples = samples[:, ::-1]", "samples = samples[:]", "edge/test_ismrmrd.py"),
    ("data/ismrmrd.py", "dwell if dwell > 0 and own > 0", "own if dwell > 0 and own > 0", "edge/test_ismrmrd.py"),
    ("data/coils.py", "mixtures[i] = left @ right @ mixtures[i]", "pass", "edge/test_coils.py"),
    ("data/espirit.py", "(n // 2) / n for n in shape", "0.0 for n in shape", "edge/test_data.py"),
    ("solvers/base.py", "t < 0.5, t.clamp(min=0.0), 1.0", "t < 0.0, t, 1.0", "solvers/test_methods.py"),
    (
        "solvers/classical.py",
        "size > limit, p * (limit",
        "size > 2 * limit, p * (2 * limit",
        "solvers/test_classical.py",
    ),
    (
        "transforms/coils.py",
        "(x.shape[axis] // 2 - middle.shape[axis] // 2)",
        "(x.shape[axis] - middle.shape[axis]) / 2",
        "edge/test_simulate.py",
    ),
    ("operators/ct.py", "quarters + k + same", "quarters - k + same", "operators/test_ct.py"),
    ("operators/ct.py", "rot90(-k, (-2, -1)) for part", "rot90(k, (-2, -1)) for part", "operators/test_ct.py"),
    ("operators/ct.py", "samples[0] = 0.25", "samples[0] = 0.24", "operators/test_ct.py"),
    ("operators/ct.py", "angles[:, None] - gamma", "angles[:, None] + gamma", "operators/test_ct.py"),
    ("operators/ct.py", "(gaps + gaps.roll(1)) / 2", "gaps.mean().expand_as(gaps)", "operators/test_ct.py"),
    ("operators/ct.py", "height = t * v[rays, None]", "height = v[rays, None]", "operators/test_ct.py"),
    (
        "operators/motion.py",
        "cos * y + sin * x, cos * x - sin * y",
        "cos * y - sin * x, cos * x + sin * y",
        "operators/test_motion.py",
    ),
    (
        "operators/base.py",
        "else torch.view_as_complex(parts.contiguous())",
        "else fn(t)",
        "operators/test_operators.py",
    ),
    ("operators/base.py", "return ctx.inverse(grads[0]), None", "return grads[0], None", "operators/test_motion.py"),
    ("operators/nonlinear.py", "torch.sgn(self.A(x)) * v", "self.A(x) * v", "operators/test_nonlinear.py"),
    ("likelihood.py", "torch.special.i1e(z) / torch.special.i0e(z)", "1.0", "test_likelihood.py"),
    ("likelihood.py", "share * self.y - primary", "self.y - primary", "test_likelihood.py"),
    ("priors/combine.py", "_mix(turn.mT, out)", "_mix(turn, out)", "priors"),
    ("priors/combine.py", "roll([-n for n in shifts]", "roll([n for n in shifts]", "priors"),
    ("priors/combine.py", "one(x[i : i + 1], value, value)", "one(x[i : i + 1], value, values[0])", "priors"),
    ("priors/combine.py", "chance.random() < 0.5]", "False]", "priors"),
    ("solvers/dds.py", "self.level * sigma)", "sigma)", "solvers"),
    ("priors/combine.py", "levels / math.sqrt(factor)", "levels / factor", "priors"),
    ("networks.py", "seen.transpose(1, 2).flatten(2)", "seen.flatten(2).view_as(tokens)", "priors"),
    (
        "engines.py",
        "zlib.crc32(image.contiguous().numpy().tobytes(), self.seed)",
        "self.seed + len(pairs)",
        "edge/test_training.py",
    ),
    ("solvers/r2d2.py", "kept - 2 * self.guidance", "kept + 2 * self.guidance", "solvers/test_methods.py"),
    ("solvers/sitcom.py", "2 * self.lam / (1", "-2 * self.lam / (1", "solvers/test_methods.py"),
    ("solvers/dps.py", "(n * (1 + sigma", "(6 * (1 + sigma", "solvers/test_solvers.py"),
    ("solvers/mcg.py", "(n * (1 + sigma", "(6 * (1 + sigma", "solvers/test_solvers.py"),
    ("solvers/lgd.py", "(state[0].numel() * (1", "(6 * (1", "solvers/test_solvers.py"),
    ("solvers/reddiff.py", "sigma * z, sigma) - z", "sigma * z, 1.005 * sigma) - z", "solvers/test_methods.py"),
    (
        "solvers/base.py",
        "(1 - step_size) * sigma) ** 2, 0.0)",
        "(1 - step_size) * target) ** 2, 0.0)",
        "solvers/test_methods.py",
    ),
    ("solvers/scoremri.py", "sigma_next, 1.0, noise)", "sigma_next, 1.0, noise) * 1.01", "solvers/test_methods.py"),
    ("solvers/ddrm.py", "(self.eta_b * n) ** 2", "n**2", "solvers/test_methods.py"),
    ("solvers/pc.py", "2 * e - (e / sigma) ** 2 if", "2 * e if", "solvers/test_methods.py"),
    ("solvers/pc.py", "e = per_item(2 * snr**2", "e = per_item(snr**2", "solvers/test_methods.py"),
    ("operators/ct.py", "/ 2 / counts)[which]", "/ 2)[which]", "operators/test_bad_input.py"),
    ("data/dicom.py", "order = np.argsort(places", "order = np.argsort(-places", "edge/test_dicom.py"),
    ("data/dicom.py", "right * pixel[1], down * pixel[0]", "right * pixel[0], down * pixel[1]", "edge/test_dicom.py"),
    ("data/dicom.py", 'frame.get("RescaleSlope")', 'frame.header.get("RescaleType")', "edge/test_dicom.py"),
    ("data/dicom.py", "affine[:, [1, 0, 2, 3]]  # nibabel", "affine  # nibabel", "edge/test_dicom.py"),
    ("data/dicom.py", "max(0.02 * float(np", "max(9 * float(np", "edge/test_dicom.py"),
    ("data/dicom.py", "(scale[0] or 1.0)", "scale[0]", "edge/test_volumes.py"),
    ("data/dicom.py", "and key in first", "and key in ()", "edge/test_volumes.py"),
    ("data/dicom.py", "            damaged += errors", "            raise errors[0]", "edge/test_volumes.py"),
    ("data/stacks.py", "for k in _ORDER), n,", "for k in _ORDER), -n,", "edge/test_volumes.py"),
    ("data/stacks.py", "*(_key(f.get(k)) for k in _ORDER), ", "", "edge/test_volumes.py"),
    ("data/stacks.py", "if _irregular(found, where)", "if False", "edge/test_volumes.py"),
    ("data/stacks.py", "return right / np.linalg.norm(right)", "return cosines[:3]", "edge/test_volumes.py"),
    ("data/nifti.py", 'order="F"', 'order="C"', "edge/test_volumes.py"),
    ("data/nifti.py", 'int(stored["xyzt_units"]) & 7', 'int(stored["xyzt_units"])', "edge/test_volumes.py"),
    (
        "writers/dicom.py",
        "(float(sides[1]), float(sides[0])), float",
        "(float(sides[0]), float(sides[1])), float",
        "edge/test_dicom.py",
    ),
    ("writers/dicom.py", "lps @ [0, 0, k, 1]", "lps @ [0, 0, k + 1, 1]", "edge/test_dicom.py"),
    (
        "writers/dicom.py",
        "source = deidentified(like) if deidentify",
        "source = list(like) if deidentify",
        "edge/test_dicom.py",
    ),
    ("data/nifti.py", "affine[:3] *= unit", "pass", "edge/test_images.py"),
    ("data/nifti.py", "np.pi / 4096", "np.pi / 4095 * 2", "edge/test_images.py"),
    ("writers/formats.py", "nx // 2, ny // 2, k, 1", "0, 0, k, 1", "edge/test_images.py"),
    ("data/noncartesian.py", "sizes[1], 3)[..., ::-1]", "sizes[1], 3)", "edge/test_noncartesian.py"),
    ("data/ismrmrd.py", "np.stack(points)[..., ::-1]", "np.stack(points)", "edge/test_noncartesian.py"),
    ("data/ismrmrd.py", "readout = slice(before", "readout = slice(0 * before", "edge/test_noncartesian.py"),
    ("data/twix.py", "siemens=True", "siemens=False", "edge/test_siemens.py"),
    ("data/epi.py", "shift * (linear - points)", "shift * (points - linear)", "edge/test_epi.py"),
    ("data/epi.py", "half = 0.5j if", "half = -0.5j if", "edge/test_epi.py"),
    ("data/epi.py", "resampling(-points[used]", "resampling(points[used]", "edge/test_epi.py"),
    ("data/epi.py", 'if at < head["scan_counter"]', "if at >= 0", "edge/test_epi.py"),
    ("data/epi.py", "lines[beside].mean(axis=0)", "lines[beside[0]]", "edge/test_epi.py"),
    ("data/epi.py", "t**2 / 2)", "t / 2)", "edge/test_epi.py"),
    ("data/epi.py", "factors.conj()", "factors", "edge/test_epi.py"),
    ("data/ismrmrd.py", "data * np.float32(gain)", "data", "edge/test_epi.py"),
    ("data/ismrmrd.py", "scan.field[0], scan.siemens", "scan.field[0], True", "edge/test_epi.py"),
    ("data/ismrmrd.py", "extra = straightened(extra, *args).rows", "pass", "edge/test_epi.py"),
    ("data/twix.py", "mode == 4", "False", "edge/test_epi.py"),
    ("data/ismrmrd.py", "-1, -1, -1 if scan.shape[2] > 1 else 1", "-1, -1, 1", "edge/test_siemens.py"),
    ("data/ismrmrd.py", "-1, -1, -1 if scan.shape[2] > 1 else 1", "-1, -1, -1", "edge/test_siemens.py"),
    ("data/ismrmrd.py", 'or "").lower()', 'or "")', "edge/test_siemens.py"),
    ("data/twix.py", "imaging[0][1])", "imaging[0][1]) + 1", "edge/test_twix.py"),
    ("data/sinogram.py", "(counts - dark) / open_beam", "counts / open_beam", "edge/test_ct.py"),
    ("data/masks.py", "low, high = (middle, high)", "low, high = (middle, high - 1)", "edge/test_simulate.py"),
    ("prep/runner.py", 'f"{seed}:{subject}".encode(', 'f"{seed}:{id(subject)}".encode(', "edge/test_prep.py"),
    ("prep/shards.py", 'if row["case"] in packed:', "if False:", "edge/test_prep.py"),
    ("prep/runner.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "edge/test_prep.py"),
    (
        "prep/runner.py",
        "if row is None:\n                split",
        "if True:\n                split",
        "edge/test_prep.py",
    ),
    ("prep/cases.py", 'facts["Modality"] != modality', 'facts["Modality"] == "XX"', "edge/test_prep.py"),
    (
        "data/kspace.py",
        'image = np.fft.ifft2(kspace, norm="ortho")',
        'image = np.fft.fft2(kspace, norm="ortho")',
        "edge/test_prep.py",
    ),
    ("prep/runner.py", "if row is None:  # its worker", "if False:  # its worker", "edge/test_prep.py"),
    ("prep/shards.py", 'replace("%", "%25").', "", "edge/test_prep.py"),
    ("data/ismrmrd.py", '+= int(head["discard_post"]) - before', "+= 0", "edge/test_ismrmrd.py"),
    ("data/ismrmrd.py", "                centre = own\n", "", "edge/test_scans.py"),
    ("data/ismrmrd.py", "if siemens and n > 1 else", "if n > 1 else", "edge/test_scans.py"),
    ("data/ismrmrd.py", "shape[0], field[0], kept = n, wide, n", "pass", "edge/test_scans.py"),
    ("data/ismrmrd.py", "& ((before == n // 2) | (after == n - n // 2))", "", "edge/test_scans.py"),
    ("data/ismrmrd.py", "abs(wide / narrow * n / nx - 1) > 0.01", "False", "edge/test_scans.py"),
    ("data/ismrmrd.py", "field[2] = deep / max(", "_ = deep / max(", "edge/test_scans.py"),
    ("data/ismrmrd.py", "if gridded and _is_stripped", "if _is_stripped", "edge/test_scans.py"),
    ("data/ismrmrd.py", "if len(images) > 1:", "if False:", "edge/test_scans.py"),
    ("data/ismrmrd.py", "== coils and own != labels", "== coils and False", "edge/test_scans.py"),
    ("data/centre.py", "away[peak] < SEVERAL", "away[peak] < 1", "edge/test_scans.py"),
    ("data/centre.py", "smooth[peak] < _ABOVE_NOISE * np.median", "smooth[peak] < 0 * np.median", "edge/test_scans.py"),
    ("data/centre.py", "> _MIRRORED * smooth[peak]", "> 9 * smooth[peak]", "edge/test_scans.py"),
    ("data/centre.py", "smooth[peak] < _CLEAR * smooth[near].max()", "False", "edge/test_scans.py"),
    ("data/header.py", "deep = recon if encoded.matrix[2] == 1", "deep = recon if False", "edge/test_scans.py"),
    ("data/header.py", 'if name == "encodedSpace" or not columns_kept:', "if True:", "edge/test_scans.py"),
    ("data/header.py", "if rows != encoded.matrix[0] or", "if", "edge/test_scans.py"),
    (
        "data/kspace.py",
        "fitted(data.header, data.kspace.shape[2:], data.spacing, own)",
        "data.header",
        "edge/test_scans.py",
    ),
    ("data/ismrmrd.py", 'if name in ("contrast", "set") or same.any()', "if False", "edge/test_ismrmrd.py"),
    ("data/dicom.py", "element.tag.is_private or", "", "edge/test_dicom.py"),
    ("writers/__init__.py", "if _is_ours(path)}\n", "}\n", "edge/test_dicom.py"),
    ("writers/dicom.py", "deepcopy(element)", "element", "edge/test_dicom.py"),
    (
        "solvers/base.py",
        "data.A.normal(x0) - data.back if light",
        "data.A.normal(x0) + data.back if light",
        "solvers/test_solvers.py",
    ),
    ("operators/mri.py", "* self.weight).flatten(1)", "* 2 * self.weight).flatten(1)", "operators/test_operators.py"),
]


def main() -> int:
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "checkpoints"))
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        for name, old, new, suite in BREAKS:
            if sys.argv[1:] and not any(part in name for part in sys.argv[1:]):
                continue
            path = copy / "medrecon" / name
            text = path.read_text()
            if old not in text:
                print(f"GONE    {name}: {old!r}")
                unseen += 1
                continue
            path.write_text(text.replace(old, new, 1))
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", str(copy / "tests" / suite)]
            out = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            path.write_text(text)
            test = next((line.split()[1] for line in out.stdout.splitlines() if line.startswith("FAILED")), "?")
            seen = out.returncode == 1
            unseen += not seen
            print(f"{'seen' if seen else 'UNSEEN'}    {name}: {old!r} -> {new!r}: {test if seen else ''}", flush=True)
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main())
