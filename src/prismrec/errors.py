"""Errors that a person can mend: each says what is wrong, where, and what to do.

Our choice: whatever a user can cause (a missing file, a misspelt key, artefacts of two workspaces)
raises a `UserError`, and the command line prints its text without a traceback. Whatever only a bug
can cause is an `assert`, and keeps its traceback.
"""


class UserError(Exception):
    """Something the user can mend.

    Args:
        what: what is wrong, one sentence.
        where: the file, key or dataset it is about; may be empty.
        mend: what to do about it, if possible a command to type; may be empty.
    """

    def __init__(self, what: str, where: str = "", mend: str = "") -> None:
        super().__init__(what, where, mend)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class MissingArtefact(UserError):
    """A dataset that has to be read does not exist, or is not whole."""


class LineageError(UserError):
    """Two artefacts were made from different versions of one dataset, or in two workspaces."""


class DataRejected(UserError):
    """The data breaks its contract beyond the configured threshold."""


class ParameterError(UserError):
    """A parameter, an environment or a pipeline name that the project does not know or accept."""
