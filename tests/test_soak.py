"""A small soak; `make soak` is the long one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_memory_time_and_open_files_stay_as_they_are():
    done = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "tools/soak.py", "100", "500"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    print("\n" + done.stdout)
    assert done.returncode == 0 and done.stdout.count("files left open 0, threads 0") == 2, done.stdout + done.stderr
