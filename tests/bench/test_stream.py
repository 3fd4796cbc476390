import pytest

from sohes.bench.stream import bench_stream
from sohes.errors import SohesError


def test_workers_help_until_the_gpu_is_busy():
    result = bench_stream(gpu_seconds=0.3, cpu_seconds=0.3, most=8)
    assert result.keys() == {"name", "workers", "images_per_second", "gpu_busy", "enough"}
    assert result["workers"] == [1, 2, 4, 8]
    # One works half of the time for each; the GPU alone would do 3.3 images a second.
    one, two, four, _ = result["images_per_second"]
    assert 1 < one < 1.8
    assert two > 1.3 * one
    assert two < 3.6
    assert four < 3.6
    assert result["enough"] in (2, 4)
    assert result["gpu_busy"][0] < 0.6 < result["gpu_busy"][3] < 1.1


def test_where_the_cores_are_what_is_scarce_every_worker_helps():
    result = bench_stream(gpu_seconds=0.001, cpu_seconds=1, calls=1, most=4)
    assert result["enough"] == 0
    assert 2 < result["images_per_second"][2] < 4.5


@pytest.mark.parametrize("options", [{"gpu_seconds": 0}, {"cpu_seconds": -1}, {"calls": 0}, {"most": 0}])
def test_what_cannot_be_simulated_is_one_sentence(options):
    with pytest.raises(SohesError, match="must be positive"):
        bench_stream(**options)
