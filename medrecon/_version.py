"""The version of medrecon; importing it loads nothing else."""

__version__ = "0.3.0"
