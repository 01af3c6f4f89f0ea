"""An item by its text alone. In a file of its own, for it needs neither torch nor a text encoder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NewItem:
    """What a text says of an item."""

    title: str
    description: str = ""
    categories: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One text, as training joins them: title, categories, description."""
        return ". ".join(part for part in (self.title, ", ".join(self.categories), self.description) if part)
