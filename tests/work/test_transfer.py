import numpy as np
import torch

from sohes.work.transfer import to_device, to_host

CPU = torch.device("cpu")


def test_arrays_there_and_back():
    arrays = [np.arange(6).reshape(2, 3), np.zeros((0, 4), np.int64), np.array(7)]
    back = to_host([to_device(CPU, array) for array in arrays], np.int64)
    for array, found in zip(arrays, back, strict=True):
        assert (found.shape, found.dtype) == (array.shape, np.int64)
        np.testing.assert_array_equal(found, array)


def test_tensors_of_two_kinds_share_one_copy_and_its_type():
    whole, half = to_host([torch.tensor([3]), torch.tensor([0.5])], np.float32)
    assert (whole.dtype, whole.tolist(), half.tolist()) == (np.float32, [3.0], [0.5])
