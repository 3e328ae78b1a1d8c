import math

from alignloop.report.curves import plots


def test_chosen_and_rejected_share_a_plot_and_held_out_joins_its_metric() -> None:
    rows = [
        {"step": 1, "time_s": 0.5, "loss": 0.7, "chosen_logprob": -9.0, "rejected_logprob": -8.0},
        {
            "step": 2,
            "time_s": 1.0,
            "loss": 0.6,
            "eval_loss": 0.65,
            "chosen_logprob": -9.5,
            "rejected_logprob": -10,
        },
    ]
    main, lesser = plots(rows)
    assert [(p.title, [s.name for s in p.series]) for p in main] == [
        ("Loss (nats)", ["loss", "loss, held out"]),
        ("Log-probability (nats per completion)", ["chosen", "rejected"]),
    ]
    assert main[0].series[1].points == ((2.0, 0.65),)
    assert lesser == []


def test_unknown_metrics_are_lesser_and_texts_are_no_curves() -> None:
    main, lesser = plots([{"step": 1, "clip_fraction": 0.1, "eval_spread": 2, "note": "x", "flag": True}])
    assert main == []
    assert [p.title for p in lesser] == ["clipped share", "spread"]


def test_a_resumed_run_counts_the_later_row_of_a_step() -> None:
    rows = [{"step": s, "loss": x} for s, x in ((1, 5.0), (2, 4.0), (2, 3.0), (3, 2.0))]
    assert plots(rows)[0][0].series[0].points == ((1.0, 5.0), (2.0, 3.0), (3.0, 2.0))


def test_rows_without_a_usable_step_are_numbered() -> None:
    rows = [{"loss": 5.0}, {"step": math.nan, "loss": 4.0}, {"step": "x", "loss": 10**400}]
    assert plots(rows)[0][0].series[0].points == ((0.0, 5.0), (1.0, 4.0), (2.0, math.inf))
