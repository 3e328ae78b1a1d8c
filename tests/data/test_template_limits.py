"""A stranger's template has limits: time, size, recursion, each in one sentence."""

import threading
import time

import pytest

from alignloop.data import template_limits, template_render
from alignloop.data.chat import load_template
from alignloop.errors import DataError, ModelError
from alignloop.records import Message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
LONG = "{% set s = 'a' * 1000000 %}"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
ENDS = "{% endfor %}{% endfor %}{% endfor %}"
SLOW = {
    "loops": LOOPS + "x" + ENDS,
    "silent loops": LOOPS + ENDS,
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "searches": LONG + "{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
}
LARGE = {
    "*": "{{ 'A' * 10 ** 10 }}",
    "* of a list": "{{ ([0] * 10 ** 10) | length }}",
    "~": "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "+": "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "+ of lists": "{% set n = namespace(s=[1]) %}{% for i in range(80) %}{% set n.s = n.s + n.s %}"
    "{% endfor %}",
    "**": "{{ 10 ** (10 ** 9) }}",
    "center": "{{ 'a' | center(10000000000) }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "indent": "{{ 'a\nb' | indent(10 ** 10) }}",
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:>1000000000}'.format('a') }}",
    "format field": "{{ '{:>{w}}'.format('a', w=1000000000) }}",
    "replace": LONG + "{{ s.replace('a', s) }}",
    "replace filter": LONG + "{{ s | replace('a', s) }}",
    "join": LONG + "{{ s.join(s) }}",
    "join filter": LONG + "{{ range(9999) | map('string') | join(s) }}",
    "translate": LONG + "{{ s.translate({97: s}) }}",
    "expandtabs": "{{ '\t'.expandtabs(10 ** 9) }}",
    "to_bytes": "{{ (5).to_bytes(10 ** 10, 'big') }}",
    "slices": "{% set s = 'a' * 10000000 %}{{ [s[1:], s[2:], s[3:]] | length }}",
    "~ in a slice": LONG + "{{ (" + " ~ ".join(["s"] * 20) + ")[0:1] }}",
    "output": LONG + "{% for i in range(9999) %}{{ s }}{% endfor %}",
    "macro": LONG + "{% macro f() %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endmacro %}{{ f() }}",
    "set block": LONG + "{% set t %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endset %}",
    "tojson": "{{ {'a': 1} | tojson(indent=1000000000) }}",
    "own text": "x" * 300_000,
}
DEEP = {
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "blocks": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
}


def render(source):
    return template_render.render(source, 0, {"messages": []})


@pytest.mark.parametrize("name", SLOW)
def test_time_is_bounded(name, monkeypatch):
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    began = time.thread_time()
    with pytest.raises(template_limits.TemplateLimit, match=r"takes longer than 0.2 s, as a loop"):
        render(SLOW[name])
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("name", LARGE)
def test_size_is_bounded_before_anything_is_made(name):
    began = time.thread_time()
    with pytest.raises((template_limits.TemplateLimit, OverflowError)) as caught:
        render(LARGE[name])
    assert not isinstance(caught.value, MemoryError)
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("name", DEEP)
def test_recursion_is_a_fault_of_the_template(name):
    with pytest.raises(template_render.FAULTS) as caught:
        render(DEEP[name])
    assert "\n" not in template_render.told(caught.value)


def test_one_sentence_at_load_and_at_each_rendering(tmp_path, monkeypatch):
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    file = tmp_path / "loops.jinja"
    file.write_text(CHATML + SLOW["loops"], encoding="utf-8")
    with pytest.raises(ModelError, match=r"loops.jinja' cannot render .* takes longer than 0.2 s") as told:
        load_template(str(file))
    assert "\n" not in str(told.value)
    file.write_text(CHATML + "{% if messages[0].content == 'now' %}" + LOOPS + ENDS + "{% endif %}")
    template = load_template(str(file))  # harmless with the probes
    with pytest.raises(DataError, match="takes longer"):
        template.render_prompt((Message("user", "now"),))
    assert "later" in template.render_prompt((Message("user", "later"),))


def test_limits_hold_in_any_thread_and_one_rendering_does_not_use_up_anothers():
    faults = []

    def run():
        for _ in range(3):
            try:
                render(LARGE["*"])
            except template_limits.TemplateLimit as error:
                faults.append(str(error))
            assert render("{{ 'ab' * 1000000 }}") == "ab" * 1_000_000

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == 9


def test_long_conversations_have_their_room():
    template = load_template("chatml")
    long = "word " * 4_000_000  # 20 million characters, more than a template may make out of nothing
    assert len(long) > template_limits.MAX_CHARS
    assert long in template.render_prompt((Message("user", long),))


def test_what_loops_say_of_themselves_is_as_in_jinja():
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ '.' if loop.last else ',' }}"
        "{{ loop.previtem.role if loop.previtem is defined }}{% else %}none{% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k ~ v }}{% endfor %}{{ 'abcd'[1:3] }}{{ 'abc'[::-1] }}"
        "{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}"
    )
    rows = [{"role": "user"}, {"role": "assistant"}]
    assert template_render.render(source, 0, {"messages": rows}) == "1/2,2/2.usera1bccba12"
    assert template_render.render(source, 0, {"messages": []}) == "nonea1bccba12"


def test_what_draws_random_numbers_does_not_exist():
    for source in ("{{ [1, 2] | random }}", "{{ lipsum() }}"):
        with pytest.raises(template_render.FAULTS):
            render(source)


def test_faults_in_one_line():
    assert template_render.told(ValueError("a\n  b")) == "a b"
    assert template_render.told(ValueError()) == "ValueError"
    assert template_render.told(ValueError("x" * 301)) == "x" * 300
    assert template_render.told(RecursionError("deep")) == "it calls itself without end, or nests too deeply"
    assert template_render.told(MemoryError()) == "it needs more memory than there is"
