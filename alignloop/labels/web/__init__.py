"""The labelling page: a small starlette application over the store."""
