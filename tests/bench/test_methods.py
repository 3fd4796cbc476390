from sohes.bench.methods import bench_methods


def test_real_photographs_side_by_side(shared_data, repository):
    measured = bench_methods(
        shared_data / "pascal_part_18",
        benchmark="pascal_part",
        images=2,
        methods="sohes,threshold",
        params=repository / "params.yaml",
    )
    assert measured["name"] == "methods"
    rows = measured["methods"]
    assert list(rows) == ["sohes", "threshold"]
    assert rows["sohes"]["gain"] == 0
    assert rows["threshold"]["gain_low"] <= rows["threshold"]["gain"] <= rows["threshold"]["gain_high"]
