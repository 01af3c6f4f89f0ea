"""docs/reference/bad-input.md, made of the table of corrupt inputs."""

from data.corrupt.inputs import INPUTS, Corrupt, Refused

INTRODUCTION = """# Bad input

Written by `make docs` from `tests/data/corrupt/inputs.py`; do not edit it by hand. Each line is a test: a good data set
with one thing broken, run through reading, writing and validating.

Three things may happen. **reject**: the run stops with a message that names the file, what is wrong and what to do, and
nothing half-written stays. **quarantine**: the row is taken out and kept with its file, number, text and the rule it
breaks; past `max_quarantined_share` the run is rejected. **warn**: the rows stay, and the report says what is odd. An
input that gets none of them is read as it is. Rows in are rows out and rows in the quarantine, always.

What a rule or a warning means and how to mend it: [data contract](data-contract.md).

| input | what is wrong | gets | message, rule or warning |
|---|---|---|---|
"""
OUTRO = """
Beside these, each a test of its own: a file that is replaced, grown or removed while it is read (reject, "was changed
while it was read"); a file that may not be read (reject, "cannot be read: Permission denied"); a compressed file that
turns out to be cut off far down, and a disk that fills up while a table is written (reject, "The disk is full"): the
version that was being written is gone, the one before it stays. And 10,000 random damages to small files in csv, tsv,
JSON Lines, Parquet and gzip: rejected, or read with every row accounted for; and the fast and the careful reader agree
in every cell.
"""


def page() -> str:
    """The page's text."""
    rows = (f"| {name} | {case.what} | {' | '.join(_gets(case))} |" for name, case in INPUTS.items())
    return INTRODUCTION + "\n".join(rows) + "\n" + OUTRO


def _gets(case: Corrupt) -> tuple[str, str]:
    if isinstance(case.gets, Refused):
        return "reject", f'"… {case.gets.says} …"'
    rules = [f"`{rule}`" for rule in case.gets.quarantined]
    warnings = [f"`{warning}`" for warning in case.gets.warned]
    severities = ["quarantine"] * bool(rules) + ["warn"] * bool(warnings)
    return ", ".join(severities) or "read", ", ".join(rules + warnings)
