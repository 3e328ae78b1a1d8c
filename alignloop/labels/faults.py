"""Why the store says no. A page turns `reason` into its reader's language and `status` into HTTP."""

from __future__ import annotations

from alignloop.errors import EngineError, UserError


class Rejected(UserError):
    """A request that cannot be carried out as asked; nothing was written.

    Args:
        message: one sentence for a person.
        status: HTTP status that fits: 400, 403, 404, 409, 410 or 422.
        reason: short stable key, such as `conflict` or `withdrawn`.
    """

    def __init__(self, message: str, *, status: int = 400, reason: str = "invalid") -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


class StoreUnavailable(EngineError):
    """The database cannot take a write now (`locked`, `full`, `lost`, `damaged`); nothing was written.

    Args:
        message: one sentence for a person.
        reason: short stable key.
    """

    status = 503

    def __init__(self, message: str, *, reason: str) -> None:
        self.reason = reason
        super().__init__(message)
