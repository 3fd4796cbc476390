import os
import subprocess
import sys

import numpy as np

from sohes.work.compiled import compiled

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
    files += ["model/test_decode.py"]
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


def test_what_was_read_before_an_edit_is_not_kept_for_the_edited_file(tmp_path):
    source = "from sohes.work.compiled import compiled\n\n\n@compiled\ndef inner():\n    return {}\n\n\n"
    source += "@compiled\ndef outer():\n    return inner()\n"
    module = tmp_path / "edited.py"
    module.write_text(source.format(1))
    program = "import os, pathlib, sys; sys.path.insert(0, '.'); import edited\n"
    edit = f"module = pathlib.Path('edited.py'); module.write_text({source.format(2)!r}); os.utime(module, (1, 1))\n"
    said = []
    for change in (edit, ""):
        command = [sys.executable, "-c", program + change + "print(edited.outer())"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())
    assert said == ["1", "2"]


def test_a_function_may_call_itself_others_and_what_is_named_like_it():
    assert factorial(5) == 120
    assert [even(n) for n in (3, 4)] == [False, True]
    assert mean(np.arange(4.0)) == 1.5


@compiled
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


@compiled
def even(n):
    return not odd(n)


@compiled
def odd(n):
    return n % 2 == 1


@compiled
def mean(array):
    return array.mean()
