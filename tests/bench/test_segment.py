from pathlib import Path

import pytest
import yaml

from sohes.bench.segment import bench_segment
from sohes.errors import SohesError


def test_the_whole_command_is_measured(tiny_model: Path, tiny_params: dict, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    measured = bench_segment(model=tiny_model, params=tmp_path / "params.yaml", repeats=1, reference=True)
    assert measured["name"] == "segment"
    assert 0 < measured["reference_cpu_seconds"]
    assert measured["ratio"] == pytest.approx(
        measured["reference_cpu_seconds"] / measured["cpu_seconds_median"], abs=0.01
    )
    assert 100 < measured["peak_mb"] < 4000


def test_a_failed_command_is_reported_with_its_last_line(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SohesError, match=r"sohes segment .* failed: sohes: no trained model at .*nowhere"):
        bench_segment(model=tmp_path / "nowhere.safetensors", params=repository / "params.yaml", repeats=1)
