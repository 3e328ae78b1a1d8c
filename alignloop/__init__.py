"""AlignLoop: the whole loop of LLM post-training, exact and fast on one machine."""

__version__ = "0.1.0"
