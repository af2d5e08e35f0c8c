from __future__ import annotations

import base64
from html.parser import HTMLParser

import pytest

from prox_monai.report.page import Picture, Section, Table, write_page

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


class Read(HTMLParser):
    """What a browser would show: the text of each kind of element, the sources of pictures, what is left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.marked = 0
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.sources += [given["src"]] if "src" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.ids += [given["id"]] if "id" in given else []
        self.marked += given.get("class") == "marked"
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self._open[-1], []).append(data.strip())


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "dot.png").write_bytes(PNG)
    return Picture(tmp_path / "dot.png", "a dot")


def test_a_page_holds_everything_itself(tmp_path, picture):
    table = Table(("subnet", "Dice"), (("smallest", "0.8"), ("largest", "0.9")), frozenset({1}), "two subnets")
    write_page(tmp_path / "page.html", "Two", [Section("First", ("some words", table)), Section("Second", (picture,))])
    page = Read((tmp_path / "page.html").read_text())
    assert page.texts["h1"] == ["Two"]
    assert page.texts["h2"] == ["First", "Second"]
    assert page.texts["p"] == ["some words"]
    assert page.texts["th"] == ["subnet", "Dice"]
    assert page.texts["td"] == ["smallest", "0.8", "largest", "0.9"]
    assert page.texts["figcaption"] == ["two subnets", "a dot"]
    assert page.marked == 1
    assert page.sources == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert [link.removeprefix("#") for link in page.links] == page.ids


def test_text_is_no_markup(tmp_path):
    write_page(tmp_path / "page.html", "<b>", [Section("a & b", ("<script>alert(1)</script>",))])
    page = Read((tmp_path / "page.html").read_text())
    assert page.texts["h1"] == ["<b>"]
    assert page.texts["p"] == ["<script>alert(1)</script>"]
    assert "script" not in page.texts


def test_a_page_that_fails_leaves_the_old_one(tmp_path, picture):
    path = tmp_path / "page.html"
    write_page(path, "old", [])
    picture.path.unlink()
    with pytest.raises(FileNotFoundError):
        write_page(path, "new", [Section("gone", (picture,))])
    assert "old" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_rows_have_the_cells_of_the_head():
    with pytest.raises(ValueError, match=r"rows must have 2 cells as the head has, got 1: \('x',\)"):
        Table(("a", "b"), (("x",),))
