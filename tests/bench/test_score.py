from sohes.bench.score import bench_score


def test_both_evaluators_agree_and_memory_does_not_grow_with_the_images():
    result = bench_score(reference=True, images=2, masks_per_image=30)
    assert result["AR"] == result["reference_AR"] > 0
    assert result["ratio"] > 0
    assert 0 < result["peak_mb"] < 4000
    many = bench_score(images=40, masks_per_image=30)
    assert many["peak_mb"] - result["peak_mb"] < 100
    assert "ratio" not in many
