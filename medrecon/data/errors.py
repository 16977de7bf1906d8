"""The one exception for input that cannot be used."""

__all__ = ["InputError", "NotCartesianError"]


class InputError(ValueError):
    """Bad input, told in one sentence that names the file (or argument), what is wrong and what to do.

    The command line prints it and exits with code 2.
    """


class NotCartesianError(InputError):
    """Raw data off the grid, where Cartesian ones were asked for."""
