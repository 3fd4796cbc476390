from sohes.data.benchmarks import partimagenet


def test_image_id_zero_and_annotation_id_zero_do_no_harm(sample):
    first, second = partimagenet.read_benchmark(sample("partimagenet"))
    assert (first.image_id, len(first.masks), second.image_id, len(second.masks)) == (0, 1, 1, 1)


def test_the_folder_above_is_understood_too(sample, tmp_path):
    root = sample("partimagenet")
    (tmp_path / "PartImageNet_Seg").mkdir()
    root.rename(tmp_path / "PartImageNet_Seg/PartImageNet")
    assert len(list(partimagenet.read_benchmark(tmp_path / "PartImageNet_Seg"))) == 2
