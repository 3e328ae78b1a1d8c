"""Save and restore an unfinished generation so that it continues bit for bit.

The keys and values are saved with the tokens: running the tokens through the model anew, in another
batch, would change the last bits of log-probs and now and then a token. The restored scheduler has
the same rows in the same places, so every later step computes the same numbers (on the same
machine, with the same number of threads).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from alignloop.errors import RunError
from alignloop.model.kv import Cell, Layer, Pool, Prefix
from alignloop.model.sampling import SamplingParams
from alignloop.model.scheduler import Request, RequestGroup, Scheduler

FORMAT = 2


def is_ours(meta: Mapping[str, Any]) -> bool:
    """Whether a saved state has this version's format."""
    return meta.get("format") == FORMAT


def state_dict(scheduler: Scheduler) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The unfinished part of a generation between two steps.

    Returns:
        What JSON can hold, and tensors by name, for safetensors. Completions that ended are not in
        it: their events were returned.
    """
    pools = list(scheduler.pools.values())
    tensors: dict[str, Tensor] = {}
    for number, pool in enumerate(pools):
        used = 1 + max(prefix.slot for prefix in pool.prefixes)
        for index, layer in pool.layers.items():
            for field in fields(Layer):
                tensors[f"pool.{number}.{index}.{field.name}"] = getattr(layer, field.name)[:used].clone()
    for group in scheduler.groups.values():
        if group.logits is not None:
            tensors[f"logits.{group.number}"] = group.logits.clone()
    meta = {
        "format": FORMAT,
        "next_number": scheduler.next_number,
        "groups": [_group_state(group, pools) for group in scheduler.groups.values()],
        "pools": [
            {"key": p.key, "slots": p.slots, "width": p.width, "own_capacity": p.own_capacity} for p in pools
        ],
        "running": [(row.group.number, row.index) for row in scheduler.running],
    }
    return meta, tensors


def load_state_dict(scheduler: Scheduler, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Continue a saved generation in a new scheduler with the same model, tokenizer and arguments.

    Raises:
        RunError: a state of another format, or a scheduler that already has requests.
    """
    if not is_ours(meta):
        raise RunError(f"generation state: format {meta.get('format')!r} found, {FORMAT} needed")
    if scheduler.next_number:
        raise RunError("generation state: the scheduler already has requests")
    device = scheduler.model.device
    pools = [_pool_of(number, state, tensors, device) for number, state in enumerate(meta["pools"])]
    scheduler.pools = {pool.key: pool for pool in pools}
    for state in meta["groups"]:
        scheduler.next_number = state["number"]
        scheduler.add(_request_of(state))
        logits = tensors.get(f"logits.{state['number']}")
        group = scheduler.groups[state["number"]]
        group.logits = None if logits is None else logits.to(device)
        group.given_logprobs = list(state.get("given_logprobs", ()))
        _restore_group(scheduler, group, state, pools)
    rows = {(row.group.number, row.index): row for g in scheduler.groups.values() for row in g.rows}
    scheduler.running = [rows[number, index] for number, index in meta["running"]]
    scheduler.next_number = meta["next_number"]


def _group_state(group: RequestGroup, pools: list[Pool]) -> dict[str, Any]:
    prefix = group.prefix
    return {
        "number": group.number,
        "prompt": list(group.request.prompt),
        "params": asdict(group.request.params),
        "seeds": list(group.request.seeds),
        "num_best": group.request.num_best,
        "given": list(group.request.given),
        "given_logprobs": group.given_logprobs,
        "waiting": list(group.waiting),
        "place": None if prefix is None else (pools.index(prefix.pool), prefix.slot),
        "rows": [
            {
                "index": row.index,
                "ids": list(row.ids),
                "logprobs": list(row.logprobs),
                "column": row.cell.column,
            }
            for row in group.rows
            if row.cell is not None
        ],
    }


def _pool_of(number: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor], device: Any) -> Pool:
    capacity, width = state["key"]
    pool = Pool(capacity, width)
    pool.slots, pool.width, pool.own_capacity = state["slots"], state["width"], state["own_capacity"]
    layers = sorted({int(name.split(".")[2]) for name in tensors if name.startswith(f"pool.{number}.")})
    for index in layers:
        stored = [tensors[f"pool.{number}.{index}.{field.name}"].to(device) for field in fields(Layer)]
        roomy = [x.new_zeros(pool.slots, *x.shape[1:]) for x in stored]
        for room, saved in zip(roomy, stored, strict=True):
            room[: len(saved)] = saved
        pool.layers[index] = Layer(*roomy)
    return pool


def _request_of(state: Mapping[str, Any]) -> Request:
    params, best = _params_of(state["params"]), state.get("num_best", 0)
    return Request(tuple(state["prompt"]), params, tuple(state["seeds"]), best, tuple(state.get("given", ())))


def _params_of(state: Mapping[str, Any]) -> SamplingParams:
    eos = state["eos"]
    changed = {"stop": tuple(state["stop"]), "eos": None if eos is None else tuple(eos)}
    return SamplingParams(**{**state, **changed})


def _restore_group(
    scheduler: Scheduler, group: RequestGroup, state: Mapping[str, Any], pools: list[Pool]
) -> None:
    waiting = deque(state["waiting"])
    group.waiting = deque(row["index"] for row in state["rows"])
    if state["place"] is not None:
        number, slot = state["place"]
        group.prefix = Prefix(pools[number], slot, len(state["prompt"]))
        pools[number].prefixes.append(group.prefix)
        scheduler.reserved += group.prefix.length
        for saved in state["rows"]:
            row = scheduler.begin(group)
            row.ids, row.logprobs = list(saved["ids"]), list(saved["logprobs"])
            row.cell = Cell(group.prefix, saved["column"], len(row.ids) - 1)
            group.prefix.cells.append(row.cell)
            if row.stream is not None:
                row.stream.replay(row.ids)
    group.waiting = waiting
