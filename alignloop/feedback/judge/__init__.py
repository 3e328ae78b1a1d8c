"""Judgements by language models: local ones or any OpenAI-compatible endpoint."""
