"""A trained reward model, or an ensemble, ready to score texts, on a base of its own or the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.data.packing import Completion, Group
from alignloop.errors import ModelError
from alignloop.foreign import read_state
from alignloop.model.adapter_load import base_name, load_adapter
from alignloop.model.load import LoadedModel, find_folder, load_model
from alignloop.model.packed import PackedModel
from alignloop.model.scorer import HEAD_FILE, Scorer, load_head
from alignloop.model.tokenizer_load import load_tokenizer
from alignloop.rl.rewards import combined
from alignloop.stages import common

REWARD_FILE = "reward.json"


@dataclass(frozen=True, slots=True)
class Combination:
    """How many members a reward model has, and how their rewards become one (see `rl.rewards.combined`)."""

    members: int = 1
    combine: Literal["mean", "min", "uwo"] = "mean"
    uwo_coefficient: float = 0.5


class RewardFacts(TypedDict):
    """reward.json of an ensemble."""

    schema: int
    members: int
    combine: Literal["mean", "min", "uwo"]
    uwo_coefficient: float


class RewardModel:
    """A trained reward model that scores texts.

    Attributes:
        scorer: the member, or members, on their base.
        combination: how members become one reward.
        encoder: text to tokens, with the template it was trained with.
        shared: True if its weights are adapters on a policy's base.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        device: str = "auto",
        token_budget: int = 1024,
        base: common.Prepared | None = None,
    ) -> None:
        """Load a reward run or folder; on `base`, a LoRA policy, if it was trained from the same start.

        Raises:
            ModelError: no reward model there.
        """
        folder = reward_folder(path)
        self.combination = read_combination(folder)
        self.shared = base is not None and fits_on(folder, base)
        if base is not None and self.shared:
            self.scorer, model = _on(base, folder, self.combination.members), base.loaded.model
        elif base_name(folder) is not None:  # not merged, so that it scores as it does on a policy's base
            model = load_model(str(base_name(folder)), dtype=dtype, device=device).model
            self.scorer = _members(model, folder, self.combination.members)
        else:
            model = load_model(path, dtype=dtype, device=device).model
            head = load_head(folder).to(model.device)
            self.scorer = Scorer((PackedModel(model, head=head).eval(),))
        self.encoder = common.scoring_encoder(LoadedModel(model, load_tokenizer(folder), str(path), folder))
        self.token_budget = token_budget

    @property
    def num_members(self) -> int:
        """Members of the ensemble, 1 for a single model."""
        return len(self.scorer.members)

    def score(
        self, prompts: Sequence[Any], completions: Sequence[Sequence[str]], *, member: int | None = None
    ) -> list[list[float]]:
        """Rewards of K completions for each prompt (a conversation): all members' combination, or one's."""
        groups = [
            Group(
                self.encoder.prompt(p),
                tuple(Completion.counted(self.encoder.completion(t, p)) for t in texts),
                i,
            )
            for i, (p, texts) in enumerate(zip(prompts, completions, strict=True))
        ]
        if member is not None:
            scorer = self.scorer.only(member)
            return [scores[0].tolist() for scores in scorer.scores(groups, self.token_budget)]
        c = self.combination
        return [combined(s, c.combine, c.uwo_coefficient).tolist() for s in self.group_scores(groups)]

    def group_scores(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Rewards of tokenized completions by every member, float64 (M, K), in the order of the groups."""
        return [scores.double().numpy() for scores in self.scorer.scores(groups, self.token_budget)]


def reward_folder(path: str | Path) -> Path:
    """The folder with the head: `model/` of a run, or the folder itself.

    Raises:
        ModelError: it has no scalar head.
    """
    folder = find_folder(str(path))
    if folder is None or not (folder / HEAD_FILE).is_file():
        raise ModelError(
            f"'{path}' is no reward model: {HEAD_FILE} is missing (train one with stage 'reward')"
        )
    return folder


def read_combination(folder: Path) -> Combination:
    """What the folder's reward.json says; a single model has none.

    Raises:
        ModelError: the file is damaged.
    """
    if not (folder / REWARD_FILE).is_file():
        return Combination()
    facts = read_state(
        folder / REWARD_FILE, RewardFacts, remedy="train the reward model again", error=ModelError
    )
    return Combination(facts["members"], facts["combine"], facts["uwo_coefficient"])


def fits_on(folder: Path, base: common.Prepared) -> bool:
    """Whether a reward model is an adapter on the weights that a LoRA policy leaves as they are."""
    trained_on, own = base_name(folder), base.loaded.model.name_or_path
    if base.peft is None or not trained_on or not own:
        return False
    return trained_on == own or Path(trained_on).resolve() == Path(own).resolve()


def member_folders(folder: Path, members: int) -> list[Path]:
    """Where each member's adapter and head are."""
    return [folder, *(folder / f"member_{number}" for number in range(2, members + 1))]


def _members(model: Any, folder: Path, members: int) -> Scorer:
    """Adapters on a base that nobody else uses."""
    names = [f"reward_{number}" for number in range(1, members + 1)]
    peft = model
    for name, place in zip(names, member_folders(folder, members), strict=True):
        peft = load_adapter(peft, place, name=name)
    peft.eval().requires_grad_(False)
    return Scorer(_heads(model, folder, members), tuple(names), peft)


def _on(base: common.Prepared, folder: Path, members: int) -> Scorer:
    """Frozen adapters beside the policy's own."""
    peft = base.peft
    assert peft is not None
    taken = sum(name.startswith("reward_") for name in peft.peft_config)
    names = [f"reward_{taken + number}" for number in range(1, members + 1)]
    for name, place in zip(names, member_folders(folder, members), strict=True):
        load_adapter(peft, place, name=name)
    heads = _heads(base.loaded.model, folder, members, base.model)
    return Scorer(heads, tuple(names), peft)


def _heads(
    model: Any, folder: Path, members: int, like: PackedModel | None = None
) -> tuple[PackedModel, ...]:
    """A packed model for each member, run as `like` is; only the heads are new."""
    packed: list[PackedModel] = []
    for place in member_folders(folder, members):
        head = load_head(place).to(model.device).requires_grad_(False)
        known = like or (packed[0] if packed else None)
        shared, autocast = (known.shared_prefix, known.autocast) if known else (None, None)
        packed.append(PackedModel(model, head=head, shared_prefix=shared, autocast=autocast))
    return tuple(packed)
