"""A check that schemathesis loads: a body that the description allows is only refused by a rule that no schema says."""

import re

import schemathesis

RULES = re.compile(
    r"must be \[left, top, right, bottom\] as fractions"
    r"|holds no readable text|The argument 'query' is missing"  # of nothing but white space
    r"|not valid Unicode"
    r"|Only one of the arguments"
    r"|control characters|A part of the path is longer|path is longer|is not a path"  # names of files
    r"|different items"
    r"|There is no picture in the messages|The message's picture|may hold \d+ pictures"
    r"|The form "
)


@schemathesis.check
def valid_bodies_are_taken(ctx, response, case):
    """Instead of `positive_data_acceptance`, to which every 400 is a fault."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and response.status_code == 400 and not RULES.search(response.text):
        raise AssertionError(f"A body that the description allows is refused: {response.text}")
