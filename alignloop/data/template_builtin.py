"""Chat templates that come with AlignLoop, as jinja text."""

from __future__ import annotations

import json

from alignloop.data.values import INPUT_MARK

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ALPACA = (
    "{% set mark = " + json.dumps(INPUT_MARK) + " %}{% set turns = messages %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{{ messages[0]['content'] + '\n\n' }}"
    "{% elif mark in messages[0]['content'] %}"
    "{{ 'Below is an instruction that describes a task, paired with an input that provides further context. '"
    " + 'Write a response that appropriately completes the request.\n\n' }}"
    "{% else %}"
    "{{ 'Below is an instruction that describes a task. '"
    " + 'Write a response that appropriately completes the request.\n\n' }}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'].replace(mark, '\n\n### Input:\n', 1) + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
BUILT_IN = {"chatml": _CHATML, "alpaca": _ALPACA, "plain": _PLAIN}
