"""Time of the multicoil operator against sigpy's ``Sense``, interleaved in one run; medians in ms, and the ratio.

python benchmarks/operators.py
"""

from __future__ import annotations

import time

import numpy as np
import torch
from sigpy.mri.linop import Sense

from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.operators import MulticoilMRI


def main() -> None:
    print("| coils, matrix | operation | medrecon | sigpy | ratio |\n|---|---|---|---|---|")
    for coils, n in ((8, 320), (15, 256)):
        maps = loop_coils((n, n), coils)
        mask = undersampling_mask((n, n), "gaussian1d", 4, 24, 0)
        ours = MulticoilMRI(torch.from_numpy(maps)[None], torch.from_numpy(mask)[None, None, None])
        theirs = Sense(maps, weights=np.broadcast_to(mask, (n, n)).astype(np.float32))
        rng = np.random.default_rng(0)
        image = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))).astype(np.complex64)
        x = torch.from_numpy(image)[None, None]
        y, kspace = ours(x), theirs(image)
        back, normal = theirs.H, theirs.H * theirs
        rows = (
            ("forward", ours, x, theirs, image),
            ("adjoint", ours.adjoint, y, back, kspace),
            ("normal", ours.normal, x, normal, image),
        )
        for name, *calls in rows:
            a, b = (calls[0](calls[1]), calls[2](calls[3]))
            assert np.abs(np.squeeze(a.numpy()) - np.squeeze(b)).max() < 1e-4
            times = {0: [], 2: []}
            for _ in range(25):
                for k, samples in times.items():
                    start = time.perf_counter()
                    calls[k](calls[k + 1])
                    samples.append(1000 * (time.perf_counter() - start))
            fast, slow = (float(np.median(t)) for t in times.values())
            print(f"| {coils} x {n} x {n} | {name} | {fast:.2f} | {slow:.1f} | {slow / fast:.1f} |", flush=True)


if __name__ == "__main__":
    main()
