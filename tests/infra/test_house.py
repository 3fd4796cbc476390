from infra.docs import house


def test_the_picture_is_that_of_todays_code():
    assert house.PICTURE.read_text("utf-8") == house.draw(), "run python -m infra.docs.house"


def test_every_module_of_the_package_is_in_the_picture(repository):
    found = {
        path.stem
        for path in (repository / "sohes").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    drawn = {module for layer in house.layers() for module in layer}
    assert found - drawn <= {"__init__", "__pycache__"}
