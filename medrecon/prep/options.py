"""Options of :func:`medrecon.prep.prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medrecon.data.errors import InputError

__all__ = ["DatasetOptions", "RunOptions"]


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What the prepared data set looks like.

    Args:
        split: fractions of ``train``, ``val`` and ``test``, in this order; their sum is 1.
        seed: random seed of the split and of the recipe's random transforms.
        shard_bytes: approximate size of a shard, bytes.
        key: file with the key of the pseudonyms, created if missing; default: the key in the user's settings.

    Raises:
        InputError: for fractions that cannot be used.
    """

    split: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    shard_bytes: int = 1 << 30
    key: str | Path | None = None

    def __post_init__(self) -> None:
        are_fractions = all(0 <= fraction <= 1 for fraction in self.split)
        if not 1 <= len(self.split) <= 3 or not are_fractions or abs(sum(self.split) - 1) > 1e-6:
            raise InputError(
                "a split is one to three fractions whose sum is 1, such as .8/.1/.1; got "
                + "/".join(map(str, self.split))
            )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a data set is prepared; none of these options changes what is written.

    Args:
        workers: number of processes.
        dask: address of a dask scheduler whose workers see the same folders; replaces ``workers``.
        timeout: time limit of a case, s, plus the same for each 16 MB of its files.
        retry: whether to try again files whose reader crashed or hung.

    Raises:
        InputError: for numbers that cannot be used.
    """

    workers: int = 1
    dask: str | None = None
    timeout: float = 60.0
    retry: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"the number of workers must be at least 1; got {self.workers}")
        if not self.timeout > 0:
            raise InputError(f"the time limit must be more than 0 s; got {self.timeout}")
