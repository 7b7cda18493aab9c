"""A small drawing for each chapter's card on the landing page; landing.css colours its classes."""

import itertools
import math

WIDTH, HEIGHT = 120, 64


def square(x: float, y: float, size: float, kind: str, opacity: float = 1) -> str:
    """A cell of a grid."""
    faint = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" rx="1.5"{faint}/>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A box with round corners."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3"/>'


def line(path: str, kind: str = "line") -> str:
    """A stroke."""
    return f'<path class="{kind}" d="{path}"/>'


def counts() -> str:
    """Chapter 1: how often one letter follows another in a line of Hamlet, darker for more."""
    text = "to be, or not to be, that is the question".replace(",", "")
    letters = sorted(set(text))
    pairs = list(itertools.pairwise(text))
    top = max(pairs.count(pair) for pair in pairs)
    cells = [
        square(i * 8, j * 8, 7, "token", 0.08 + 0.92 * (pairs.count((b, a)) / top) ** 0.5)
        for i, a in enumerate(letters)
        for j, b in enumerate(letters[:8])
    ]
    return "".join(cells)


def windows() -> str:
    """Chapter 2: windows of five tokens over one text."""
    strip = "".join(square(4 + 9.4 * i, 4, 8, "faint") for i in range(12))
    return strip + "".join(box(4 + 9.4 * 3 * i, 22 + 13 * i, 45, 8, "token") for i in range(3))


def merges() -> str:
    """Chapter 3: three bytes become one token."""
    leaves = "".join(box(6 + 22 * i, 44, 16, 14, "faint") for i in range(5))
    pairs = box(28, 24, 38, 14, "soft") + box(28, 4, 60, 14, "token")
    return leaves + pairs + line("M36 44v-6M58 44v-6M47 24v-6M80 44V18")


def lengths() -> str:
    """Chapter 4: one sentence in five languages, in tokens."""
    return "".join(box(4, 4 + 12 * i, width, 8, "token") for i, width in enumerate((14, 26, 34, 62, 112)))


def triangle() -> str:
    """Chapter 5: the causal mask."""
    return "".join(
        square(28 + 9 * k, 1 + 9 * q, 8, "token" if k <= q else "faint", 0.35 + 0.65 * (k == q - 2 or q < 2))
        for q in range(7)
        for k in range(7)
    )


def tiles() -> str:
    """Chapter 6: scores computed tile by tile."""
    kinds = {(0, 0): "soft", (0, 1): "soft", (1, 0): "soft", (1, 1): "token"}
    return "".join(
        square(2 + 30 * k + 7 * i, 2 + 31 * q + 7 * j, 6, kinds.get((q, k), "faint"))
        for q in range(2)
        for k in range(4)
        for i in range(4)
        for j in range(4)
    )


def blocks() -> str:
    """Chapter 7: layers on a residual stream."""
    stream = line("M8 32h104m-5-4l5 4l-5 4")
    pairs = "".join(
        box(18 + 30 * i, 12, 10, 40, "query") + box(31 + 30 * i, 12, 10, 40, "token") for i in range(3)
    )
    return stream + pairs


def rotation() -> str:
    """Chapter 8: a query and a key, each rotated by its position."""
    circles = "".join(f'<circle class="ring" cx="{x}" cy="32" r="27"/>' for x in (31, 89))

    def hand(x: float, degrees: float, kind: str) -> str:
        angle = math.radians(degrees)
        return line(f"M{x} 32L{x + 27 * math.cos(angle):.1f} {32 - 27 * math.sin(angle):.1f}", kind)

    return circles + hand(31, 75, "q") + hand(31, 30, "k") + hand(89, 150, "q") + hand(89, 105, "k")


def names() -> str:
    """Chapter 9: names of tensors, mapped."""
    order = (1, 0, 3, 2)
    lines = "".join(
        line(f"M40 {10 + 15 * i}C62 {10 + 15 * i} 58 {10 + 15 * j} 80 {10 + 15 * j}", "k")
        for i, j in enumerate(order)
    )
    ends = "".join(
        box(4, 5 + 15 * i, 36, 10, "faint") + box(80, 5 + 15 * i, 36, 10, "token") for i in range(4)
    )
    return lines + ends


def curves() -> str:
    """Chapter 10: losses of small runs, and that of the larger run which they predict."""
    small = "".join(line(f"M6 {6 + 5 * i}C22 {34 + 4 * i} 40 {38 + 4 * i} 60 {40 + 4 * i}") for i in range(3))
    return small + line("M6 4C26 46 60 52 112 57", "q") + '<circle class="token" cx="112" cy="57" r="4"/>'


def plug() -> str:
    """Chapter 11: a run that is cut, and goes on where it stood."""
    steps = "".join(box(4 + 14 * i, 12, 10, 16, "token" if i < 4 else "faint") for i in range(8))
    again = "".join(box(4 + 14 * i, 40, 10, 16, "faint" if i < 4 else "token") for i in range(8))
    return steps + again + line("M59 6v54", "k")


def ring() -> str:
    """Chapter 12: four processes that hand on their sums in a ring."""
    places = [(60, 8), (96, 32), (60, 56), (24, 32)]
    ways = "".join(
        line(f"M{a} {b}Q{(a + c) / 2 + (b - d) / -4:g} {(b + d) / 2 + (a - c) / 4:g} {c} {d}", "k")
        for (a, b), (c, d) in itertools.pairwise([*places, places[0]])
    )
    return ways + "".join(box(x - 9, y - 7, 18, 14, "token") for x, y in places)


def filtered() -> str:
    """Chapter 13: the likely tokens are kept, the others cut off."""
    bars = "".join(
        box(4 + 14 * i, 60 - h, 10, h, "token" if i < 4 else "faint")
        for i, h in enumerate((56, 40, 27, 18, 12, 8, 5, 4))
    )
    return bars + line("M58 4v56", "k")


def pages() -> str:
    """Chapter 14: three texts whose blocks lie scattered in one pool."""
    owner = {0: "token", 5: "token", 9: "token", 2: "query", 6: "query", 11: "soft", 3: "soft"}
    return "".join(box(4 + 29 * (i % 4), 5 + 19 * (i // 4), 25, 15, owner.get(i, "faint")) for i in range(12))


def grid() -> str:
    """Chapter 15: numbers between the points of a grid, each moved to the nearest."""
    ticks = "".join(line(f"M{6 + 15 * i} 26v16", "k") for i in range(8))
    dots = "".join(
        box(x - 3, 10, 6, 6, "token") + line(f"M{x} 17L{g} 25", "q")
        for x, g in ((9, 6), (32, 36), (57, 51), (78, 81), (104, 111))
    )
    return line("M2 34h112", "k") + ticks + dots


def lattice() -> str:
    """Chapter 16: a lattice of codes, and the valley of the error that runs across it."""
    dots = "".join(
        box(8 + 20 * x, 6 + 16 * y, 5, 5, "token" if (x, y) in ((1, 2), (3, 1)) else "faint")
        for x in range(6)
        for y in range(4)
    )
    return dots + line("M12 58Q40 20 112 6", "q") + line("M2 44Q44 8 96 2", "q")


def threshold() -> str:
    """Chapter 17: mails of two classes, and the threshold between them."""
    left = ((8, 40), (16, 20), (24, 50), (30, 32), (40, 14), (44, 44), (66, 26))
    right = ((54, 52), (72, 44), (80, 12), (86, 34), (96, 22), (100, 50), (108, 34))
    dots = "".join(box(x, y, 6, 6, "faint") for x, y in left) + "".join(
        box(x, y, 6, 6, "token") for x, y in right
    )
    return dots + line("M62 2v60", "q")


def masked() -> str:
    """Chapter 18: conversations in which only the answers are learned."""
    rows = ("..####", "...###..#", "....##...##", ".###..####")
    return "".join(
        square(4 + 10 * x, 4 + 15 * y, 8, "token" if kind == "#" else "faint")
        for y, row in enumerate(rows)
        for x, kind in enumerate(row)
    )


def low_rank() -> str:
    """Chapter 19: a tall and a wide factor, whose product is as large as a weight."""
    return box(4, 8, 8, 48, "token") + box(22, 8, 48, 8, "token") + box(82, 14, 36, 36, "soft")


def rewards() -> str:
    """Chapter 20: a group of answers whose rewards lie above or below its mean."""
    heights = (12, -9, 20, -14, 7, 24, -18, -11, 16)
    bars = "".join(
        box(5 + 12.5 * i, 34 - max(h, 0), 8, abs(h), "token" if h > 0 else "faint")
        for i, h in enumerate(heights)
    )
    return bars + line("M2 34h116", "k")


def frontier() -> str:
    """Chapter 21: the most reward that each divergence can buy, and policies below it."""
    dots = ((22, 44), (36, 30), (54, 34), (62, 14), (80, 22), (92, 9), (104, 28))
    found = "".join(box(x - 3, y, 6, 6, "token") for x, y in dots)
    return line("M6 60Q14 8 116 5", "q") + found


DRAWINGS = (counts, windows, merges, lengths, triangle, tiles, blocks, rotation, names, curves, plug, ring)
DRAWINGS += (filtered, pages, grid, lattice, threshold, masked, low_rank, rewards, frontier)


def thumbnail(chapter: int) -> str:
    """The drawing of a chapter, hidden from screen readers."""
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{DRAWINGS[chapter - 1]()}</svg>'
