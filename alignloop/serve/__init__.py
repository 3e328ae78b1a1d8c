"""A trained policy over HTTP, with OpenAI's interface, and in files for other programs."""
