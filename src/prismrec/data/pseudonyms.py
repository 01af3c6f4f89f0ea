"""What users are called where people read of them: messages and reports.

Our choice: a number by order of appearance and no hash, for a hash of a short or a running id is undone by trying all.
"""


class Pseudonyms:
    """Names of users within one report or message: "user 1", "user 2", … in the order in which they are asked for."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, user_id: str) -> str:
        """A user's name: the same for the same id, and made without it."""
        return self._names.setdefault(user_id, f"user {len(self._names) + 1}")
