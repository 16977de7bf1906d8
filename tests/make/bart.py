"""Files of BART."""

import numpy as np


def write_cfl(base, array):
    base.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    array.astype(np.complex64).tofile(base.with_suffix(".cfl"))
