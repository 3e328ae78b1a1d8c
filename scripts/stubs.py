"""Writes alignloop/config/methods.pyi: the configurations of methods, for type checkers and editors.

python scripts/stubs.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

from alignloop.config.methods import class_names, method_config
from alignloop.config.registry import find_stage
from alignloop.config.resolve import fields_model

STUB = Path(__file__).resolve().parent.parent / "alignloop" / "config" / "methods.pyi"
HEAD = """\
# Written by `python scripts/stubs.py` from the stages and their objectives.

from typing import Any, ClassVar, Literal

{imports}
from alignloop.config.resolve import Resolved
from alignloop.config.stages import StageConfig

class MethodConfig(StageConfig):
    stage_name: ClassVar[str]
    def resolved(self) -> Resolved: ...

def class_names() -> dict[str, str]: ...
def method_config(stage: str) -> type[Any]: ...
"""


def stub() -> str:
    """The stub's text."""
    classes, bases = [], {}
    for name, stage in class_names().items():
        spec = find_stage(stage)
        base = spec.config.__name__
        # `PPOConfig` is the name of a stage's configuration and of the method's
        bases[f"_{base}"] = f"from {spec.config.__module__} import {base} as _{base}"
        lines = [
            f"class {name}(_{base}, MethodConfig):",
            f'    """{method_config(stage).__doc__}',
            '    """',
            "",
        ]
        for key, field in fields_model(spec.objective, spec.preset).model_fields.items():
            lines.append(f"    {key}: {written(field.annotation)} = {field.default!r}")
            lines.append(f'    """{field.description}"""')
        classes.append("\n".join(lines))
    head = HEAD.format(imports="\n".join(sorted(bases.values(), key=str.lower)))
    return head + "\n" + "\n\n".join(classes) + "\n"


def written(annotation: Any) -> str:
    """A type as source code."""
    text = (
        annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    )
    return re.sub(r"\btyping\.", "", text)


if __name__ == "__main__":
    made = stub()
    if "--check" in sys.argv:
        sys.exit(
            STUB.read_text(encoding="utf-8") != made and f"{STUB.name} is old: run python scripts/stubs.py"
        )
    STUB.write_text(made, encoding="utf-8")
