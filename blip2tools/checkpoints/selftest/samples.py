"""The bundled pictures: one large coloured shape each, drawn from the demo world.

The demo model knows nothing else, and for a model of photographs they are as plain as a picture can be: the family was
trained on pairs from the web, drawings and logos among them. They tell a model that sees from one that does not, but
not how well it describes photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTION = "what color is the circle?"
ANSWERS = ("red", "blue")


@dataclass(frozen=True, slots=True)
class Picture:
    """One bundled picture.

    Attributes:
        file: its name in the folder `pictures`.
        statement: true of it, and of none of the others.
    """

    file: str
    statement: str

    def open(self) -> Image:
        """The picture, RGB, 224 px square."""
        from PIL import Image

        with (resources.files(__package__) / "pictures" / self.file).open("rb") as stream:
            return Image.open(stream).convert("RGB")


PICTURES = (
    Picture("circle.png", "a red circle"),
    Picture("star.png", "a blue star"),
    Picture("heart.png", "a yellow heart"),
)
