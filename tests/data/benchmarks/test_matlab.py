from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sohes.data.benchmarks import matlab
from sohes.errors import SohesError


def saved(**variables: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a.mat"
    path.write_bytes(saved(groundTruth={"a": np.eye(3), "b": "x"}, other=np.arange(4)))
    return path


def test_a_struct_is_a_dictionary(file):
    found = matlab.read(file, "groundTruth", what="a file of groundTruth")
    assert found["b"] == "x"
    np.testing.assert_array_equal(found["a"], np.eye(3))


def test_a_missing_variable_or_file_is_a_sentence(file, tmp_path):
    with pytest.raises(SohesError, match=r"a\.mat is not a file of parts: .*anno"):
        matlab.read(file, "anno", what="a file of parts")
    with pytest.raises(SohesError, match=r"none\.mat is not a file of parts"):
        matlab.read(tmp_path / "none.mat", "anno", what="a file of parts")


def test_whatever_byte_is_damaged_the_next_file_is_read(file, tmp_path):
    """Some of these end SciPy's reader with a segmentation fault."""
    sound, damaged = saved(groundTruth={"a": np.eye(3), "b": "x"}), tmp_path / "damaged.mat"
    crashes = 0
    for place in (144, 224, 225, 256):
        for value in (0, 5, 128, 255):
            damaged.write_bytes(sound[:place] + bytes([value]) + sound[place + 1 :])
            try:
                matlab.read(damaged, "groundTruth", what="a file of groundTruth")
            except SohesError as error:
                crashes += "it is damaged" in str(error)
    assert crashes, "no file ended the reader: choose others"
    assert matlab.read(file, "other", what="").tolist() == [0, 1, 2, 3]
