"""A story as one HTML file that asks nobody for anything: style, script and pictures lie in it."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from onepass.features.names import printable
from onepass.heads.report.page.parts import Card, Cards, Chart, Matrix, Part, RowMap, Rows, Section, Story, Table
from onepass.heads.report.page.thumbnails import Picture, Pictures

_HERE = Path(__file__).parent
_NO_PICTURES = Pictures()


def page(story: Story, pictures: Pictures = _NO_PICTURES, atlas: str = "") -> str:
    """The HTML of a story.

    What stands in it as a text is escaped, and no control character of a name gets through. The page's own policy
    lets a browser load nothing, and run and apply nothing but the one script and the one style whose hashes it names.

    Args:
        story: What it says.
        pictures: Of its images; what has none is shown by its name.
        atlas: From `atlas_of`, for the points of its map.
    """
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    body = "\n".join(_Writer(pictures, atlas).body(story))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(story.title)}</title>\n<style>{style}</style>\n</head>\n<body class={_shape(pictures)}>\n"
        f"{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _shape(pictures: Pictures) -> str:
    """Whether boxes for pictures are tall, square or wide: as most pictures are; or there are none."""
    if not pictures.of:
        return "bare"
    ratio = float(np.median([one.width / one.height for one in pictures.of.values()]))
    return "tall" if ratio < 0.9 else "wide" if ratio > 1.1 else "square"


def text(words: str) -> str:
    r"""Words as they stand in HTML, in elements and in attributes alike.

    >>> text('a<b>"\n')
    'a&lt;b&gt;&quot;\\x0a'
    """
    return escape(printable(words).replace(" %", "\u00a0%"))


def json_text(values: object) -> str:
    """JSON that no HTML parser finds an end of a script in.

    >>> json_text({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    found = json.dumps(values, separators=(",", ":"))  # ASCII alone, line separators included
    return found.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


class _Writer:
    """Writes parts, with the pictures that there are."""

    def __init__(self, pictures: Pictures, atlas: str) -> None:
        self._pictures, self._atlas = pictures, atlas
        self._most_confused = 1

    def body(self, story: Story) -> Iterator[str]:
        yield '<a class="skip" href="#answer">Skip to the answer</a>'
        yield self._store()
        yield '<header id="answer">'
        yield f'<p class="kicker">{text(story.kicker)}</p><h1>{text(story.title)}</h1>'
        yield '<div class="lead"><div class="deck">'
        yield from (f"<p>{text(words)}</p>" for words in story.words)
        yield "</div>"
        for part in story.parts:
            yield from self._part(part)
        yield "</div>"
        yield from self._steps(story.steps)
        yield "</header>"
        if story.sections:
            links = (f'<li><a href="#{one.name}">{text(one.name.replace("-", " "))}</a></li>' for one in story.sections)
            yield f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'
        yield "<main>"
        for section in story.sections:
            yield from self._section(section)
        yield "</main>"
        yield f"<footer><p>{text(self._about_pictures())} Made by onepass report; it needs no network.</p></footer>"

    def _about_pictures(self) -> str:
        found, words = self._pictures, []
        if found.left_out:
            words.append(
                f"{len(found.of)} pictures are in this file; {found.left_out} more were left out by the limit."
            )
        if found.gone:
            images = "1 image was" if found.gone == 1 else f"{found.gone} images were"
            words.append(f"{images} not where it should be, and shown in grey where a thumbnail is kept: {found.why}")
        return " ".join(words)

    def _store(self) -> str:
        """Every picture once; whoever shows one refers to it."""
        found = [
            *(("p", one) for one in self._pictures.of.items()),
            *(("h", one) for one in self._pictures.heat.items()),
        ]
        images = "".join(
            f'<image id="{kind}{i}" width="{one.width}" height="{one.height}" href="{one.url}"/>'
            for kind, (i, one) in found
        )
        return f'<svg class="store" width="0" height="0" aria-hidden="true"><defs>{images}</defs></svg>'

    def _steps(self, steps: Sequence[tuple[str, str]]) -> Iterator[str]:
        if not steps:
            return
        yield '<aside class="next"><h2>What to do next</h2><ol>'
        for words, command in steps:
            typed = f"<code>{text(command)}</code>" if command else ""
            yield f"<li>{text(words)}{typed}</li>"
        yield "</ol></aside>"

    def _section(self, section: Section) -> Iterator[str]:
        yield f'<section id="{section.name}"><h2>{text(section.title)}</h2>'
        yield from (f'<p class="words">{text(words)}</p>' for words in section.words)
        together = False
        for part in section.parts:
            if isinstance(part, Chart) != together:
                together = not together
                yield '<div class="charts">' if together else "</div>"
            yield from self._part(part)
        if together:
            yield "</div>"
        yield "</section>"

    def _part(self, part: Part) -> Iterator[str]:
        if isinstance(part, Chart):
            yield from _chart(part)
        elif isinstance(part, Table):
            note = f'<p class="note">{text(part.note)}</p>' if part.note else ""
            yield f'<div class="table"><h3>{text(part.title)}</h3>{note}{_table(part.rows)}</div>'
        elif isinstance(part, Cards):
            yield from self._cards(part)
        elif isinstance(part, Matrix):
            yield from self._matrix(part)
        elif isinstance(part, RowMap):
            yield from self._map(part)

    def _cards(self, part: Cards, name: str = "") -> Iterator[str]:
        place = f' id="{name}" tabindex="-1"' if name else ""
        yield f'<div class="{"cell" if name else "group"}"{place}><h3>{text(part.title)}</h3>'
        if part.note:
            yield f'<p class="note">{text(part.note)}</p>'
        for kind, cards in (("cards large", part.cards[: part.large]), ("cards", part.cards[part.large :])):
            if cards:
                yield f'<div class="{kind}{" pairs" if part.pairs else ""}">'
                for card in cards:
                    yield from self._card(card)
                yield "</div>"
        yield "</div>"

    def _card(self, card: Card) -> Iterator[str]:
        yield '<figure class="card"><div class="shown">'
        yield self._picture(card)
        if card.heat is not None and card.image is not None and card.image in self._pictures.heat:
            yield _image(self._pictures.heat[card.image], f"h{card.image}", f"what the answer came from in {card.name}")
        yield "</div><figcaption>"
        yield f'<p class="title">{text(card.title)}</p>' if card.title else ""
        yield f"<p>{text(card.words)}</p>" if card.words else ""
        yield f'<p class="path">{_breakable(card.name)}</p></figcaption>'
        if card.beside:
            caption = f'<p class="caption">{text(card.caption)}</p>' if card.caption else ""
            yield f'<div class="beside">{caption}<ul>'
            for one in card.beside:
                yield (
                    f'<li><div class="shown">{self._picture(one)}</div><p class="title">{text(one.title)}</p>'
                    f'<p class="path">{_breakable(one.name)}</p></li>'
                )
            yield "</ul></div>"
        yield "</figure>"

    def _picture(self, card: Card) -> str:
        picture = None if card.image is None else self._pictures.of.get(card.image)
        if picture is None:
            return '<span class="none">no picture</span>'
        grey = "the grey thumbnail of " if picture.grey else ""
        title = f", {card.title}" if card.title else ""
        return _image(picture, f"p{card.image}", f"{grey}{card.name}{title}")

    def _matrix(self, part: Matrix) -> Iterator[str]:
        named = [f'<th scope="col"><span>{text(name)}</span></th>' for name in part.names]
        yield '<div class="matrix"><h3>Which class is taken for which</h3>'
        yield '<p class="note">Rows are true classes, columns answers. Choose a number to see its images.</p>'
        yield f'<div class="scroll"><table><thead><tr><th scope="col">true class</th>{"".join(named)}</tr></thead>'
        yield "<tbody>"
        totals = np.maximum(part.counts.sum(axis=1), 1)
        self._most_confused = max(int((part.counts - np.diag(part.counts.diagonal())).max()), 1)
        for i, name in enumerate(part.names):
            cells = [self._cell(part, i, j, int(totals[i])) for j in range(len(part.names))]
            yield f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>'
        yield "</tbody></table></div>"
        for (i, j), cards in part.cells.items():
            yield from self._cards(cards, f"cell-{i}-{j}")
        yield "</div>"

    def _cell(self, part: Matrix, i: int, j: int, total: int) -> str:
        count = int(part.counts[i, j])
        if not count:
            return '<td class="q0">·</td>'
        most = total if i == j else self._most_confused
        depth = min(1 + int(4 * count / most), 4)  # of four shades; mistakes have a scale of their own
        words = f"{count} of {total} images of {part.names[i]} are called {part.names[j]}"
        number = (
            f'<a href="#cell-{i}-{j}" aria-label="{text(words)}">{count}</a>' if (i, j) in part.cells else str(count)
        )
        return f'<td class="{"right" if i == j else "wrong"} q{depth}" title="{text(words)}">{number}</td>'

    def _map(self, part: RowMap) -> Iterator[str]:
        yield '<div class="map" id="map-box">'
        yield (
            '<div class="tools" hidden><label>Laid out by <select id="map-layout"></select></label>'
            '<label>Coloured by <select id="map-colour"></select></label>'
            '<fieldset><legend>Drag to</legend><label><input type="radio" name="map-tool" value="lasso" checked> '
            'select</label><label><input type="radio" name="map-tool" value="move"> move</label></fieldset>'
            '<span class="buttons"><button type="button" id="map-in" aria-label="Zoom in">+</button>'
            '<button type="button" id="map-out" aria-label="Zoom out">&minus;</button>'
            '<button type="button" id="map-whole">Whole map</button></span></div>'
        )
        yield (
            '<div class="stage"><canvas id="map-points" tabindex="0" role="img" aria-describedby="map-help" '
            f'aria-label="Map of {len(part.names)} images, a point each"></canvas>'
            '<canvas id="map-over" aria-hidden="true"></canvas><div id="map-tip" hidden></div></div>'
        )
        yield '<div id="map-legend" class="legend"></div><p id="map-note" class="note"></p>'
        yield (
            '<p id="map-help" class="note">Point at an image to see it; drag around several to select them. '
            "By keyboard: arrows go from point to point, space selects one, plus and minus zoom, escape lets go.</p>"
        )
        yield (
            '<div class="picked" id="map-picked" hidden><p id="map-count" role="status"></p><label id="map-label-box">'
            'Their class in the table <select id="map-label"></select></label>'
            '<button type="button" id="map-save">Save names as CSV</button>'
            '<button type="button" id="map-clear">Clear selection</button>'
            f'<p class="note">Correct the column {text(part.column)} where you need to, then: '
            f"<code>{text(part.command)}</code></p>"
            '<ul id="map-list"></ul></div>'
        )
        yield '<p id="map-live" class="hidden" aria-live="polite"></p>'
        yield "<noscript><p>The map needs the script in this file; everything else does without.</p></noscript>"
        yield f"<details><summary>The numbers behind the map</summary>{_table(part.rows)}</details>"
        if self._atlas:
            yield f'<img id="map-atlas" alt="" hidden src="{self._atlas}">'
        yield f'<script type="application/json" id="map-data">{json_text(self._map_data(part))}</script></div>'

    def _map_data(self, part: RowMap) -> object:
        found = {position: i for i, position in enumerate(part.positions.tolist())}
        shown = {str(found[i]): f"p{i}" for i in sorted(self._pictures.of) if i in found}
        return {
            "names": "\n".join(map(printable, part.names)),
            "labels": "\n".join(map(printable, part.labels)),
            "layouts": [
                {"name": one.name, "note": one.note, "places": _packed(_fitted(one.places))} for one in part.layouts
            ],
            "colourings": [
                {
                    "name": one.name,
                    "labels": [printable(label) for label in one.labels],
                    "codes": _packed(one.codes),
                    "quiet": list(one.quiet),
                }
                for one in part.colourings
            ],
            "column": printable(part.column),
            "choices": [printable(choice) for choice in part.choices],
            "pictures": shown,
        }


def _chart(part: Chart) -> Iterator[str]:
    yield f'<figure class="chartbox"><h3>{text(part.title)}</h3>{part.svg}<figcaption>'
    yield f'<p class="note">{text(part.note)}</p>' if part.note else ""
    yield f"<details><summary>The numbers</summary>{_table(part.rows)}</details></figcaption></figure>"


def _table(rows: Rows) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in rows[0])
    lines = []
    for first, *rest in rows[1:]:
        cells = "".join(f'<td class="{"number" if _is_number(cell) else ""}">{text(cell)}</td>' for cell in rest)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-−·"


def _image(picture: Picture, name: str, alt: str) -> str:
    return (
        f'<svg class="pic" viewBox="0 0 {picture.width} {picture.height}" role="img" aria-label="{text(alt)}">'
        f'<use href="#{name}"/></svg>'
    )


def _breakable(name: str) -> str:
    """A name that may be broken where its parts end."""
    return re.sub("([/_-])", "\\1<wbr>", text(name))


def _fitted(places: np.ndarray) -> np.ndarray:
    """(m, 2) places -> (m, 2) uint16, both axes by one scale, upwards turned into downwards."""
    low, high = places.min(axis=0), places.max(axis=0)
    size = float((high - low).max()) or 1.0
    centred = (places - (low + high) / 2) / size * [1, -1] + 0.5
    return np.asarray(np.rint(centred * 65535), np.uint16)


def _packed(numbers: np.ndarray) -> str:
    """Whole numbers up to 65,535 as base64, two bytes each."""
    return base64.b64encode(np.ascontiguousarray(numbers, "<u2").tobytes()).decode()


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
