from pathlib import Path

import pytest

from sohes.work import identity as module
from sohes.work.identity import code_digest, identity, source_files


def test_an_identity_changes_with_any_part_and_not_with_the_order_of_keys():
    assert identity({"a": 1, "b": [2, None]}) == identity({"b": [2, None], "a": 1})
    assert identity({"a": 1}) != identity({"a": 2})
    assert identity("a\udcff") != identity("a")  # a file name that is not UTF-8


def test_imports_count_at_any_distance_inside_functions_and_not_for_type_checkers():
    files = source_files(["sohes.evaluate.phases"])
    assert "sohes.explore.local" in files  # phase 1's, by an import inside a function
    assert "sohes.model.decode" in files
    assert "sohes.viewer.server" not in files
    assert "sohes.errors" not in files  # its words change no mask
    assert not [name for name in files if name.startswith("sohes.params")]  # they count by value
    assert all(path.is_file() for path in files.values())
    assert "sohes.model.decode" not in source_files(["sohes.evaluate.phases"], ignore=["sohes.model"])


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls `code_digest` as if a file of the package had other contents."""

    def digest(edit: str, *modules: str) -> str:
        def files(names):
            found = source_files(names)
            if edit in found:
                copy = tmp_path / "edited.py"
                copy.write_bytes(found[edit].read_bytes() + b"\n")
                found[edit] = copy
            return found

        code_digest.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(module, "source_files", files)
            return code_digest(*modules)

    yield digest
    code_digest.cache_clear()


# What each sharded command names as the code that its shards are made by.
CODE = {
    "pull": ("sohes.stages.pull",),
    "explore": ("sohes.stages.explore",),
    "evaluate": ("sohes.evaluate.phases",),
    "label": ("sohes.commands.label",),
    "results": ("sohes.evaluate.phases",),
}


@pytest.mark.parametrize(
    ("command", "module", "counts"),
    [
        ("pull", "sohes.data.scenes.families", True),
        ("pull", "sohes.explore.local", False),
        ("explore", "sohes.explore.local", True),
        ("explore", "sohes.data.store.images", True),
        ("explore", "sohes.model.decode", False),
        ("evaluate", "sohes.explore.local", True),
        ("evaluate", "sohes.model.decode", True),
        ("label", "sohes.explore.local", True),
        ("label", "sohes.viewer.server", False),
        ("results", "sohes.explore.local", True),
    ],
)
def test_an_edit_counts_where_the_code_is_used(edited, command, module, counts):
    assert (edited(module, *CODE[command]) != edited("nothing", *CODE[command])) is counts
