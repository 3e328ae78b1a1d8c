from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from alignloop.config.recipe_file import read_yaml
from alignloop.report.folder import read_run
from alignloop.report.lineage import Lineage, LineageNode, holds_simulated, trace
from alignloop.report.lineage_picture import columns, draw
from alignloop.report.plot import shortened
from tests.report.fake_runs import make_pipeline, make_run


def test_parents_are_followed_to_the_data(tmp_path: Path) -> None:
    make_pipeline(tmp_path / "p", num_steps=2, num_samples=1)
    graph = trace([read_run(tmp_path / "p/stages/dpo")])
    titles = {key: node.title for key, node in graph.nodes.items()}
    assert sorted(titles.values()) == sorted(
        ["dpo", "best-of-n", "sft", "reward", "feedback", "sample", "지시문.jsonl", "smollm2-135m-instruct"]
    )
    edges = {(titles[a], titles[b]) for a, b in graph.edges}
    assert ("지시문.jsonl", "sft") in edges
    assert ("feedback", "dpo") in edges
    assert [edge for edge in edges if edge[0] == "smollm2-135m-instruct"] == [
        ("smollm2-135m-instruct", "sft")
    ]
    own = str((tmp_path / "p/stages/dpo").resolve())
    assert graph.sinks() == [own]
    assert graph.simulated(own)  # through feedback
    assert not graph.simulated(str((tmp_path / "p/stages/sft").resolve()))


def test_a_lost_parent_is_a_node(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a", stage="dpo", parents=[{"path": "../gone", "stage": "sft", "fingerprint": "f00"}]
    )
    lost = [n for n in trace([read_run(run)]).nodes.values() if n.kind == "missing"]
    assert [(n.title, n.detail, n.fingerprint) for n in lost] == [("gone", "sft (folder not found)", "f00")]


def test_runs_that_name_each_other_end(tmp_path: Path) -> None:
    make_run(tmp_path / "a", stage="sft", parents=[{"path": "../b"}, {"path": "../a"}])
    make_run(tmp_path / "b", stage="sft", parents=[{"path": "../a"}])
    graph = trace([read_run(tmp_path / "a")])
    assert len(graph.nodes) == 2
    ElementTree.fromstring(draw(graph))


def test_a_file_that_a_parent_wrote_is_not_drawn_beside_it(tmp_path: Path) -> None:
    made = str(make_run(tmp_path / "feedback", stage="feedback"))
    inputs = {
        "pairs": {"path": f"{made}/data/rows.jsonl", "rows": 3},
        "own": {"path": "eval.jsonl", "rows": 1},
    }
    run = make_run(
        tmp_path / "dpo", stage="dpo", inputs=inputs, parents=[{"path": made, "stage": "feedback"}]
    )
    titles = sorted(node.title for node in trace([read_run(run)]).nodes.values())
    assert titles == ["dpo", "eval.jsonl", "feedback", "smollm2-135m-instruct"]


def graph_of(*edges: str) -> Lineage:
    nodes = {key: LineageNode(key, key, "", "run") for edge in edges for key in edge}
    return Lineage(nodes, [(edge[0], edge[1]) for edge in edges])


def test_columns_are_the_longest_chains() -> None:
    graph = graph_of("ab", "bc", "ac", "cd", "xd")
    graph.nodes["x"] = LineageNode("x", "x", "", "data")
    assert columns(graph) == {"a": 0, "b": 1, "c": 2, "d": 3, "x": 2}  # data just before its use


def test_boxes_do_not_overlap_and_all_are_drawn() -> None:
    graph = graph_of("ab", "bc", "ac", "ad", "ae", "af", "fc", "ec", "cg", "ag")
    root = ElementTree.fromstring(draw(graph, emphasised=["g"]))
    boxes = [(float(r.get("x", 0)), float(r.get("y", 0))) for r in root.iter("rect")]
    assert len(boxes) == len(graph.nodes)
    for i, (x, y) in enumerate(boxes):
        for a, b in boxes[:i]:
            assert abs(x - a) >= 136 or abs(y - b) >= 44
    assert len(root.findall("path")) == len(graph.edges)
    assert draw(graph_of()) == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"results": {"annotator": "simulated"}}, True),
        ({"inputs": {"pairs": {"origins": {"simulated": 30, "human": 2}}}}, True),
        ({"inputs": {"pairs": {"origins": {"simulated": 0, "human": 2}}}}, False),
        ({"simulated": True}, True),
        ({"labels": ["human", "simulated"]}, True),
        ({"name": "simulated", "results": {"simulated": 0.3}}, False),
        ({"annotator": "human"}, False),
    ],
)
def test_simulated_is_found_where_labels_are_described(value: object, expected: bool) -> None:
    assert holds_simulated(value) is expected


def test_long_names_keep_both_ends() -> None:
    assert shortened("short", size=13, width=100) == "short"
    cut = shortened("self_instruct_user_oriented_instructions.jsonl", size=13, width=120)
    assert cut.startswith("self_in")
    assert cut.endswith(".jsonl")
    assert len(cut) < 20


def test_a_foreign_recipe_with_aliases_fills_no_memory(tmp_path):
    """Ten lines of aliases would be 10⁹ items; such a recipe names no model."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    with pytest.raises(yaml.YAMLError, match="aliases"):
        read_yaml("\n".join(lines))
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.system [true]")


def test_twenty_one_stages_are_a_list_that_can_be_read() -> None:
    names = [f"stage-{n:02d}" for n in range(21)]
    nodes = {name: LineageNode(name, name, "dpo", "run", "c0ffee") for name in names}
    graph = Lineage(nodes, [*pairwise(names), ("stage-00", "stage-20"), ("stage-03", "stage-12")])
    root = ElementTree.fromstring(draw(graph, emphasised=["stage-20"]))
    width, height = (float(v) for v in root.get("viewBox", "").split()[2:])
    assert width < 900
    assert height == 21 * 26
    titles = [g.findall("text")[0] for g in root.findall("g")]
    assert [text.text for text in titles] == names
    heights = [float(text.get("y", 0)) for text in titles]
    assert heights == sorted(heights)
    assert min(b - a for a, b in pairwise(heights)) >= 13  # no line of text touches the next one
    assert len(root.findall("path")) == len(graph.edges)
    assert "stage-20 from stage-19, stage-00" in root.get("aria-label", "")
