"""Build all forms, draw each in Chromium, decode each here, and tell where the two differ."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.pictures.forms import build, chromium, compare, table


def main() -> None:
    """Write the forms that differ, and how many of each container agree."""
    write = sys.stdout.write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only forms whose names begin so")
    parser.add_argument(
        "--record", action="store_true", help="keep what Chromium drew, and write the table of the page"
    )
    given = parser.parse_args()
    every = build.forms()
    forms = {name: data for name, data in every.items() if not given.names or name.startswith(tuple(given.names))}
    with chromium.launched() as browser:
        version = browser.version
        pictures = chromium.drawn(browser, {**forms, **build.whole(forms)})
        drawn = {name: compare.summed(image) for name, image in pictures.items()}
    verdicts = {name: compare.judged(name, data, drawn[name]) for name, data in forms.items()}
    for name, verdict in verdicts.items():
        if not verdict.agrees:
            write(f"{name:36} {verdict.text}\n{'':36} {compare.EXCEPTIONS.get(name, 'NOT KNOWN')}\n")
    count = Counter((name.partition("_")[0], verdict.group) for name, verdict in verdicts.items())
    for (container, group), number in sorted(count.items()):
        write(f"{container:6} {group:16} {number:4}\n")
    both = [verdict for verdict in verdicts.values() if verdict.group in ("agrees", "differs")]
    share = sum(verdict.agrees for verdict in both) / max(1, len(both))
    write(f"{len(both)} forms that both show, {share:.1%} within {compare.TOLERANCE} levels with the same sides\n")
    if given.record and not given.names:
        compare.record(drawn, version)
        table.PAGE.write_text(table.page(every), encoding="utf-8")


if __name__ == "__main__":
    main()
