"""The sight test: games that need looking to win, and an agent that reads only words."""

import json
from collections import Counter

import pytest

from benchmarks import games, sight
from benchmarks.games import GAMES, make_game
from benchmarks.player import holds, read_task
from benchmarks.sight import Score, SightReport, run_sight
from blip2tools.cli import main


@pytest.fixture(scope="module")
def report():
    return run_sight(seed=3, games=2)


def test_the_bars(report):
    total = report.total
    assert total.tools >= 0.9
    assert total.caption <= total.tools - 0.2
    assert report.at_chance


def test_every_game_is_played(report):
    assert [score.game for score in report.scores] == list(GAMES)
    assert all(0 <= getattr(score, name) <= 1 for score in report.scores for name in ("tools", "caption", "swapped"))
    assert report.table().count("\n") == len(GAMES) + 2
    assert report.command == "python -m benchmarks.sight --seed 3 --games 2"
    assert json.loads(json.dumps(report.as_dict()))["scores"][-1]["game"] == "all"


@pytest.mark.parametrize("kind", GAMES)
def test_a_game_is_a_function_of_its_seed(kind):
    one, same, other = make_game(kind, 1, 0), make_game(kind, 1, 0), make_game(kind, 2, 0)
    assert (one.text, one.answer) == (same.text, same.answer)
    assert [picture.tobytes() for picture in one.pictures.values()] == [
        picture.tobytes() for picture in same.pictures.values()
    ]
    assert one.text != other.text
    assert list(one.pictures) == read_task(one.text).pictures


@pytest.mark.parametrize("kind", GAMES)
def test_only_the_right_answer_scores(kind):
    game = make_game(kind, 1, 0)
    assert game.score(game.answer) == 1
    assert game.score(f" {game.answer}\n") == 1
    assert game.score("no idea") == 0
    if kind == "claims":
        wrong = " ".join(str(number) for number in range(1, 11) if str(number) not in game.answer.split())
        assert game.score(wrong) == 0
        assert game.score("") == 0.5


def test_pictures_with_one_caption_cannot_be_told_apart_by_it(vision):
    """`which` and `difference` are won by looking alone: the captions are equal."""
    for kind in ("which", "difference"):
        said = [result.text for result in vision.caption(list(make_game(kind, 4, 0).pictures.values()))]
        assert Counter(said).most_common(1)[0][1] >= len(said) - 1  # the model errs now and then


def test_guessing_the_prior_gains_nothing():
    """Each option is right as often as the others: a player who does not look cannot do better than chance."""
    answers = [make_game("sheet", 1, number).answer for number in range(40)]
    assert max(answers.count(word) for word in set(answers)) < 20
    truths = [make_game("claims", 1, number).answer.split() for number in range(10)]
    assert all(len(true) == games.CLAIMS // 2 for true in truths)


CAPTION = "a small red cross, a large blue star and a small pink heart on a gray background"


@pytest.mark.parametrize(
    ("statement", "truth"),
    [
        ("a red cross", True),
        ("a large cross", False),
        ("an object and a blue star on a gray background", True),
        ("a blue star on a white background", False),
        ("a red cross to the left of a pink heart", True),
        ("a red cross to the right of a pink heart", False),
        ("a red cross above a blue star", None),
        ("a green cross above a blue star", False),
        ("a blue star at the top left of a gray background", None),
        ("two stars and a ring", False),
    ],
)
def test_what_a_caption_tells(statement, truth):
    assert holds(statement, CAPTION) is truth


def test_the_report_knows_chance():
    scores = (Score("which", 1, 0.2, 0.2, 1 / 6), Score("claims", 1, 0.7, 0.5, 0.5))
    fair = SightReport(1, 20, "2026-01-01", scores)
    assert fair.at_chance
    assert not SightReport(1, 20, "2026-01-01", (Score("which", 1, 0.2, 0.9, 1 / 6), scores[1])).at_chance
    assert "| **all** | **100 %** | **45 %** | **35 %** | **33 %** |" in fair.table()


def test_at_least_two_games():
    with pytest.raises(ValueError, match="at least two games"):
        run_sight(games=1)


def test_the_command(capsys):
    assert sight.main(["--games", "2", "--seed", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["command"] == "python -m benchmarks.sight --seed 5 --games 2"
    assert [score["game"] for score in told["scores"]] == [*GAMES, "all"]


@pytest.mark.parametrize(
    ("run", "words"), [(main, ["bench"]), (main, ["bench", "smell"]), (sight.main, ["--games", "1"])]
)
def test_wrong_usage(run, words, capsys):
    with pytest.raises(SystemExit) as exit:
        run(words)
    assert exit.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.long
def test_the_official_client_sees_as_much():
    """The player scores the same over the wire, with its short schemas."""
    over = run_sight(seed=3, games=2, kinds=("which", "claims"), face="mcp")
    assert over.total.tools >= 0.9
    assert over.command == "python -m benchmarks.sight --seed 3 --games 2 --face mcp"
