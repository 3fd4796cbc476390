import os
import subprocess
import sys

PROGRAM = "import numpy as np; from sohes.masks.rle import compressed; compressed(np.array([2, 5]), 9); print('done')"


def test_compiling_is_announced_in_one_line_and_only_where_it_happens(tmp_path):
    said = []
    for _ in range(2):  # the second process finds the first one's work
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "done\n"
        said.append(done.stderr.splitlines())
    assert len(said[0]) == 1
    assert said[0][0].startswith("note: compiling functions, which takes up to a minute")
    assert said[1] == []
