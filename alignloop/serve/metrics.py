"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alignloop.serve.served import ServedModel

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(slots=True)
class Histogram:
    """Durations in seconds by upper bound."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BUCKETS_S))
    total: int = 0
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.total, self.sum_s = self.total + 1, self.sum_s + seconds
        for place, bound in enumerate(BUCKETS_S):
            self.counts[place] += seconds <= bound

    def lines(self, name: str) -> list[str]:
        """The histogram's lines."""
        bounds = zip(BUCKETS_S, self.counts, strict=True)
        return [
            f"# TYPE {name} histogram",
            *(f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in bounds),
            f'{name}_bucket{{le="+Inf"}} {self.total}',
            f"{name}_sum {self.sum_s:.6f}",
            f"{name}_count {self.total}",
        ]


@dataclass(slots=True)
class Metrics:
    """Counts of one server; touched by the event loop only."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    disconnects: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)

    def text(self, served: Sequence[ServedModel]) -> str:
        """All of it, with the engines' numbers."""
        lines = ["# TYPE alignloop_requests_total counter"]
        for (path, status), count in sorted(self.answers.items()):
            lines.append(f'alignloop_requests_total{{path="{path}",status="{status}"}} {count}')
        lines += ["# TYPE alignloop_disconnects_total counter"]
        lines += [f"alignloop_disconnects_total {self.disconnects}"]
        engines = {one.policy.name: one.engine for one in served}
        for name, kind, values in (
            ("prompt_tokens_total", "counter", {m: e.counts.prompt_tokens for m, e in engines.items()}),
            (
                "completion_tokens_total",
                "counter",
                {m: e.counts.completion_tokens for m, e in engines.items()},
            ),
            ("engine_busy_seconds_total", "counter", {m: e.counts.busy_s for m, e in engines.items()}),
            ("cancelled_total", "counter", {m: e.counts.cancelled for m, e in engines.items()}),
            ("open_requests", "gauge", {m: e.num_open for m, e in engines.items()}),
            ("running_completions", "gauge", {m: e.num_running for m, e in engines.items()}),
            ("stored_tokens", "gauge", {m: e.stored_tokens for m, e in engines.items()}),
        ):
            lines += _family(f"alignloop_{name}", kind, values)
        lines += self.first_token.lines("alignloop_first_token_seconds")
        lines += self.duration.lines("alignloop_request_seconds")
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, values: Mapping[str, float]) -> list[str]:
    def escaped(model: str) -> str:
        return model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return [f"# TYPE {name} {kind}", *(f'{name}{{model="{escaped(m)}"}} {v}' for m, v in values.items())]
