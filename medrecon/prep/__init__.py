"""Preparing data sets: cases found, transformed, written in shards, by any number of workers, again and again if need be."""

from medrecon.prep.cases import Case, dicom_series, files
from medrecon.prep.recipes import find_recipe, load_recipe
from medrecon.prep.runner import Report, prepare
from medrecon.prep.shards import LoadPreparedd, prepared

__all__ = [
    "Case",
    "LoadPreparedd",
    "Report",
    "dicom_series",
    "files",
    "find_recipe",
    "load_recipe",
    "prepare",
    "prepared",
]
