"""The report: one static page of grids' results, which works from disk, without a network and within 10 MB.

`content` gathers what the page shows, from the same layout as the tables; `html` writes it. A page is a function of its
runs alone: made again from the same ones, it has the same bytes.
"""

from workbench.paper.page.content import Part, empty_part, part_of
from workbench.paper.page.html import MOST_BYTES, PageTooLarge, page_html

__all__ = ["MOST_BYTES", "PageTooLarge", "Part", "empty_part", "page_html", "part_of"]
