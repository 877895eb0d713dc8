"""What a question takes for granted, from its words alone."""

import subprocess
import sys
import time

import pytest

from blip2tools.vision.premises import is_about_no_picture, read
from blip2tools.vision.premises.statements import near

PRESUPPOSED = {
    # what is said of a thing is asked, the thing is not
    "Is the star red?": ["a star"],
    "Does the star look red?": ["a star"],
    "Isn't the star red?": ["a star"],
    "The star is red, isn't it?": ["a star"],
    "Is it true that the star is red?": ["a star"],
    "Would you say the star is red?": ["a star"],
    "Is the star's colour red?": ["a star"],
    "What is the colour of the star?": ["a star"],
    "the star is what color?": ["a star"],
    "Tell me the color of the star": ["a star"],
    "Describe the star.": ["a star"],
    "what size is the ring?": ["a ring"],
    "Where is the star?": ["a star"],
    "in which part of the picture is the star?": ["a star"],
    "What is to the left of the ring?": ["a ring"],
    "what is written on the sign?": ["a sign"],
    "Which digit is on the sign?": ["a sign"],
    "Does this dog have a black nose?": ["a dog"],
    "How many people are on the bench?": ["a bench"],
    "Is there a cat on the table?": ["a table"],
    "How many of the stars are red?": ["stars"],
    # an attribute that tells which thing is meant
    "Where is the blue star?": ["a star", "a blue star"],
    "what shape is the blue object?": ["a blue object"],
    "which shape is green?": ["a green shape"],
    "Is the red one bigger than the blue one?": ["a red one", "a blue one"],
    "What does the black and white sign mean?": ["a sign", "a black and white sign"],
    # two things
    "Which is bigger, the star or the ring?": ["a star", "a ring"],
    "Are the star and the ring the same color?": ["a star", "a ring"],
    "Is the star left of the ring?": ["a star", "a ring"],
    "What color is the star left of the ring?": ["a star", "a ring", "a star left of a ring"],
    "Is the star above the ring red?": ["a star", "a ring", "a star above a ring"],
    "What is the girl on the bench wearing?": ["a girl", "a bench", "a girl on a bench"],
    "What colour is the mermaid's hair?": ["hair", "a mermaid"],
    "The star above the ring is what color?": ["a star", "a ring", "a star above a ring"],
    "Between the star and the ring, which one is bigger?": ["a star", "a ring"],
    # the same in a clause of its own
    "What color is the star that is above the ring?": ["a star", "a ring", "a star above a ring"],
    "What color is the star which lies below the ring?": ["a star", "a ring", "a star below a ring"],
    "Is the man who is sitting on the bench happy?": ["a man", "a bench"],
    "What size is the star that is red?": ["a star", "a red star"],
    # the same said before
    "I see a star. What color is it?": ["a star"],
    "There is a red star. Is it large?": ["a star", "a red star"],
    "Look at the star. What color is it?": ["a star"],
    # other openings
    "How come the star is red?": ["a star"],
    "Whereabouts is the star?": ["a star"],
    "Please check if the star is red": ["a star"],
    "I'd like to know whether the star is red": ["a star"],
    "Would it be right to call the star red?": ["a star"],
    "Find the star and tell me its color": ["a star"],
    "Is the leftmost star red?": ["a star"],
    "What is found below the star?": ["a star"],
    "What color are the star's edges?": ["a star"],
    # names of several words, several things, things without number
    "Is the fire hydrant yellow?": ["a fire hydrant"],
    "What color jacket is the woman wearing?": ["a jacket", "a woman"],
    "What color are the girls shoes?": ["shoes", "girls"],
    "Is the water clear?": ["water"],
    "What color is the pair of shoes?": ["shoes"],
    "Does the bus stop here?": ["a bus"],
    "Does the bus stop have a bench?": ["a bus stop"],
    "What is a man doing?": ["a man"],
    "Who is holding an umbrella?": ["an umbrella"],
    "Why are there stickers on the door?": ["stickers", "a door", "stickers on a door"],
}
NOTHING = [
    "Is there a star?",
    "Are there any stars?",
    "Can you see any stars?",
    "Do you see a star anywhere?",
    "Does the image show a star?",
    "Is a star visible?",
    "Is the star visible?",
    "Is a star in the picture?",
    "Can a star be seen?",
    "Do any stars appear?",
    "Tell me if there is a star",
    "How many stars are there?",
    "what is the number of stars?",
    "count the stars",
    "are there more stars than crosses?",
    "Is there a star, a ring or a cross?",
    "Is any of the shapes a star?",
    "Isn't there a star?",
    "There isn't a star, is there?",
    "There are no stars. How many rings are there?",
    "Which one of the shapes is a star?",
    "Does it look like a star?",
    "Please check whether there is a star",
    "Is this a bathroom?",
    "Are these cows or horses?",
    "Is this in the kitchen?",
    "What animal is this?",
    "What kind of dog is it?",
    "Is the photo in colour?",
    "What time is it?",
    "what color is the background?",
    "What is the weather like?",
    "",
    "?",
    "the the the of of",
]


@pytest.mark.parametrize(("question", "statements"), PRESUPPOSED.items())
def test_what_is_taken_for_granted(question, statements):
    reading = read(question)
    assert [statement.text for statement in reading.statements] == statements
    kinds = [statement.kind for statement in reading.statements]
    assert kinds == sorted(kinds, key=["thing", "attribute", "relation"].index)


@pytest.mark.parametrize("question", NOTHING)
def test_what_is_asked_is_not_taken_for_granted(question):
    reading = read(question)
    assert reading.statements == ()
    assert reading.pronoun == ""


@pytest.mark.parametrize("question", ["Why is he laughing?", "What is she holding?", "Are they happy?"])
def test_a_pronoun_names_nobody(question):
    reading = read(question)
    assert reading.statements == ()
    assert reading.pronoun in question.lower().split()


def test_a_matcher_reads_it_in_plain_words():
    def plain(question):
        return [statement.plain for statement in read(question).statements]

    assert plain("Are the crosses red?") == ["a cross"]
    assert plain("Are the children happy?") == ["a child"]
    assert plain("Is the green one big?") == ["a green object"]
    assert plain("Where is the big star?")[-1] == "a large star"
    assert plain("What color is the star on the left-hand side of the ring?")[-1] == "a star to the left of a ring"
    assert plain("What color is the star beneath the ring?")[-1] == "a star below a ring"


def test_near_alternatives():
    (_, blue) = read("Where is the blue star?").statements
    assert "a red star" in near(blue)
    assert "a blue star" not in near(blue)
    (*_, left) = read("What color is the star left of the ring?").statements
    assert "a star to the right of a ring" in near(left)
    assert near(read("Is the star red?").statements[0]) == ()


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "what is the capital of france",
        "Who wrote Hamlet?",
        "When was Einstein born?",
        "What is 17 * 23?",
        "How many legs does a spider have?",
        "What does HTTP stand for?",
        "Which country has the largest population in the world?",
        "Who was the first president of the United States?",
        "What is the chemical symbol for gold?",
    ],
)
def test_about_no_picture(question):
    assert is_about_no_picture(question)


@pytest.mark.parametrize(
    "question", [*PRESUPPOSED, *NOTHING, "What is the name of the shop?", "Was the photo taken in Paris?"]
)
def test_about_a_picture(question):
    assert not is_about_no_picture(question)


def test_it_takes_well_below_a_millisecond():
    """A bound that only a fault in kind breaks: the longest question allowed, made only of words that need looking ahead."""
    began = time.process_time()
    for question in ("the red " * 64, "is the and " * 46, "dog's " * 85, "what " * 102, "of the left side " * 30):
        read(question)
        is_about_no_picture(question)
    assert time.process_time() - began < 2


def test_reading_needs_no_model():
    code = "import sys, blip2tools.vision.premises; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
