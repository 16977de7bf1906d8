"""Preparing data sets: find cases, transform them, and write them to shards; a run that was stopped can be continued."""

from medrecon.prep.cases import Case, dicom_series, files
from medrecon.prep.options import DatasetOptions, RunOptions
from medrecon.prep.recipes import find_recipe, load_recipe
from medrecon.prep.runner import Report, prepare
from medrecon.prep.shards import LoadPreparedd, load_manifest

__all__ = [
    "Case",
    "DatasetOptions",
    "LoadPreparedd",
    "Report",
    "RunOptions",
    "dicom_series",
    "files",
    "find_recipe",
    "load_manifest",
    "load_recipe",
    "prepare",
]
