"""The browser, for the tests of the page."""

from tests.support.browser import browser, visit

__all__ = ["browser", "visit"]
