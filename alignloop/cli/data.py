"""alignloop data: look at data sets, convert and divide them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignloop.cli.data_report import by_reason, check_json, check_lines, choices_json, choices_lines
from alignloop.cli.ending import after_data, print_next
from alignloop.cli.options import help_if_bare
from alignloop.errors import DataError

if TYPE_CHECKING:
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from alignloop.data.chat import ChatTemplate
    from alignloop.data.columns import Dataset
    from alignloop.data.plain_text import Marks
    from alignloop.data.show import Piece

app = typer.Typer(
    help="Check, show, convert, split and filter data sets.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
app.callback()(help_if_bare)

File = Annotated[
    str,
    typer.Argument(
        help="a .jsonl, .json, .csv, .tsv or .parquet file (also .gz, .zst), a pattern, folder or run"
    ),
]
Kind = Annotated[str | None, typer.Option(help="read rows as this kind instead of guessing")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="field=column where names differ; repeatable")
]
Scores = Annotated[str, typer.Option("--score-range", help="lowest and highest score, such as 1:10")]
Force = Annotated[bool, typer.Option("--force", help="replace what is there")]


@app.command("check")
def check_file(
    file: File,
    kind: Kind = None,
    column: Columns = None,
    score_range: Scores = "",
    strict: Annotated[bool, typer.Option("--strict", help="the first unusable row is an error")] = False,
    threshold: Annotated[float, typer.Option(help="similarity of near-duplicates, up to 1")] = 0.8,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what a data set is, what is wrong with it and how varied it is."""
    from alignloop.data.check import check, check_choices, is_choices
    from alignloop.errors import DataError
    from alignloop.progress import busy

    spec = _spec(file, score_range)
    if kind in ("multiple_choice", "truthfulness") or (kind is None and not column and is_choices(spec)):
        if column:
            message = "multiple-choice questions are read from columns with their own names"
            raise DataError(message, field="--column", value=column[0])
        choices = check_choices(spec, strict=strict)
        typer.echo(choices_json(file, choices) if as_json else "\n".join(choices_lines(file, choices)))
        return
    with busy(f"reading {file}"):
        found = check(_read(file, kind, column, score_range, strict=strict), threshold=threshold)
    typer.echo(check_json(file, found) if as_json else "\n".join(check_lines(file, found)))
    if not as_json and found.usable:
        print_next(after_data(found.kind, file, mapping(column)))


def _read(
    file: str, kind: str | None, column: list[str] | None, scores: str = "", *, strict: bool = False
) -> Dataset:
    from alignloop.data.columns import read_records

    return read_records(_spec(file, scores), kind, mapping(column), strict)


def _spec(file: str, scores: str) -> str | dict[str, object]:
    """A data source of a file and the range of its ratings, `1:10`."""

    if not scores:
        return file
    low, _, high = scores.partition(":")
    try:
        return {"path": file, "score_range": [float(low), float(high)]}
    except ValueError:
        raise DataError("expected such as 1:10", field="--score-range", value=scores) from None


def mapping(column: list[str] | None) -> dict[str, str]:
    """{field: column} from words such as prompt=question."""

    pairs = [item.partition("=") for item in column or []]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise DataError("expected field=column, such as prompt=question", field="--column", value=name)
    return {name: value for name, _, value in pairs}


@app.command("show")
def show_file(
    file: File,
    model: Annotated[str | None, typer.Option(help="whose tokenizer and template to use")] = None,
    template: Annotated[
        str | None, typer.Option(help="tokenizer, chatml, alpaca, plain or a .jinja file")
    ] = None,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="records to show")] = 3,
    train_on: Annotated[
        Literal["all", "last"], typer.Option(help="turns of the assistant that are trained")
    ] = "all",
    kind: Kind = None,
    column: Columns = None,
    score_range: Scores = "",
) -> None:
    """Print records as the model reads them; what is trained is coloured, or stands in [[…]]."""
    from rich.console import Console
    from rich.text import Text

    from alignloop.data.plain_text import marks_of
    from alignloop.data.show import shown

    chat, tokenizer = _template(model, template)
    marks = marks_of(tokenizer, chat) if tokenizer is not None else None
    data = _read(file, kind, column, score_range)
    console = Console(highlight=False, soft_wrap=True)
    plain = not console.is_terminal
    for record in data.records[:num]:
        place = f"{record.provenance.file}:{record.provenance.line} ({data.kind})"
        console.print(Text(f"── {place}", style="bold"))
        for row in shown(record, chat, train_on, marks):
            if row.remark:
                console.print(Text(f"({row.remark})", style="yellow"))
            text = Text().append(f"{row.name}:\n" if row.name else "", style="bold")
            for part in row.pieces:
                _append(text, part, _pieces(part, row.hidden, marks, tokenizer), plain=plain)
            console.print(text)


def _append(text: Text, part: Piece, tokens: Sequence[str], *, plain: bool) -> None:
    """A piece of a row: given text dim, trained text in its tokens."""
    if not part.trained:
        text.append(_visible("".join(tokens)), style="dim")
        return
    pieces = [_visible(token) for token in tokens]
    if plain:
        text.append("[[" + "¦".join(pieces) + "]]")
        return
    for place, piece in enumerate(pieces):
        text.append(piece, style=f"black on {'green' if place % 2 else 'bright_green'}")


def _visible(text: str) -> str:
    """Control characters as escapes: texts of others must not steer the terminal."""
    steering = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
    return steering.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _template(model: str | None, template: str | None) -> tuple[ChatTemplate, PreTrainedTokenizerBase | None]:
    from alignloop.data.chat import FILE, load_saved, load_template

    if model is None:
        return load_template(template or "plain"), None
    from alignloop.model.load import load_model

    loaded = load_model(model)
    if template is None and loaded.path is not None and (loaded.path / FILE).exists():
        return load_saved(loaded.path), loaded.tokenizer
    return load_template(template or "tokenizer", loaded.tokenizer), loaded.tokenizer


def _pieces(
    part: Piece, hidden: Mapping[str, str], marks: Marks | None, tokenizer: PreTrainedTokenizerBase | None
) -> list[str]:
    """The text of each token of what is trained; tokens that are parts of one character are one piece."""
    from alignloop.data.plain_text import revealed

    if tokenizer is None or marks is None:
        return [part.text]
    if not part.trained:
        return [revealed(part.text, hidden)]
    ids = marks.encode(part.text, hidden)
    pieces, start = [], 0
    for stop in range(1, len(ids) + 1):
        piece = str(tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False))
        if not piece.endswith("\ufffd") or stop == len(ids):
            pieces.append(piece)
            start = stop
    return pieces


@app.command("convert")
def convert_file(
    file: File,
    to: Annotated[str, typer.Option(help="the kind to make")],
    output: Annotated[Path, typer.Option("--output", "-o", help="a .jsonl or .jsonl.gz file")],
    kind: Kind = None,
    column: Columns = None,
    score_range: Scores = "",
    pairs: Annotated[Literal["all", "best_worst"], typer.Option(help="of a ranking")] = "all",
    attribute: Annotated[str, typer.Option(help="the score to use, if there are several")] = "",
    min_gap: Annotated[float, typer.Option(help="least difference of scores for a preference")] = 1.0,
    min_score: Annotated[float | None, typer.Option(help="least score of a good response")] = None,
    force: Force = False,
) -> None:
    """Make records of another kind and write them, with where each came from."""
    from alignloop.data.columns import write_records
    from alignloop.data.convert import Options, convert

    _refuse_existing([output], force)
    data = _read(file, kind, column, score_range)
    made, skipped = convert(data.records, to, Options(pairs, attribute, min_gap, min_score))
    _say_skipped(data.dropped, "dropped")
    _say_skipped(skipped, "without result")
    if not made:
        raise DataError(f"no {to} could be made from {len(data.records)} records", file=file)
    write_records(output, made)
    typer.echo(f"{output}: {len(made)} {to} records from {len(data.records)} {data.kind} records")
    print_next(after_data(to, output))


def _say_skipped(faults: list[DataError], what: str) -> None:
    for reason, group in by_reason(faults).items():
        typer.echo(f"{what}: {len(group)} {reason}, the first: {group[0]}")


def _refuse_existing(paths: list[Path], force: bool) -> None:

    for path in paths:
        if path.exists() and not force:
            raise DataError("exists already; --force replaces it", file=str(path))


@app.command("split")
def split_file(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for NAME.jsonl of each part")],
    fractions: Annotated[str, typer.Option(help="name=fraction, separated by commas")] = "train=0.9,test=0.1",
    seed: Annotated[int, typer.Option(help="another seed, another division")] = 0,
    by: Annotated[Literal["prompt", "record"], typer.Option(help="what stays together")] = "prompt",
    kind: Kind = None,
    column: Columns = None,
    score_range: Scores = "",
    force: Force = False,
) -> None:
    """Divide a data set so that no prompt is in two parts; added rows move no other."""
    from alignloop.data.columns import write_records
    from alignloop.data.split import split

    shares = _fractions(fractions)
    paths = {name: output / f"{name}.jsonl" for name in shares}
    _refuse_existing(list(paths.values()), force)
    data = _read(file, kind, column, score_range)
    parts = split(data.records, shares, seed, by)
    _say_skipped(data.dropped, "dropped")
    empty = [name for name, records in parts.items() if not records]
    if empty:
        raise DataError(
            f"part {', '.join(empty)} would be empty: {len(data.records)} records are too few", file=file
        )
    for name, records in parts.items():
        write_records(paths[name], records)
        typer.echo(f"{paths[name]}: {len(records)} {data.kind} records")
    print_next(after_data(data.kind, next(iter(paths.values()))))


@app.command("filter")
def filter_file(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="a .jsonl or .jsonl.gz file")],
    without: Annotated[
        list[str] | None, typer.Option(help="evaluation set whose prompts must go; repeatable")
    ] = None,
    near: Annotated[
        float, typer.Option(help="also near-duplicates from this similarity; 0 keeps them")
    ] = 0.0,
    prompt: Annotated[str, typer.Option(help="length of prompts in characters, MIN:MAX")] = "",
    completion: Annotated[str, typer.Option(help="length of completions in characters, MIN:MAX")] = "",
    contradictions: Annotated[bool, typer.Option(help="also rows that contradict each other")] = False,
    kind: Kind = None,
    column: Columns = None,
    score_range: Scores = "",
    force: Force = False,
) -> None:
    """Write what is left without duplicates, empty answers, equal pairs and evaluation prompts."""
    from alignloop.data import quality
    from alignloop.data.columns import write_records

    _refuse_existing([output], force)
    bounds = {"prompt": _bounds("--prompt", prompt), "completion": _bounds("--completion", completion)}
    evaluation = [record for path in without or [] for record in _read(path, None, None).records]
    data = _read(file, kind, column, score_range)
    _say_skipped(data.dropped, "dropped")
    kept = data.records
    filters = [quality.exact_duplicates, quality.empty_completions, quality.equal_pairs]
    filters += [lambda records: quality.near_duplicates(records, near)] if near else []
    filters += [quality.contradictions] if contradictions else []
    filters += [lambda records: quality.length_bounds(records, **bounds)] if prompt or completion else []
    filters += [lambda records: quality.without_evaluation(records, evaluation)] if without else []
    for each in filters:
        kept, dropped = each(kept)
        _say_skipped(dropped, "removed")
    if not kept:
        raise DataError(f"nothing is left of {len(data.records)} records", file=file)
    write_records(output, kept)
    typer.echo(f"{output}: {len(kept)} of {len(data.records)} {data.kind} records")
    print_next(after_data(data.kind, output))


def _bounds(option: str, text: str) -> tuple[int, int]:

    if not text:
        return 0, 10**9
    low, sign, high = text.partition(":")
    if not sign or not (low + high).isdecimal():
        raise DataError("expected such as 1:2000, :2000 or 10:", field=option, value=text)
    return int(low or 0), int(high or 10**9)


def _fractions(text: str) -> dict[str, float]:

    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        try:
            shares[name] = float(value)
        except ValueError:
            name = ""
        if not name.isidentifier():
            raise DataError("expected such as train=0.9,test=0.1", field="--fractions", value=text)
    return shares
