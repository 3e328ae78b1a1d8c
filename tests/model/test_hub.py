"""Models of the hub: what is said before they come, and when they do not."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled

from alignloop.errors import ModelError
from alignloop.model.hub import fetch_hub_model
from alignloop.model.load import load_model


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub that can be reached; `raises` is what it answers."""
    seen: dict[str, Any] = {"raises": None}

    def snapshot(name: str, **options: Any) -> str:
        seen.update(options, name=name, bars=not are_progress_bars_disabled())
        if seen["raises"] is not None:
            raise seen["raises"]
        return ""

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("alignloop.model.hub.snapshot_download", snapshot)
    return seen


def test_a_model_comes_with_a_bar(asked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    fetch_hub_model("someone/model")
    assert asked["name"] == "someone/model"
    assert asked["bars"]
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])
    assert "someone/model: fetched from the hub once" in capsys.readouterr().err


def test_why_a_model_does_not_come(asked: dict[str, Any]) -> None:
    response = httpx.Response(404, request=httpx.Request("GET", "http://127.0.0.1/"))
    asked["raises"] = RepositoryNotFoundError("gone", response=response)
    with pytest.raises(ModelError, match="the hub has no such model"):
        fetch_hub_model("someone/model")
    asked["raises"] = httpx.ConnectError("name resolution failed")
    with pytest.raises(ModelError, match=r"does not give it \(name resolution failed\)"):
        fetch_hub_model("someone/model")


def test_offline_says_so() -> None:
    with pytest.raises(ModelError, match="not in the hub's cache, and HF_HUB_OFFLINE is set"):
        load_model("someone/model-that-is-nowhere")
