"""The HTML page of a report, parsed; and the reports that the tests of pages share."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import reports
from secateurs.report.page import render
from secateurs.report.report import Report

__all__ = ["DASH", "MINUS", "VOID", "Page", "cases", "page"]

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects the visible text, the addresses that the page would load, and whether the tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "xlink:href"}]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def page(*shown: Report) -> Page:
    return Page(render(shown))


def cases() -> dict[str, list[Report]]:
    twelve, six = reports.report(12), reports.report(6)
    return {
        "twelve layers": [twelve],
        "missed": [reports.missed(six)],
        "one target": [replace(six, models=six.models[:1])],
        "unlabelled": [reports.unlabelled(six)],
        "sparse": [reports.sparse(six)],
        "learned": [reports.learned(six)],
        "no model": [replace(six, models=[])],
        "several": [twelve, reports.report(12, method="cofi"), six],
    }
