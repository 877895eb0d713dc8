"""Several hundred forms of picture files, each as Chromium draws it: from recorded pixels, and in a Chromium on this machine."""

import pytest

from blip2tools.pictures import images
from tests.pictures.forms import build, chromium, compare, table


@pytest.fixture(scope="module")
def forms():
    return build.forms()


@pytest.fixture(scope="module")
def drawn():
    return compare.recorded()[1]


def test_the_forms_are_those_that_were_drawn(forms, drawn):
    assert set(forms) == set(drawn)
    assert len(forms) > 600


@pytest.mark.parametrize("group", sorted({name.partition("_")[0] for name in compare.recorded()[1]}))
def test_a_picture_is_what_chromium_draws(forms, drawn, group):
    verdicts = {
        name: compare.judged(name, data, drawn[name]) for name, data in forms.items() if name.partition("_")[0] == group
    }
    wrong = {name: verdict.text for name, verdict in verdicts.items() if not verdict.agrees}
    assert {name: text for name, text in wrong.items() if name not in compare.EXCEPTIONS} == {}
    mended = [name for name in compare.EXCEPTIONS if name in verdicts and name not in wrong]
    assert mended == [], "no exceptions any more"


def test_sizes_without_decoding_are_those_of_the_picture(forms):
    """One rule for which way is up: `size_of` and `decode` used to differ."""
    for name, data in forms.items():
        picture, _ = compare.decoded(data)
        if picture is not None:
            assert images.size_of(data, compare.SETTINGS) == picture.size, name


def test_the_table_of_the_page(forms):
    assert table.PAGE.read_text(encoding="utf-8") == table.page(forms), "run: python -m tests.pictures.forms --record"


@pytest.mark.browser
@pytest.mark.slow
def test_the_chromium_here_draws_the_same(forms, drawn):
    """A newer one may draw differently: then the rules have to be checked again. An older one does: 150 draws 27 otherwise."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")
    try:
        with chromium.launched() as browser:
            pictures = chromium.drawn(browser, {**forms, **build.whole(forms)})
            others = 0.03 if major(browser.version) >= major(compare.recorded()[0]) else 0.05
    except sync_api.Error as error:
        pytest.skip(f"no Chromium: install it, or run `playwright install chromium` ({str(error).splitlines()[0]})")
    fresh = {name: compare.summed(image) for name, image in pictures.items()}
    both = [name for name in forms if fresh[name] and drawn[name]]
    changed = [
        name
        for name in both
        if fresh[name].size != drawn[name].size
        or any(compare.apart(*pair) > 2 for pair in zip(fresh[name].colours, drawn[name].colours, strict=True))
    ]
    assert len(changed) <= others * len(both), changed
    agree = [name for name in both if compare.judged(name, forms[name], fresh[name]).agrees]
    assert len(agree) >= (1 - others) * len(both)


def major(version: str) -> int:
    return int(version.partition(".")[0])
