"""A check that schemathesis loads: a body that the description allows is only refused by a rule that no schema says."""

import re

import schemathesis

RULES = re.compile(
    r"must be \[left, top, right, bottom\] as fractions"
    r"|holds no readable text|The argument 'query' is missing|The image is empty"  # of nothing but white space
    r"|not valid Unicode|different items"
    r"|control characters|path is longer|image reference is longer|That is not a folder"  # names of files
    r"|data: URI is|That looks like base64|file: address|The address|host of the address|fetched from the ports"
    r"|There is no picture in the messages|The message's picture|may hold \d+ pictures"
    r"|The form "
)


@schemathesis.check
def valid_bodies_are_taken(ctx, response, case):
    """Instead of `positive_data_acceptance`, to which every 400 is a fault."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and response.status_code == 400 and not RULES.search(response.text):
        raise AssertionError(f"A body that the description allows is refused: {response.text}")
