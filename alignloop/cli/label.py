"""`alignloop label`: serve the labelling page, and everything around it."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignloop.cli.data import mapping
from alignloop.cli.ending import after_data, print_next
from alignloop.cli.label_submit import submit
from alignloop.cli.options import help_if_bare

if TYPE_CHECKING:
    from alignloop.feedback.cost import LearningCurve

app = typer.Typer(
    name="label",
    help="Collect human judgements: a page to judge on, invitations, export, a cost plan.",
    invoke_without_command=True,
)
app.callback()(help_if_bare)

app.command()(submit)

Folder = Annotated[Path, typer.Argument(help="Label folder: database, session key, owner's token.")]
Database = Annotated[
    str | None,
    typer.Option(help="postgresql://… instead of the folder's own SQLite file.", envvar="ALIGNLOOP_DATABASE"),
]
ProjectName = Annotated[str | None, typer.Option(help="Project, where the folder holds several.")]


@app.command()
def serve(
    path: Annotated[
        Path, typer.Argument(help="Label folder; or a data file or sample run to start one from.")
    ],
    task: Annotated[
        str | None, typer.Option(help="For new data: pair (the default), ranking, scores, thumbs or edit.")
    ] = None,
    name: Annotated[str, typer.Option(help="For new data: the project's name.")] = "labels",
    pairs: Annotated[
        str, typer.Option(help="Of more than two answers: one pair per prompt, or all.")
    ] = "one",
    folder: Annotated[Path | None, typer.Option(help="For new data: label folder to make.")] = None,
    new: Annotated[
        bool, typer.Option(help="Make an empty label folder; its projects in the browser.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8321,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further host names under which the page is reached.")
    ] = None,
    proxy: Annotated[
        str, typer.Option(help="Address of the reverse proxy in front, whose X-Forwarded-* are believed.")
    ] = "",
    database: Database = None,
) -> None:
    """Serve the labelling page; prints the owner's link."""
    from alignloop.feedback.web import server

    place = server.prepare(
        path,
        folder=folder,
        database=database,
        task=task,
        name=name,
        pairs=_pairs(pairs),
        new=new,
        say=typer.echo,
    )
    server.serve(place, host=host, port=port, allow_hosts=allow_host or (), proxy=proxy, say=typer.echo)


@app.command("import")
def import_(
    folder: Folder,
    data: Annotated[str, typer.Argument(help="Data file, hub id, or folder of a sample run.")],
    task: Annotated[
        str | None, typer.Option(help="Of a new project: pair (the default), ranking, scores, thumbs, edit.")
    ] = None,
    project: Annotated[str, typer.Option(help="Project to add to, made if it is not there.")] = "labels",
    pairs: Annotated[
        str, typer.Option(help="Of more than two answers: one pair per prompt, or all.")
    ] = "one",
    gold: Annotated[bool, typer.Option(help="What the data says of its answers is a hidden check.")] = False,
    column: Annotated[
        list[str] | None, typer.Option(help="field=column where names differ; repeatable")
    ] = None,
    guidelines: Annotated[Path | None, typer.Option(help="Markdown file with the guidelines.")] = None,
    database: Database = None,
) -> None:
    """Queue prompts and answers to be judged."""
    from alignloop.feedback.web import server

    text, columns = _text_of(guidelines), mapping(column)
    with server.opened(folder, database, create=True) as store:
        found = server.project_for(store, project, task=task, guidelines=text)
        server.add(store, found, data, pairs=_pairs(pairs), gold=gold, columns=columns, say=typer.echo)
    print_next([(f"alignloop label serve {shlex.quote(str(folder))}", "open the page on which people judge")])


@app.command()
def adopt(folder: Folder, database: Database = None) -> None:
    """Take an outside database over into this folder, when the folder it belonged to is lost."""
    from alignloop.errors import UserError
    from alignloop.feedback.folder import opened

    if database is None:
        raise UserError("give the database to take over: --database postgresql://…")
    with opened(folder, database, adopt=True) as store:
        names = ", ".join(f"'{p.name}'" for p in store.projects()) or "none"
    typer.echo(f"{folder} holds this database now; its projects: {names}")


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="File to write, .jsonl or .jsonl.gz.")],
    kind: Annotated[
        str | None, typer.Option(help="Record kind; what the task says directly if not given.")
    ] = None,
    derive: Annotated[bool, typer.Option(help="Permit preferences derived from other tasks.")] = False,
    votes: Annotated[str, typer.Option(help="each judgement, or the mean per item.")] = "each",
    min_agreement: Annotated[float, typer.Option(help="Least agreement with other annotators, 0–1.")] = 0.0,
    min_seconds: Annotated[float, typer.Option(help="Leave out judgements made faster.")] = 0.0,
    annotator: Annotated[list[str] | None, typer.Option(help="Only these annotators.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Not these annotators.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only items chosen by these strategies.")] = None,
    after: Annotated[int, typer.Option(help="Only judgements with a greater number.")] = 0,
    until: Annotated[int | None, typer.Option(help="Only judgements up to this number.")] = None,
    guideline: Annotated[int | None, typer.Option(help="Only under this version of the guidelines.")] = None,
    gold: Annotated[bool, typer.Option(help="Keep judgements on hidden checks.")] = False,
    ties: Annotated[bool, typer.Option(help="Keep ties as probability ½.")] = True,
    both_bad: Annotated[bool, typer.Option(help="Keep 'both bad' as probability ½.")] = False,
    flagged: Annotated[bool, typer.Option(help="Keep flagged judgements.")] = False,
    project: ProjectName = None,
    database: Database = None,
) -> None:
    """Write judgements as records for training."""
    from alignloop.data.columns import write_records
    from alignloop.errors import UserError
    from alignloop.feedback import export as exporting
    from alignloop.feedback.web import server

    if votes not in ("each", "mean"):
        raise UserError(f"--votes is each or mean, not '{votes}'")
    filters = exporting.Filters(
        votes="mean" if votes == "mean" else "each",
        annotators=annotator or (),
        without=without or (),
        arms=arm or (),
        min_agreement=min_agreement,
        min_seconds=min_seconds,
        after=after,
        until=until,
        guideline_version=guideline,
        gold=gold,
        ties=ties,
        both_bad=both_bad,
        flagged=flagged,
    )
    with server.opened(folder, database) as store:
        found = store.project(project)
        made = exporting.records(store, found, kind, filters=filters, derive=derive)
        if not made.records:
            raise UserError(f"no judgement passes the filters; left out: {made.left_out or 'none were made'}")
        write_records(out, made.records)
        store.log(
            "export", actor="command line", project_id=found.id, file=out.name, records=len(made.records)
        )
    typer.echo(f"{len(made.records)} records from {len(made.judgement_ids)} judgements in {out}")
    for reason, count in made.left_out.items():
        typer.echo(f"  left out: {count} {reason}")
    print_next(after_data(type(made.records[0]).__name__.lower(), out))


@app.command()
def invite(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whom.")],
    language: Annotated[str, typer.Option(help="Language of the page: en or ko; else the browser's.")] = "",
    url: Annotated[
        str | None, typer.Option(help="Address of the page; else the one at which the folder is served.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="The only project that the link opens; else all of the folder.")
    ] = None,
    database: Database = None,
) -> None:
    """Print an invitation link; asking again for the same name replaces it."""
    from alignloop.errors import UserError
    from alignloop.feedback import people
    from alignloop.feedback.web import addresses, server

    if language not in ("", "en", "ko"):
        raise UserError(f"--language is en or ko, not '{language}'")
    with server.opened(folder, database) as store:
        only = None if project is None else store.project(project)
        token = people.link_for(store, name, project=only, language=language)
    known = addresses.recall(folder)
    base = url or addresses.shared_address(known) or (known[0] if known else "http://127.0.0.1:8321")
    typer.echo(f"{base.rstrip('/')}/invite/{token}")
    if url is None and known and addresses.is_local(base):
        typer.echo("Only this machine can open the link; serve with --host 0.0.0.0 for colleagues.", err=True)


@app.command()
def choose(
    folder: Folder,
    count: Annotated[int, typer.Option(min=1, help="Items to put before all others.")],
    strategy: Annotated[
        str, typer.Option(help="random, uncertainty, gap or diversity; a random share always stays.")
    ] = "uncertainty",
    reward_model: Annotated[
        list[str] | None, typer.Option(help="Reward run, for uncertainty and gap; several are an ensemble.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random share.")] = 0,
    project: ProjectName = None,
    database: Database = None,
) -> None:
    """Choose which of the items nobody has seen yet are judged next."""
    from typing import cast, get_args

    from alignloop.errors import UserError
    from alignloop.feedback.select import Strategy
    from alignloop.feedback.web import server
    from alignloop.stages.choosing import choose_next

    if strategy not in get_args(Strategy):
        raise UserError(f"--strategy is one of {', '.join(get_args(Strategy))}")
    with server.opened(folder, database) as store:
        found = store.project(project)
        arms = choose_next(
            store,
            found,
            strategy=cast(Strategy, strategy),
            count=count,
            reward_models=reward_model or (),
            seed=seed,
        )
    told = ", ".join(f"{number} by {arm}" for arm, number in arms.items())
    typer.echo(f"{found.name}: {arms.total()} items come first, {told}")


@app.command()
def status(
    folder: Folder,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    project: ProjectName = None,
    database: Database = None,
) -> None:
    """Progress, agreement, cost."""
    import json as json_module
    from dataclasses import asdict

    from alignloop.feedback.overview import overview
    from alignloop.feedback.web import server

    with server.opened(folder, database) as store:
        found = store.project(project)
        numbers = overview(store, found)
    if json:
        typer.echo(
            json_module.dumps({"project": found.name, **asdict(numbers)}, ensure_ascii=False, indent=1)
        )
        return
    currency, money = found.settings.currency, numbers.money
    typer.echo(
        f"{found.name} ({found.task}): {numbers.num_judgements} judgements, {numbers.remaining} wanted"
    )
    typer.echo(f"items judged {numbers.num_judged_items} of {numbers.num_items - numbers.num_withdrawn}")
    if money.forecast:
        typer.echo(f"cost {currency}{money.spent:,.2f} so far, {currency}{money.forecast:,.2f} in all")
    for label, value in (("Krippendorff α", numbers.alpha), ("Gwet AC1", numbers.ac1)):
        if value is not None:
            typer.echo(f"{label} {value.value:.2f} [{value.low:.2f}, {value.high:.2f}], {value.n} items")
    if numbers.num_fast:
        typer.echo(
            f"{numbers.num_fast} judgements took less than {found.settings.fast_s:g} s; "
            f"leave them out of an export with --min-seconds {found.settings.fast_s:g}"
        )
    typer.echo(f"{len(numbers.disagreements)} disagreements and {len(numbers.flagged)} flags to look at")
    for person in numbers.people:
        pace = "" if person.per_hour is None else f", {person.per_hour:.0f} per hour"
        hasty = f", too fast: {person.num_fast}" if person.num_fast else ""
        typer.echo(f"  {person.name}: {person.judged} judged, {person.skipped} skipped{pace}{hasty}")


@app.command()
def plan(
    budget: Annotated[float, typer.Option(help="Money to spend.")],
    folder: Annotated[Path | None, typer.Argument(help="Label folder, for its prices and curve.")] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(help="A point LABELS:ACCURACY of the learning curve, such as 500:0.61; three or more."),
    ] = None,
    demonstrations_per_pair: Annotated[float, typer.Option(help="0 for pairs only.")] = 0.4,
    price_pair: Annotated[float | None, typer.Option(help="Price of a comparison.")] = None,
    price_demonstration: Annotated[float | None, typer.Option(help="Price of a demonstration.")] = None,
    kappa_precision: Annotated[float, typer.Option(help="Half width of κ's interval to aim for.")] = 0.1,
    project: ProjectName = None,
    database: Database = None,
) -> None:
    """What a budget buys: demonstrations, pairs, overlap, expected reward-model accuracy."""
    from dataclasses import replace

    from alignloop.feedback import cost
    from alignloop.feedback.project import Settings
    from alignloop.feedback.web import server

    settings, points, done = Settings(), [_point(text) for text in curve or ()], 0
    if folder is not None:
        with server.opened(folder, database) as store:
            found = store.project(project)
            settings, done = found.settings, len(store.new_labels_since(found))
            measured = [m for m in store.models(found) if m.accuracy is not None]
            points += [(len(m.judgement_ids), m.accuracy) for m in measured]
    prices = {"price_pair": price_pair, "price_demonstration": price_demonstration}
    settings = replace(settings, **{name: price for name, price in prices.items() if price is not None})
    known = len({count for count, _ in points})
    fitted = cost.fit_learning_curve(points) if curve or known >= cost.MIN_POINTS else None
    made = cost.plan(
        budget,
        settings,
        demonstrations_per_pair=demonstrations_per_pair,
        kappa_half_width=kappa_precision,
        curve=fitted,
        labels_so_far=done,
    )
    sign = settings.currency
    typer.echo(f"demonstrations  {made.demonstrations:>8}  at {sign}{settings.price_demonstration:g}")
    typer.echo(
        f"pairs           {made.pairs:>8}  at {sign}{settings.price_pair:g}, {made.judgements} judgements"
    )
    typer.echo(f"  judged twice  {made.overlap_items:>8}  κ known to ± {made.kappa_half_width:.2f}")
    typer.echo(f"cost            {sign}{made.cost:,.2f} of {sign}{budget:,.2f}")
    typer.echo(_accuracy_line(made.accuracy, fitted, known, len(points)))


def _accuracy_line(accuracy: float | None, fitted: LearningCurve | None, known: int, num_points: int) -> str:
    from alignloop.feedback.cost import MIN_POINTS

    if fitted is None or accuracy is None:
        return (
            f"reward-model accuracy unknown: {known} of the {MIN_POINTS} points a learning curve needs "
            "are known; give --curve points, or train on labels so far"
        )
    known_to = (
        f"± {fitted.half_width:.3f}"
        if math.isfinite(fitted.half_width)
        else f"(its error is unknown: any {MIN_POINTS} points lie on such a curve, give one more)"
    )
    return (
        f"reward-model accuracy expected {accuracy:.3f} {known_to} "
        f"({fitted.ceiling:.3f} − {fitted.scale:.3f}·n^−{fitted.exponent:.2f} from {num_points} points)"
    )


def _text_of(file: Path | None) -> str:
    from alignloop.errors import UserError

    try:
        return "" if file is None else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text in UTF-8: {error}") from error


def _point(text: str) -> tuple[float, float]:
    from alignloop.errors import UserError

    labels, _, accuracy = text.partition(":")
    try:
        return float(labels), float(accuracy)
    except ValueError as error:
        raise UserError(f"--curve takes LABELS:ACCURACY such as 500:0.61, not '{text}'") from error


def _pairs(text: str) -> Literal["one", "all"]:
    from alignloop.errors import UserError

    if text == "one":
        return "one"
    if text == "all":
        return "all"
    raise UserError(f"--pairs is one or all, not '{text}'")
