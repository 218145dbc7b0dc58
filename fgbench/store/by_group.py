"""Find one group's lines in a growing table without reading the other groups' lines again."""

from __future__ import annotations

import csv
from pathlib import Path

TAIL = 200  # so many bytes before the end of what was read show whether a file is still the same


class LinesByGroup:
    """Where each group's lines are in a CSV; later looks read only what was appended since.

    It remembers positions instead of lines, so that it stays small however long the table is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def of(self, group: str) -> list[bytes]:
        """The header, then the group's lines, without their ends; empty where there is no file.

        Raises:
            OSError: the file cannot be read.
            ValueError, csv.Error: its header has no group, or a line is none of CSV.
        """
        if not self.path.exists():
            self._forget()
            return []
        with self.path.open("rb") as file:
            if not self._same(file):
                self._forget()
            file.seek(self.end)
            self._look_through(file.read())
            found = [self.header] if self.header else []
            for start, end in self.places.get(group, ()):
                file.seek(start)
                found += file.read(end - start).split(b"\n")[:-1]
        return found

    def _forget(self) -> None:
        self.end, self.tail, self.header, self.column = 0, b"", b"", 0
        self.places: dict[str, list[tuple[int, int]]] = {}

    def replaced(self, group: str, own: bytes) -> bytes:
        """The file's whole lines, with those of a group replaced by `own` at the end.

        Once that is written, the places are right again; the caller writes it or forgets this object.

        Raises:
            OSError, ValueError, csv.Error: as for `of`.
        """
        self.of(group)
        content = self.path.read_bytes()[: self.end]
        gone = self.places.pop(group, [])
        kept, at = [], 0
        for start, end in gone:
            kept.append(content[at:start])
            at = end
        content = b"".join([*kept, content[at:]])
        for places in self.places.values():
            for number, (start, end) in enumerate(places):
                before = sum(last - first for first, last in gone if first < start)
                places[number] = (start - before, end - before)
        if own:
            self.places[group] = [(len(content), len(content) + len(own))]
        content += own
        self.end, self.tail = len(content), content[-TAIL:]
        return content

    def _same(self, file: object) -> bool:
        """Whether what was read is still there; a table that was replaced has other lines."""
        file.seek(self.end - len(self.tail))  # type: ignore[attr-defined]
        return bool(file.read(len(self.tail)) == self.tail)  # type: ignore[attr-defined]

    def _look_through(self, grown: bytes) -> None:
        """Note the places of complete lines; an incomplete one is left for a later look."""
        whole = grown[: grown.rfind(b"\n") + 1]
        for line in whole.split(b"\n")[:-1]:
            start, self.end = self.end, self.end + len(line) + 1
            if not self.header:
                self.header, self.column = line, _cells(line).index("group")
                continue
            places = self.places.setdefault(_cells(line)[self.column], [])
            if places and places[-1][1] == start:
                places[-1] = (places[-1][0], self.end)
            else:
                places.append((start, self.end))
        self.tail = (self.tail + whole)[-TAIL:]


def _cells(line: bytes) -> list[str]:
    text = line.decode()
    return next(csv.reader([text], strict=True)) if '"' in text else text.split(",")
