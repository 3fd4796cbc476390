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
    found = dict(re.findall(r"^`(seed)`, (.+): \d", page, re.MULTILINE))
    for section in page.split("## ")[1:]:
        title = section.partition("\n")[0]
        rows = re.findall(r"^\| `(\w+)` \|(.*?)(?<!\\)\|", section, re.MULTILINE)
        found |= {f"{title}.{key}": said.strip() for key, said in rows}
    return found


def test_every_parameter_has_a_row_that_says_what_it_is(meanings):
    assert sorted(meanings) == sorted(keys(Params))
    assert [key for key, said in meanings.items() if len(said.split()) < 2] == []


class Parent(Section):
    inherited: int  # said above
    replaced: int  # said above


class Child(Parent):
    replaced: int  # said below: a | b
    over_several_lines: tuple[
        int,  # the first
        str,  # and the second
    ]
    silent: int
    after: int  # not of the one before


def test_a_comment_belongs_to_the_whole_of_its_field():
    assert parameters.meanings(Child) == {
        "inherited": "said above",
        "replaced": "said below: a \\| b",
        "over_several_lines": "the first and the second",
        "silent": "",
        "after": "not of the one before",
    }
