"""The command of a report, parsed by the command line, gives the options of the run."""

import shlex
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from medrecon.bundle import load_prior
from medrecon.cli.arguments import build_parser
from medrecon.cli.options import settings_from
from medrecon.reconstruction import plan
from medrecon.record import plain_options
from medrecon.report.command import _flags, command
from medrecon.settings import OPTION_GROUPS, CartesianPhysics, ImagePhysics, SamplingSettings, TomographyPhysics

from ..make.toys import cartesian, columns, sinogram, spec

OPTIONS = {
    "k-space": (
        lambda: cartesian(mask=columns())[0],
        {"solver": "dps", "samples": 3, "seed": 7, "steps": 5, "slices": slice(-1, None), "settings": {"zeta": 0.5}},
    ),
    "several settings": (
        lambda: cartesian(mask=columns())[0],
        {"settings": {"gamma": None, "n_cg": 3, "kernel": "ddnm"}},
    ),
    "condition": (lambda: cartesian(mask=columns())[0], {"bundle": "brain_mri", "quality": "fast", "noise_std": 0.25}),
    "compressed": (lambda: cartesian(mask=columns())[0], {"compress": 3, "map_sets": "1", "coil_images": "sense"}),
    "sinogram": (lambda: sinogram("parallel"), {"image_size": 32, "voxel": 1.5, "water": 0.019, "solver": "tv"}),
    "warm start": (lambda: cartesian(mask=columns())[0], {"start": "cg-sense", "start_sigma": 0.5}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_gives_the_same_options(name):
    make, options = OPTIONS[name]
    planned = plan(make(), **options)
    recorded = dict(planned.sampling.options)
    text = command({"options": recorded, "input": "scan 1.h5"})
    words = shlex.split(text)
    assert words[:5] == ["medrecon", "recon", "scan 1.h5", "-o", "out"]
    parsed = settings_from(build_parser().parse_args(words[1:]), OPTION_GROUPS)
    again = plan(make(), **parsed)
    assert dict(again.sampling.options) == recorded
    assert torch.equal(again.sampling.sigmas, planned.sampling.sigmas)
    same = {"sigmas": planned.sampling.sigmas}
    assert replace(again.sampling, **same) == planned.sampling


def test_defaults_are_not_recorded():
    assert plan(cartesian(mask=columns())[0]).sampling.options == {}
    given = plan(cartesian(mask=columns())[0], solver="dds", samples=1, seed=0, settings={}, condition="", chunk=None)
    assert given.sampling.options == {}


def test_folders_are_not_recorded():
    """Names of folders may be names of patients."""
    physics = CartesianPhysics(maps="/home/Doe_Jane/maps.npy", mask=np.ones(8, bool), slices=slice(2, None))
    assert plain_options(physics) == {"maps": "maps.npy", "mask": "array (8,)", "slices": "2:"}
    assert plain_options(CartesianPhysics(maps="C:\\Doe\\maps.npy")) == {"maps": "maps.npy"}


def test_a_prior_is_recorded_by_its_name():
    scan = cartesian(mask=columns())[0]
    assert plan(scan, bundle=spec()).sampling.options == {"bundle": "toy"}
    assert plan(scan, bundle=load_prior("brain_mri")).sampling.options == {"bundle": "brain_mri"}


@pytest.mark.parametrize(
    ("physics", "words"),
    [
        (ImagePhysics(region=[5, 40, 3, 30]), ["--region=5:40,3:30"]),
        (ImagePhysics(task="superres", factor=[2, 3]), ["--task=superres", "--factor=2,3"]),
        (CartesianPhysics(whiten=True), ["--whiten"]),
        (CartesianPhysics(slices=slice(None, -2)), ["--slices=:-2"]),
        (TomographyPhysics(photons=1e5), ["--photons=100000.0"]),
    ],
)
def test_forms_of_the_command_line(physics, words):
    text = command({"options": plain_options(physics), "input": "a"})
    assert shlex.split(text)[5:] == words
    parsed = settings_from(build_parser().parse_args(shlex.split(text)[1:]), OPTION_GROUPS)
    assert plain_options(type(physics)(**parsed)) == plain_options(physics)


@pytest.mark.parametrize("options", [{"chunk": 3}, {"sigma_max": 3.0}, {"mask": "array (8,)"}, {"unknown": 1}])
def test_options_of_python_have_no_command(options):
    assert command({"options": options, "input": "a.h5"}) is None


def test_a_record_of_an_earlier_version_has_no_command():
    assert command({"input": "a.h5"}) is None


def test_the_command_is_quoted():
    record = {
        "options": {"bundle": "a b; rm -rf *", "select": {"SeriesDescription": "$(x) 'y'"}},
        "input": "-rf `x`.h5",
    }
    words = shlex.split(command(record))
    assert (
        words[2] == "./-rf `x`.h5"
        and "--bundle=a b; rm -rf *" in words
        and "--select=SeriesDescription=$(x) 'y'" in words
    )


def test_frames_and_format_are_part_of_the_command():
    record = {"options": {}, "input": "cine.mrd", "frame_axis": "phase", "files": ["cine.h5"]}
    words = shlex.split(command(record))
    assert {"--dynamic=phase", "--format=h5"} <= set(words)
    arguments = build_parser().parse_args(words[1:])
    assert (arguments.dynamic, arguments.format) == ("phase", "h5")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.nii.gz", "a_samples.nii.gz"], []), (["a/0001.dcm"], ["--format=dicom"]), (["a.h5"], ["--format=h5"]),
        (["a.mrd"], ["--format=mrd"]), (["a.npz"], ["--format=npz"]), (["a_001.png"], ["--format=png"]),
        (["a.nii.gz", "a.html"], ["--report"]),
    ],
)  # fmt: skip
def test_the_format_follows_from_the_files(files, words):
    assert shlex.split(command({"options": {}, "input": "a.h5", "files": files}))[5:] == words


def test_sampling_settings_of_every_kind_have_a_flag_or_none():
    """No option of the settings is forgotten by the command."""
    names = {one.name for kind in OPTION_GROUPS.values() for one in fields(kind)} | {
        one.name for one in fields(SamplingSettings)
    }
    assert names <= set(_flags())
