from sohes.bench.launch import bench_launch


def test_the_launcher_adds_less_than_three_tenths_of_a_second():
    result = bench_launch(rounds=3, lines=50)
    assert set(result) == {"bare_seconds", "launched_seconds", "overhead_seconds"}
    assert 0 < result["bare_seconds"]
    assert abs(result["overhead_seconds"]) < 0.3
