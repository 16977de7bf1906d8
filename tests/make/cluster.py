"""A cluster of dask.distributed in a process of its own."""

import subprocess
import sys
from contextlib import contextmanager

__all__ = ["cluster"]

_CODE = """
import time
from distributed import LocalCluster
if __name__ == '__main__':
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=':0') as cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(600)
"""


@contextmanager
def cluster(folder):
    """Its process, killed at the end, and its address."""
    (folder / "cluster.py").write_text(_CODE)
    command = [sys.executable, str(folder / "cluster.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
