"""What a rule finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with one object."""

    where: str
    """The object, `Kind/name`, and where it helps the place in it."""
    what: str
    """What is wrong."""
    mend: str
    """How to put it right."""
    rule: str = ""
    """The name of the rule that found it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.mend} [{self.rule}]"
