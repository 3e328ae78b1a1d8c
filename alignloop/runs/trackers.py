"""Metrics to TensorBoard, trackio or Weights & Biases as well, for those who ask for it by `report_to`.

The run folder stays the record; a tracker gets what metrics.jsonl gets. Its package is imported here
and only when asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from alignloop.errors import UserError
from alignloop.io import plain

PROJECT = "alignloop"


class Tracker(Protocol):
    """Somewhere metrics go."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run folder's `tensorboard/`."""

    def __init__(self, path: Path, name: str, identity: str, config: Mapping[str, Any]) -> None:
        self._writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(
            log_dir=str(path / "tensorboard")
        )
        shown = "\n".join(f"    {key}: {value}" for key, value in config.items())
        self._writer.add_text("recipe", shown)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One scalar for each number."""
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class WandbLike:
    """wandb, and trackio, which has the same functions. A resumed run goes on under its own id."""

    def __init__(self, package: str, path: Path, name: str, identity: str, config: Mapping[str, Any]) -> None:
        self._package = _package(package, package)
        common: dict[str, Any] = {"project": PROJECT, "name": name, "config": dict(plain(dict(config)))}
        if package == "wandb":
            common |= {"dir": str(path), "id": identity[:32], "resume": "allow"}
        else:
            common |= {"resume": "allow"}
        self._run = self._package.init(**common)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """All numbers of a step."""
        self._package.log(_numbers(metrics), step=step)

    def close(self) -> None:
        """Send what is buffered."""
        self._package.finish()


_MAKERS: Mapping[str, Callable[[Path, str, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda *args: WandbLike("trackio", *args),
    "wandb": lambda *args: WandbLike("wandb", *args),
}


def open_tracker(kind: str, path: Path, name: str, identity: str, config: Mapping[str, Any]) -> Tracker:
    """A tracker of that kind.

    Args:
        kind: tensorboard, trackio or wandb.
        path: the run folder.
        name: of the run.
        identity: its fingerprint.
        config: its resolved recipe.

    Returns:
        The tracker, open.

    Raises:
        UserError: its package is not installed.
    """
    return _MAKERS[kind](path, name, identity, config)


def _package(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"report_to: {name} is not installed; pip install 'alignloop[track]'") from error


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {name: plain(value) for name, value in metrics.items()}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
