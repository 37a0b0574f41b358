import ast
import re

from tests import api_reference


def test_the_pages_are_what_the_docstrings_say():
    assert api_reference.outdated() == [], (
        "run: python tests/api_reference.py --write"
    )


def test_the_index_leads_to_every_module():
    pages = api_reference.pages()
    links = re.findall(r"\]\((\w+\.md)#(\w+)\)", pages["README.md"])
    headings = {
        name: {
            api_reference.anchor(heading)
            for heading in re.findall(r"^## (.*)$", text, re.M)
        }
        for name, text in pages.items()
    }
    assert all(place in headings[name] for name, place in links)
    modules = {
        path.relative_to(api_reference.PACKAGE).as_posix()
        for path in api_reference.PACKAGE.rglob("*.py")
        if not path.stem.startswith("_")
    }
    assert len(links) == len(modules)


def test_an_entry_says_what_the_docstring_says():
    tree = ast.parse(
        '''"""A module of <one> name."""

def shown(a, *, b=2):
    """What it does.

    Args:
      a: int [n].
    """

class Shape(Base):
    """A shape."""

    def __init__(self, side=1.5):
        """Makes it."""

    @property
    def area(self):
        """Of it."""

    @staticmethod
    def unit(side):
        """A square."""

    def _own(self):
        """Nobody's business."""

def _hidden():
    """Not shown."""
'''
    )
    text = api_reference.module("room", "shapes", tree)
    assert text.startswith("## room.shapes\n\nA module of \\<one\\> name.\n")
    assert "### `shown(a, *, b=2)`\n\nWhat it does.\n" in text
    assert "```text\nArgs:\n  a: int [n].\n```" in text
    assert "### class `Shape(Base)`" in text
    assert "#### `Shape(side=1.5)`\n\nMakes it." in text
    assert "#### `Shape.area`" in text
    assert "#### `Shape.unit(side)`" in text
    assert "_own" not in text and "_hidden" not in text
