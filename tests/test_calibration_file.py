"""Calibration files: what they hold for, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from medrecon.calibration_file import (
    Calibration,
    choose,
    encode,
    matching,
    read_calibrations,
    settings_of,
    settings_sha256,
)
from medrecon.data.errors import InputError
from medrecon.reconstruction import plan
from medrecon.record import planned_settings

from .make.toys import cartesian, columns, noncartesian, sinogram, spec

RECORD = {
    "solver": {"name": "dds", "gamma": None, "n_cg": 10, "prior_weight": 10.0, "calibrated": False},
    "bundle": {"name": "brain_mri", "version": "0.3.5", "weights_sha256": "ab"},
    "steps": 50, "sigma_max": 4.0, "sigma_min": 0.005, "start": None, "condition": None, "guidance": None,
    "symmetries": {"flip": [-1], "shift": 16, "phase": True}, "samples": 8, "particles": None, "modality": "MR",
    "acceleration": 8.0, "seed": 0, "device": "cpu", "network_dtype": "bfloat16", "versions": {"medrecon": "0.3.0"},
}  # fmt: skip
"""Part of a sidecar of version 0.3, without ``settings_sha256``."""
FACTORS = {0.5: 1.0, 0.6827: 1.5, 0.8: 2.0, 0.9: 3.0, 0.95: 4.0}


def calibration(record=RECORD, **more):
    return Calibration(
        settings=settings_of(record), acceleration=record["acceleration"], images=20, factors=FACTORS,
        discs={3.0: FACTORS}, **more,
    )  # fmt: skip


def digest(**changes):
    return settings_sha256(settings_of({**RECORD, **changes}))


@pytest.mark.parametrize(
    "change",
    [
        {"solver": {**RECORD["solver"], "name": "ddnm"}},
        {"solver": {**RECORD["solver"], "n_cg": 11}},
        {"solver": {**RECORD["solver"], "new": 1}},
        {"bundle": None},
        {"bundle": {**RECORD["bundle"], "weights_sha256": "cd"}},
        {"bundle": {**RECORD["bundle"], "name": "other"}},
        {"steps": 51},
        {"sigma_max": 4.1},
        {"sigma_min": 0.01},
        {"start": "cg-sense"},
        {"condition": "T1"},
        {"guidance": 2.0},
        {"symmetries": {}},
        {"samples": 9},
        {"samples": 10**400},  # JSON has such numbers
        {"particles": {"number": 8, "ess": []}},
        {"modality": "CT"},
        {"coil_images": "ssos"},
        {"noise_model": "poisson"},
        {"beam": "fan"},
        {"shots": 12},
        {"task": "denoise"},
        {"frame_axis": "phase"},
        {"volume": True},
        {"joint_maps": True},
        {"motion": {"shots": 8}},
    ],
    ids=str,
)
def test_the_digest_changes_with_every_setting_of_the_spread(change):
    assert digest(**change) != digest()


def test_the_digest_does_not_change_with_anything_else():
    """Seed, device, number format, version of the program, what the solver promises, and the particles' weights."""
    others = {
        "seed": 3,
        "device": "cuda",
        "network_dtype": "float32",
        "versions": {},
        "acceleration": 4.0,
        "noise_std": 1.0,
    }
    assert digest(**others) == digest()
    assert digest(solver={**RECORD["solver"], "calibrated": True}) == digest()
    assert digest(bundle={**RECORD["bundle"], "version": "9"}) == digest()
    assert digest(particles={"number": 8, "ess": [1]}) == digest(particles={"number": 8, "ess": [2]})
    # Whole numbers and tuples of Python, which JSON stores otherwise.
    assert digest(sigma_max=4, symmetries={"flip": (-1,), "shift": 16.0, "phase": True}) == digest()
    assert digest(symmetries={"flip": [-1], "shift": 16, "phase": 1}) != digest()


def moving():
    scan = cartesian(mask=columns(), noise=0.01)[0]
    return replace(scan, shots=np.where(scan.mask, np.arange(scan.mask.size).reshape(scan.mask.shape) % 3, -1))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: cartesian(mask=columns(), noise=0.01)[0], {}),
        (lambda: cartesian(mask=columns(), noise=0.01)[0], {"coil_images": "ssos", "solver": "scoremri"}),
        (lambda: cartesian(mask=columns(), noise=0.01)[0], {"solver": "tds", "particles": 4}),
        (lambda: cartesian(mask=columns(), noise=0.01)[0], {"start": "cg-sense", "start_sigma": 0.1}),
        (lambda: noncartesian(cartesian(noise=0.01, slices=1)[0]), {}),
        (lambda: sinogram("parallel"), {"image_size": 32, "bundle": spec("attenuation")}),
        (lambda: sinogram("fan"), {"image_size": 32, "bundle": spec("attenuation")}),
        (lambda: cartesian(mask=columns(acs=3), noise=0.01)[0], {}),
        (lambda: cartesian(mask=columns(acs=3), noise=0.01)[0], {"solver": "tds", "particles": 4, "maps": "auto"}),
        (moving, {"correct_motion": True}),
    ],
    ids=[
        "k-space", "coil images", "particles", "warm start", "trajectory", "sinogram", "fan beam", "joint maps", "first maps",
        "motion",
    ],
)  # fmt: skip
def test_settings_before_a_run_are_those_of_its_record(make, options):
    made = plan(make(), **{"bundle": spec(), "steps": 3, "samples": 2, "condition": None, **options})
    settings, acceleration = planned_settings(made.problem, made.prior, made.sampling)
    record = json.loads(json.dumps(made.run().record))  # as the sidecar stores it
    assert record["settings_sha256"] == settings_sha256(settings) == settings_sha256(settings_of(record))
    assert record.get("acceleration") == acceleration
    assert record["calibration"] is None


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: cartesian(mask=columns(acs=15), noise=0.01, slices=1)[0], {"maps": "joint"}),
        (moving, {"correct_motion": True}),
    ],
    ids=["joint maps", "motion"],
)
def test_estimated_parameters_leave_calibrations_of_known_ones_out(make, options, tmp_path):
    """A given file is refused, that of a bundle is not used, and what the solver promises for known parameters is not said."""
    common = {"steps": 120, "samples": 2, "sigma_max": 8.0, "solver": "tmpd", "settings": {"n_cg": 20}}
    scan, prior = make(), spec()
    known = plan(scan, bundle=prior, maps="espirit", **common)
    settings, acceleration = planned_settings(known.problem, known.prior, known.sampling)
    made = Calibration(settings=settings, acceleration=acceleration, images=20, factors=FACTORS)
    (tmp_path / "cal.json").write_bytes(encode([made]))
    prior = replace(prior, calibrations=(made,))
    again = plan(scan, bundle=prior, maps="espirit", **common)
    assert again.sampling.calibration is made and "std" in known.maps
    blind = plan(scan, bundle=prior, **common, **options)
    assert blind.sampling.calibration is None and "std" not in blind.maps
    differs = "joint maps" if "maps" in options else "motion"
    with pytest.raises(InputError, match=f"of other runs \\({differs} is none there and True here"):
        plan(scan, bundle=prior, calibration=tmp_path / "cal.json", **common, **options)


def test_a_file_is_read_as_it_was_written(tmp_path):
    both = [calibration(check={"before": {"pixels": {"0.9": 0.6}}}), calibration({**RECORD, "acceleration": None})]
    both.append(calibration({**RECORD, "joint_maps": True, "motion": {}, "volume": True, "z_correlation": 1.5}))
    (tmp_path / "cal.json").write_bytes(encode(both))
    read = read_calibrations(tmp_path / "cal.json")
    assert [replace(one, source="", sha256="") for one in read] == both
    assert read[0].source == "cal.json"
    assert read[0].record() == {
        "source": "cal.json", "factors": {"0.5": 1.0, "0.6827": 1.5, "0.8": 2.0, "0.9": 3.0, "0.95": 4.0}, "images": 20,
        "acceleration": 8.0, "sha256": read[1].sha256,
    }  # fmt: skip


def test_accelerations_match_within_five_percent_and_the_nearest_is_chosen():
    near, far = calibration(), calibration({**RECORD, "acceleration": 8.3})
    settings = settings_of(RECORD)
    assert matching([far, near], settings, 8.05) is near
    assert matching([far, near], settings, 8.6) is far
    assert matching([near], settings, 8.39) is near
    for acceleration in (8.41, 7.6, None):
        assert matching([near], settings, acceleration) is None
    assert matching([near], settings_of({**RECORD, "samples": 9}), 8.0) is None
    assert matching([calibration({**RECORD, "acceleration": None})], settings, None) is not None


@pytest.mark.parametrize(
    ("change", "acceleration", "text"),
    [
        ({"samples": 4}, 8.0, "samples is 8 there and 4 here"),
        ({"solver": {"name": "daps", "n_ode": 1}}, 8.0, "solver is dds there and daps here"),
        ({"solver": {**RECORD["solver"], "n_cg": 7}}, 8.0, "solver.n_cg is 10 there and 7 here"),
        ({"bundle": {**RECORD["bundle"], "weights_sha256": "cd"}}, 8.0, "weights sha256 is ab there and cd here"),
        ({}, 4.0, "acceleration is 8 there and 4 here"),
        ({"samples": 4, "steps": 3, "start": "tv", "sigma_min": 1.0, "sigma_max": 2.0}, 4.0, "and 2 more"),
    ],
)
def test_a_calibration_of_other_runs_is_refused_with_what_differs(tmp_path, change, acceleration, text):
    path = tmp_path / "cal.json"
    other = calibration({**RECORD, "solver": {"name": "tv"}, "bundle": None, "steps": 1, "samples": 1, "start": "x"})
    path.write_bytes(encode([other, calibration()]))
    with pytest.raises(InputError, match="is a calibration of other runs") as error:
        choose(path, settings_of({**RECORD, **change}), acceleration)
    assert text in str(error.value)
    assert str(path) in str(error.value)
    assert choose(path, settings_of(RECORD), 8.0).images == 20


# Hostile files


def changed(path, value):
    """The content of a file with the value at a path of keys changed, or removed if it is ``...``."""
    entries = json.loads(encode([calibration()]))
    at = entries[0]
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(entries)


HOSTILE = {
    "not JSON": ("{", "is not a calibration file"),
    "binary": (b"\xff\xfe\x00", "is not a calibration file"),
    "empty": ("", "is not a calibration file"),
    "a mapping": ("{}", "is not a list"),
    "an empty list": ("[]", "is not a list"),
    "a number": ("3", "is not a list"),
    "entries that are numbers": ("[1]", "has 1 as an entry"),
    "deep": ("[" * 100_000, "is not a calibration file"),
    "deep settings": (changed(["settings", "steps"], 0).replace('"steps": 0', '"steps": ' + "[" * 400 + "]" * 400), "SHA-256"),
    "large": ("[" + " " * 2**20 + "]", "is larger than"),
    "NaN": (changed(["factors", "0.9"], float("nan")), "NaN is not a number"),
    "infinite": (changed(["factors", "0.9"], float("inf")), "Infinity is not a number"),
    "overflow": (changed(["factors", "0.9"], 0).replace('"0.9": 0', '"0.9": 1e999', 1), "1e999 is too large"),
    "negative": (changed(["factors", "0.5"], -1.0), "must be a number from 0"),
    "zero": (changed(["factors"], {"0.6827": 0, "0.9": 0.0}), "of 0, so that intervals would be empty"),
    "huge integer": (changed(["settings", "steps"], 10**400), "differ from their SHA-256"),
    "huge": (changed(["factors", "0.95"], 10**9), "must be a number from 0"),
    "digits": (changed(["images"], 0).replace('"images": 0', '"images": ' + "9" * 5000), "is not a calibration file"),
    "text": (changed(["factors", "0.9"], "3"), "must be a number from 0"),
    "boolean": (changed(["factors", "0.9"], True), "must be a number from 0"),
    "null": (changed(["factors", "0.9"], None), "must be a number from 0"),
    "a list": (changed(["factors"], [1, 2]), "must be names and values"),
    "no level of 90 %": (changed(["factors", "0.9"], ...), "lacks the level 0.9 of pixels"),
    "no level of 68 %": (changed(["factors", "0.6827"], ...), "lacks the level 0.6827 of pixels"),
    "another level": (changed(["factors", "0.85"], 2.5), "has the level '0.85'"),
    "a level twice": (changed(["factors", "0.90"], 3.5), "has the level 0.9 of pixels twice"),
    "a key twice": (encode([calibration()]).replace(b'"images"', b'"acceleration"'), "a name is given twice"),
    "falling": (changed(["factors", "0.5"], 3.5), "fall with the level"),
    "disc": (changed(["discs", "3"], {"0.9": float("-inf")}), "is not a number"),
    "disc of text": (changed(["discs", "x"], {"0.9": 1.0}), "must be a number"),
    "missing": (changed(["images"], ...), "lacks 'images'"),
    "no images": (changed(["images"], 0), "must be a whole number above 0"),
    "unknown": (changed(["code"], "__import__('os')"), "has the unknown key 'code'"),
    "no settings": (changed(["settings"], {}), "has settings without"),
    "no solver": (changed(["settings", "solver"], 3), "must be names and values"),
    "edited": (changed(["settings", "samples"], 9), "differ from their SHA-256"),
    "no SHA-256": (changed(["settings_sha256"], ...), "differ from their SHA-256"),
    "acceleration": (changed(["acceleration"], 0), "must be a number from 0.01"),
    "check": (changed(["check"], 3), "must be names and values"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(kind, tmp_path):
    content, text = HOSTILE[kind]
    path = tmp_path / "cal.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_calibrations(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert text in message
    assert "give a file of 'medrecon calibrate'" in message
    assert len(message) < 400 + len(str(path))
    assert "\n" not in message


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(InputError, match="give a file of 'medrecon calibrate'"):
            read_calibrations(path)
