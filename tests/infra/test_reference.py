"""The page of parameters says of each one what it is."""

import re
from collections.abc import Iterator

import pytest

from infra.docs import parameters
from sohes.params import Params, Section


def keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted names of all parameters of a section and of those inside it."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.fixture(scope="module")
def meanings() -> dict[str, str]:
    """What the page says of each parameter, by dotted name."""
    page = parameters.reference()
    found = dict(re.findall(r"^`(seed)`: (.+) \d", page, re.MULTILINE))
    for section in page.split("## ")[1:]:
        title = section.partition("\n")[0]
        rows = re.findall(r"^\| `(\w+)` \|(.*?)(?<!\\)\|", section, re.MULTILINE)
        found |= {f"{title}.{key}": said.strip() for key, said in rows}
    return found


def test_every_parameter_has_a_row_that_says_what_it_is(meanings):
    assert sorted(meanings) == sorted(keys(Params))
    assert [key for key, said in meanings.items() if len(said.split()) < 2] == []


def test_what_a_field_is_comes_from_the_model_and_may_hold_a_bar():
    class Parent(Section):
        inherited: int
        """Said above."""
        replaced: int
        """Said above."""

    class Child(Parent):
        replaced: int
        """Said below: a | b."""

    table = parameters._section("made-up", Child, {"here": {"inherited": 1, "replaced": 2}})
    assert table[-3:-1] == ["| `inherited` | Said above. | `1` |", "| `replaced` | Said below: a \\| b. | `2` |"]
