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


def test_compiled_functions_stay_within_their_arrays(repository, tmp_path):
    """Without the check, what lies beyond an array is read or written, and the process may die of it much later."""
    files = ["masks/test_packed.py", "masks/test_rle.py", "masks/test_stretch.py"]
    files += ["explore/refine/test_guided.py", "explore/refine/test_lattice.py", "evaluate/test_matching.py"]
    checked = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in files)]
    done = subprocess.run(command, cwd=repository, env=checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def test_numba_is_imported_when_the_first_function_is_called():
    program = "import sys; from sohes.masks import packed; print('numba' in sys.modules); "
    program += "import numpy as np; ones = packed.pack(np.ones((2, 3, 4), bool), size=(3, 4)); "
    program += "print(packed.intersections(ones).tolist(), 'numba' in sys.modules)"  # three functions call each other
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "[[12, 12], [12, 12]] True"]
