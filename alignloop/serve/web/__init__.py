"""The chat page: its routes, words and files."""
