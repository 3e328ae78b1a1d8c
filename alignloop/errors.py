"""Every exception AlignLoop raises on purpose.

    AlignLoopError
    ├── UserError               wrong input or settings: one sentence, exit code 2
    │   ├── DataError           a row or file of a data set; names file:line, field, value, expectation
    │   ├── ConfigError         a recipe key or value; may carry several findings at once
    │   ├── ModelError          a model folder, tokenizer or chat template that cannot be used
    │   └── RunError            an output folder that belongs to another run, a damaged checkpoint
    │       └── DiskError       a full disk, a used-up quota, a folder that is not writable
    ├── NonFiniteError          loss or gradient became NaN or infinite: exit code 3
    └── EngineError             a reward function, endpoint or worker failed: exit code 4

The command line prints the sentence and ends with the exit code.
"""

from __future__ import annotations

from collections.abc import Sequence


class AlignLoopError(Exception):
    """Base of all; `exit_code` is what the command line exits with."""

    exit_code: int = 1


class UserError(AlignLoopError):
    """Input or settings that a person has to change."""

    exit_code = 2


class DataError(UserError):
    """One fault in a data set.

    Arguments:
        message: what is wrong and what is accepted, one sentence.
        file: path of the file, or a hub id.
        line: 1-based line (row number for .json, .csv and .parquet), 0 if the whole file is meant.
        field: the field at fault, or "".
        value: the value found, or None.
        reason: a short stable key such as `empty_completion`, by which dropped rows are counted.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        line: int = 0,
        field: str = "",
        value: object = None,
        reason: str = "invalid",
    ) -> None:
        self.message, self.file, self.line, self.field = message, file, line, field
        self.value, self.reason = value, reason
        super().__init__(str(self))

    def at(self, file: str, line: int) -> DataError:
        """The same fault with the place where it is."""
        return DataError(
            self.message, file=file, line=line, field=self.field, value=self.value, reason=self.reason
        )

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        parts = [p for p in (where, f"field '{self.field}'" if self.field else "") if p]
        if self.value is not None:
            shown = repr(self.value)
            parts.append(f"value {shown if len(shown) <= 80 else shown[:77] + '...'}")
        return ": ".join([*parts, self.message])


class ConfigError(UserError):
    """One or more faults in a recipe, each a line such as `dpo.yaml:12: unknown key 'lerning_rate'`."""

    def __init__(self, findings: str | Sequence[str]) -> None:
        self.findings = [findings] if isinstance(findings, str) else list(findings)
        super().__init__("\n".join(self.findings))


class ModelError(UserError):
    """A model, adapter, tokenizer or chat template that cannot be used as asked."""


class RunError(UserError):
    """A run folder that cannot be used: another run's, locked, or without an intact checkpoint."""


class DiskError(RunError):
    """A file could not be written; what was written before is whole."""


class NonFiniteError(AlignLoopError):
    """Loss or gradient is NaN or infinite; the message names the step and the rows."""

    exit_code = 3


class EngineError(AlignLoopError):
    """Something outside the trainer failed: reward function, endpoint, worker."""

    exit_code = 4


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
