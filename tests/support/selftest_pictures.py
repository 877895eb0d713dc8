"""The self-test's pictures, drawn from the demo world: `python -m tests.support.selftest_pictures`. A test compares."""

from pathlib import Path

import blip2tools
from blip2tools.demo.draw import draw
from blip2tools.demo.world import GROUND, PAINT, Background, BackgroundName, Color, Scene, Shape, Thing

FOLDER = Path(blip2tools.__file__).parent / "checkpoints" / "selftest" / "pictures"


def _scene(shape: Shape, color: Color, x: float, y: float, ground: BackgroundName) -> Scene:
    thing = Thing(shape, color, "large", x, y, radius=0.19, tilt=0, paint=PAINT[color])
    return Scene((thing,), Background(ground, GROUND[ground], bands=6, phase=0, upright=True))


SCENES = {
    "circle.png": _scene("circle", "red", 0.5, 0.5, "white"),
    "star.png": _scene("star", "blue", 0.22, 0.78, "black"),
    "heart.png": _scene("heart", "yellow", 0.78, 0.22, "brown"),
}

if __name__ == "__main__":
    for name, scene in SCENES.items():
        draw(scene).save(FOLDER / name, optimize=True)
