"""Change params.yaml as a person would: its comments, order and long lines stay."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sohes.params import load_params
from sohes.params.schema import naming
from sohes.work.files import atomic_path


@contextmanager
def edited(source: Path, into: Path, schema: Path | None = None) -> Iterator[dict[str, Any]]:
    """The values of `source`, to be changed in place; written to `into` at the end. SohesError unless valid then.

    schema: the first line then names it, for editors.
    """
    load_params(source)  # a broken file is reported, not overwritten
    yaml = YAML()
    yaml.width = 4096  # keeps long lines as they are, and the next line a null
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    values = yaml.load(source)
    yield values
    text = io.StringIO()
    yaml.dump(values, text)
    with atomic_path(into) as temporary:
        temporary.write_text(text.getvalue() if schema is None else naming(schema, into, text.getvalue()), "utf-8")
        load_params(temporary)
