"""A page of tables and pictures in one HTML file, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, select_autoescape

from prox_monai import __version__
from prox_monai.data.complete import complete_file


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head; the first column is to the left, the others to the right.

    Args:
        head: names of the columns.
        rows: as many cells each.
        marked: indices of the rows that stand out.
        caption: what the table says.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    caption: str = ""

    def __post_init__(self) -> None:
        if wrong := [row for row in self.rows if len(row) != len(self.head)]:
            raise ValueError(f"rows must have {len(self.head)} cells as the head has, got {len(wrong[0])}: {wrong[0]}.")


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG.

    Args:
        path: the file; the page holds a copy of it.
        caption: what it shows, and where shown data come from; also read to who cannot see it.
    """

    path: Path
    caption: str

    @property
    def data(self) -> str:
        """The picture as base64 text."""
        return base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and what stands under it: paragraphs, tables, pictures."""

    title: str
    parts: tuple[str | Table | Picture, ...]


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write a page; it appears when it is complete.

    Args:
        path: the HTML file to write.
        title: of the page.
        sections: what it holds, in order.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=None,
    )
    environment.tests |= {name: lambda part, kind=kind: isinstance(part, kind) for name, kind in _KINDS.items()}
    template = environment.from_string(files("prox_monai.report").joinpath("page.html.j2").read_text("utf-8"))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        partial.write_text(template.render(title=title, sections=sections, version=__version__), encoding="utf-8")


_KINDS = {"table": Table, "picture": Picture}
