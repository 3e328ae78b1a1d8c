"""Models of the hub, fetched into the hub's own cache with a bar and a sentence."""

from __future__ import annotations

import os
import sys

import httpx
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from alignloop.errors import ModelError, first_line
from alignloop.machine import process_rank

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What is read of a repository: pickled weights are not."""
_DOUBLES = ("consolidated*", "original/*", "onnx/*", "*/*.safetensors")
"""The same weights in other programs' forms."""


def fetch_hub_model(name: str) -> None:
    """Have a hub model's files in the hub's cache; what is there is not asked for again.

    Args:
        name: owner/name.

    Raises:
        ModelError: the hub has no such model, does not give it, or cannot be reached.
    """
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelError(
            f"model '{name}': no such folder here, it is not in the hub's cache, and HF_HUB_OFFLINE is set"
        )
    if process_rank() == 0:
        print(f"{name}: fetched from the hub once, into its cache", file=sys.stderr)
    silent = are_progress_bars_disabled()
    enable_progress_bars()
    try:
        snapshot_download(name, allow_patterns=list(_FILES), ignore_patterns=list(_DOUBLES))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model '{name}': no such folder here, and the hub has no such model (or only for those who sign "
            "in: set HF_TOKEN)"
        ) from error
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"model '{name}': no such folder here, and the hub does not give it ({first_line(error)}); the "
            "next call goes on with what has come"
        ) from error
    finally:
        if silent:
            disable_progress_bars()
