"""The reference says of every parameter and every command what it is."""

import re
from collections.abc import Iterator

import pytest

from infra.docs import reference
from sohes import cli
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
    page = reference.parameters()
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

    table = reference._section("made-up", Child, {"here": {"inherited": 1, "replaced": 2}})
    assert table[-3:-1] == ["| `inherited` | Said above. | `1` |", "| `replaced` | Said below: a \\| b. | `2` |"]


def test_every_command_is_there_with_its_help_and_every_option():
    sections = dict(re.findall(r"^### sohes (\S+)\n(.*?)(?=^##|\Z)", reference.commands(), re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(cli.COMMANDS)
    for name, text in sections.items():
        command = cli.load(name)
        assert cli.COMMANDS[name][2] in text
        assert f"```bash\n{command.help.rpartition('xample: ')[2].strip()}\n```" in text
        rows = re.findall(r"^\| `(.+)` \| (.+) \|$", text, re.MULTILINE)
        for option in command.params:
            for word in (*option.opts, *option.secondary_opts):
                if option.param_type_name == "option":
                    assert [what for words, what in rows if word in re.split(r"[ ,/]+", words)], f"{name} {word}"
        assert len(rows) == len(command.params)
