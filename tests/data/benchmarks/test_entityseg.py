from sohes.data.benchmarks import entityseg
from sohes.masks import areas


def test_every_segment_is_an_entity_and_together_they_cover_the_image(sample):
    first, second = entityseg.read_benchmark(sample("entityseg"))
    assert first.file_name != second.file_name  # of one stem, in two folders
    assert areas(first.masks).sum() == 6 * 8
    assert first.masks.sources == ("entityseg",) * 2
