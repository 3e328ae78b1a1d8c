"""One run folder: what a stage writes and the next one reads.

run.json (status, parents, hashes, seed, environment, results) · recipe.yaml (resolved) · metrics.jsonl
· samples.jsonl · checkpoints/ · model/ · report.html. One process writes, any number read; of the ranks
that torchrun starts the first one.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from alignloop.data.template_choice import day_of_run
from alignloop.errors import AlignLoopError, DiskError, RunError
from alignloop.foreign import dump_yaml, loads, read_mapping
from alignloop.io import FULL, append_line, cut_lines, plain, read_lines, sweep, sync, write_whole, writing
from alignloop.machine import memory_gb, process_rank, reset_peak_memory
from alignloop.runs.continuation import Rule, origin
from alignloop.runs.environment import is_alive
from alignloop.runs.hashing import Input, Parent, digest, work_sha256
from alignloop.runs.ownership import new_record, now, sources, take_lock, unfinished
from alignloop.runs.record import RUN_FILE, Status, read_record, seconds_logged
from alignloop.runs.results import P, numbers, read_results
from alignloop.runs.trackers import Tracker, open_tracker


class Run:
    """A run folder, open for writing (`Run.create`, holds the lock) or for reading (`Run.open`).

    As a context manager it releases the lock at the end and records how the stage ended: an exception
    makes it failed, Ctrl-C interrupted.

    Attributes:
        path: the folder.
        resumed: whether `create` found an unfinished run of the same work, which goes on here.
        origin: what the run is made from (see `continuation`); empty unless this process writes it.
        may_change: keys that a continuation may change, by rule.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: IO[bytes] | None = None) -> None:
        """Use `create` or `open`.

        Args:
            path: the folder.
            record: content of run.json.
            lock: the folder's lock if this process writes.
        """
        self.path = path
        self.resumed = False
        self.origin: dict[str, Any] = {}
        self.may_change: dict[str, Rule] = {}
        self._record = record
        self._lock = lock
        self._follows = False
        self._unplaced = False
        self._trackers: list[Tracker] = []
        self._before_s = 0.0
        self._started = time.monotonic()

    @classmethod
    def create(
        cls,
        output_dir: str | Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        seed: int,
        parents: Sequence[Run | Parent] = (),
        inputs: Mapping[str, Input] | None = None,
        name: str = "",
        may_change: Mapping[str, Rule] | None = None,
        code: str = "",
    ) -> Run:
        """Start a run in a folder, or take up the unfinished one of the same work that is there.

        Args:
            output_dir: made if missing.
            stage: name of the stage.
            config: resolved keys, written to recipe.yaml.
            seed: seed of the run.
            parents: runs whose results are read.
            inputs: files and folders that are read, by key.
            name: name in a pipeline; the folder's name if empty.
            may_change: keys of `config` that an unfinished run goes on with at another value, by rule.
            code: see `new_record`.

        Returns:
            The run, locked for writing until it is closed; a rank that does not write ignores all writes.

        Raises:
            RunError: the folder holds another run, a finished one, files of something else, or is being
                written by another process; it cannot be made or written.
        """
        path = Path(output_dir)
        if process_rank() > 0:
            return cls._follower(path, new_record(path, stage, config, seed, name, code))
        inputs = inputs or {}
        links = [parent if isinstance(parent, Parent) else parent.as_parent() for parent in parents]
        work = work_sha256(stage, config, inputs, links)
        own = origin(stage, config, inputs, links)
        lock = take_lock(path)
        try:
            earlier = read_record(path) if (path / RUN_FILE).exists() else None
            earlier = unfinished(path, earlier, own, work, may_change or {})
            reset_peak_memory()
            run = cls(path, new_record(path, stage, config, seed, name, code), lock)
            run.origin, run.may_change = own, dict(may_change or {})
            run._record |= sources(links, inputs, work, run._record["code"])
            if earlier is not None:
                run._take_up(earlier)
            run._write()
            write_whole(path / "recipe.yaml", dump_yaml(own["keys"]))
        except AlignLoopError:
            lock.close()
            raise
        return run

    @classmethod
    def _follower(cls, path: Path, record: dict[str, Any]) -> Run:
        """The run of a rank that does not write; one that goes on keeps its day on every rank."""
        run = cls(path, record)
        run._follows = True
        if (path / RUN_FILE).is_file():
            run._record["created"] = read_record(path)["created"]
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run folder for reading.

        Args:
            path: the folder.

        Returns:
            The run, which cannot be written.

        Raises:
            RunError: no run there, or its run.json is damaged.
        """
        folder = Path(path)
        if not (folder / RUN_FILE).is_file():
            raise RunError(f"{folder}: no run here (it has no {RUN_FILE})")
        return cls(folder, read_record(folder))

    # What a run says

    @property
    def record(self) -> dict[str, Any]:
        """run.json as a new dict, its status as it is now."""
        return {**loads(json.dumps(self._record)), "status": self.status}

    @property
    def status(self) -> Status:
        """finished, failed, interrupted or running; a run whose process is gone is interrupted."""
        status, process = self._record["status"], self._record.get("process")
        if status != "running" or self._lock is not None or not isinstance(process, dict):
            return status
        here = process.get("host") == socket.gethostname()
        gone = here and not is_alive(process.get("pid", 0), process.get("started", ""))
        return "interrupted" if gone else status

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._record["stage"]

    @property
    def fingerprint(self) -> str:
        """Hash of stage, configuration, inputs, parents and code."""
        return self._record["fingerprint"]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder of the finished model."""
        return self.path / "model"

    def config(self) -> dict[str, Any]:
        """The resolved configuration, from recipe.yaml.

        Raises:
            RunError: the file is missing or damaged.
        """
        return read_mapping(self.path / "recipe.yaml", remedy="put it back from a copy")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows of metrics.jsonl in order; a torn one is passed over."""
        return read_lines(self.path / "metrics.jsonl")

    def samples(self) -> Iterator[dict[str, Any]]:
        """Rows of samples.jsonl in order; a torn one is passed over."""
        return read_lines(self.path / "samples.jsonl")

    def results(self, shape: type[P]) -> P:
        """What the stage found, in the form of its family; see `results.read_results`."""
        return read_results(self._record.get("results"), shape)

    def numbers(self) -> dict[str, float]:
        """Every number of the results under its dotted name; see `results.numbers`."""
        return numbers(self._record.get("results"))

    def as_parent(self) -> Parent:
        """This run as another one's parent: path, stage and fingerprint.

        Raises:
            RunError: it has not finished.
        """
        if self.status != "finished":
            raise RunError(f"{self.path}: this run is {self.status}, not finished; finish it first")
        return Parent(str(self.path), self.stage, self.fingerprint)

    # What a stage writes

    def log(self, step: int, **metrics: Any) -> None:
        """Append a line to metrics.jsonl: {"step", "time_s", …}; NaN and infinities become null."""
        self._append("metrics.jsonl", {"step": step, "time_s": round(self.elapsed_s, 3), **metrics})
        with writing(f"metrics of {self.path} for report_to", only=FULL):
            for tracker in self._trackers:
                tracker.log(step, metrics)

    def track(self, kinds: Sequence[str]) -> None:
        """Send metrics to these trackers as well, from now to the end of the run.

        Raises:
            UserError: a tracker's package is not installed.
        """
        for kind in kinds if not self._follows else ():
            name, identity = str(self._record["name"]), self.fingerprint
            self._trackers.append(open_tracker(kind, self.path, name, identity, self.config()))

    def sample(self, **row: Any) -> None:
        """Append a line to samples.jsonl."""
        self._append("samples.jsonl", row)

    def rewind(self, step: int) -> None:
        """Cut metrics and samples of steps after `step`, which a resumed stage will write again.

        A negative step cuts all rows. A resumed stage that appends without a call of `rewind` starts from
        nothing: the rows of the earlier attempt are cut before its first one.
        """
        if self._follows:
            return
        self._unplaced = False
        for name in ("metrics.jsonl", "samples.jsonl"):
            if step < 0:
                (self._owned() / name).unlink(missing_ok=True)
            else:
                cut_lines(self._owned() / name, after_step=step)
        if self.resumed:
            self._before_s = seconds_logged(self.path / "metrics.jsonl")

    def continue_from(self, checkpoint: str, changed: Sequence[str]) -> None:
        """Record that the run goes on from a checkpoint that was trained with another length.

        The result is not that of a run from the beginning, so the fingerprint is another one.

        Args:
            checkpoint: its folder.
            changed: the settings that differ, in words.
        """
        self._record["continues"] = {"checkpoint": checkpoint, "changed": list(changed)}
        self._record["fingerprint"] = digest([self.fingerprint, list(changed)])
        self.warn(
            f"goes on from {checkpoint}, up to which the learning rate followed another length "
            f"({'; '.join(changed)})"
        )

    def warn(self, text: str) -> None:
        """Record a warning once."""
        if text not in self._record["warnings"]:
            self._record["warnings"].append(text)
            self._write()

    def set_environment(self, **facts: Any) -> None:
        """Record the device, threads or dtype that the stage really uses."""
        self._record["environment"] |= plain(facts)
        self._write()

    def set_decided(self, decisions: Mapping[str, Mapping[str, Any]]) -> None:
        """Record what data and model decided in the place of `auto`: {key: {value, reason}}."""
        self._record["decided"] = plain(dict(decisions))
        self._write()

    def set_rows(self, name: str, rows: int) -> None:
        """Record how many rows of an input were used."""
        if name in self._record["inputs"]:
            self._record["inputs"][name]["rows"] = rows
            self._write()

    def set_results(self, results: Mapping[str, Any]) -> None:
        """Record results before the end, so that they are kept if the stage then stops with an error."""
        self._record["results"] = plain(dict(results))
        self._write()

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """The stage is done."""
        self._end("finished", results=plain(dict(results or {})))

    def fail(self, error: BaseException | str) -> None:
        """The stage stopped with an error; the same command takes it up again."""
        text = str(error) or type(error).__name__
        self._end("failed", error=text if isinstance(error, AlignLoopError | str) else repr(error))

    def interrupt(self) -> None:
        """The stage was stopped by a person or a signal."""
        self._end("interrupted")

    @property
    def elapsed_s(self) -> float:
        """Seconds of work so far, those of earlier attempts up to their last line of metrics included."""
        return self._before_s + time.monotonic() - self._started

    def close(self) -> None:
        """Give the folder free for others."""
        try:
            with writing(f"metrics of {self.path} for report_to", only=FULL):
                while self._trackers:
                    self._trackers.pop().close()
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> Run:
        # Chat templates tell the day on which the run was made, also when it goes on later.
        self._day = day_of_run(str(self._record["created"])[:10])
        self._day.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._day.__exit__(kind, error, trace)
        try:
            if self._lock is not None and self._record["status"] == "running":
                # On a full disk the way it ended cannot be recorded: without its process the run reads as
                # interrupted, and the first error says more than a second one.
                with suppress(DiskError) if error is not None else nullcontext():
                    if isinstance(error, KeyboardInterrupt):
                        self.interrupt()
                    else:
                        self.fail(error if error is not None else "the stage ended without results")
        finally:
            with suppress(DiskError) if error is not None else nullcontext():
                self.close()

    def _take_up(self, earlier: Mapping[str, Any]) -> None:
        sweep(self.path)
        for name in ("metrics.jsonl", "samples.jsonl"):
            cut_lines(self.path / name)
        self.resumed = self._unplaced = True
        self._before_s = seconds_logged(self.path / "metrics.jsonl")
        self._record |= {key: earlier[key] for key in ("created", "warnings") if key in earlier}
        if "continues" in earlier:
            self.continue_from(**earlier["continues"])
        if earlier.get("code", {}).get("sha256") != self._record["code"]["sha256"]:
            self.warn("the code changed between the start of this run and its continuation")

    def _end(self, status: Status, **more: Any) -> None:
        if self._follows:
            return
        self._record.pop("error", None)
        self._record |= {"status": status, "finished": now(), "duration_s": round(self.elapsed_s, 3), **more}
        self._record["peak_memory_gb"] = round(memory_gb(peak=True), 3)
        self._record.pop("process", None)
        for name in ("metrics.jsonl", "samples.jsonl"):
            sync(self.path / name)
        self._write()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if self._follows:
            return
        if self._unplaced:
            self.rewind(-1)
        append_line(self._owned() / name, row)

    def _owned(self) -> Path:
        if self._lock is None:
            raise RunError(f"{self.path}: opened for reading only")
        return self.path

    def _write(self) -> None:
        if self._follows:
            return
        text = json.dumps(plain(self._record), ensure_ascii=False, indent=2, allow_nan=False)
        write_whole(self._owned() / RUN_FILE, text + "\n")
