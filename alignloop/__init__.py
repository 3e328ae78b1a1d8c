"""AlignLoop: the whole loop of LLM post-training, exact and fast on one machine.

Every stage is one typed call whose keyword arguments are named like the recipe keys:

    from alignloop import api
    from alignloop.config import SFTConfig
    run = api.run(SFTConfig(dataset="demos.jsonl", output_dir="runs/sft"))

The pieces below stand alone: `data`, `objectives`, `model`, `training`, `rl`, `evaluation`.
"""

__version__ = "0.1.0"
