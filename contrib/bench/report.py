"""From measured rates to ratios, a table, and a plot. Ratios are of medians over the rounds."""

import statistics
from xml.sax.saxutils import escape

PEERS_FOR_BEST = ("gocryptfs", "securefs", "encfs")
SUBJECT = "envelopefs"


def median(rates):
    return statistics.median(rates) if rates else None


def spread(rates):
    """How far apart the rounds were, as a share of their median."""
    return (max(rates) - min(rates)) / statistics.median(rates) if len(rates) > 1 else 0.0


class Line:
    """The measurements of one row: lists of rates by system, reasons where there are none."""

    def __init__(self, row, title):
        self.row = row
        self.title = title
        self.rates = {}
        self.reasons = {}

    def value(self, system):
        return median(self.rates.get(system))

    def best_peer(self):
        """CryFS is left out: it does not pass fsync on, and writes seconds after it said so."""
        values = {name: self.value(name) for name in PEERS_FOR_BEST if self.value(name)}
        return max(values, key=values.get, default=None)

    def ratio(self, of):
        """The rate of envelopefs against that of `of`."""
        name = self.best_peer() if of == "peer" else of
        ours, theirs = self.value(SUBJECT), self.value(name) if name else None
        return ours / theirs if ours and theirs else None

    def verdicts(self):
        """Each goal with whether it is met, None if it could not be compared."""
        for of, factor in self.row.goals:
            ratio = self.ratio(of)
            yield of, factor, None if ratio is None else ratio >= factor

    def as_json(self):
        return {
            "id": self.row.id,
            "title": self.title,
            "unit": self.row.unit,
            "rates": self.rates,
            "not_measured": self.reasons,
            "median": {name: self.value(name) for name in self.rates},
            "best_peer": self.best_peer(),
            "ratio": {of: self.ratio(of) for of in ("native", "ceiling", "peer")},
            "goals": [{"of": of, "at_least": factor, "met": met} for of, factor, met in self.verdicts()],
        }


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(value):
    return "-" if value is None else f"{value:.2f}"


def table(lines, systems):
    """Markdown."""
    head = ["workload", "unit", *systems, "of native", "of ceiling", "of best peer", "goal"]
    rows = [head]
    for line in lines:
        cells = []
        for name in systems:
            rates = line.rates.get(name)
            cells.append(number(median(rates)) + ("~" if rates and spread(rates) > 0.3 else ""))
        goals = "; ".join(
            f">= {factor:g} of {of} {'?' if met is None else 'met' if met else 'MISSED'}"
            for of, factor, met in line.verdicts()
        )
        ratios = [share(line.ratio(of)) for of in ("native", "ceiling", "peer")]
        if line.row.syncs:
            ratios[1] = "-"
        rows.append([line.title, line.row.unit, *cells, *ratios, goals])
    return markdown(rows)


def memory_table(memory, titles):
    """Largest resident size of each daemon by workload, in MiB."""
    systems = list(dict.fromkeys(name for sizes in memory.values() for name in sizes))
    rows = [["memory of the daemon, MiB", *systems]]
    for workload, sizes in memory.items():
        cells = [f"{sizes[name] / (1 << 20):.0f}" if sizes.get(name) else "-" for name in systems]
        rows.append([titles[workload], *cells])
    return markdown(rows) if systems else ""


def markdown(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def text(row):
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text(rows[0]), rule, *map(text, rows[1:])])


COLOURS = {
    "native": "#9a9a9a",
    "envelopefs": "#c2410c",
    "gocryptfs": "#2563a8",
    "securefs": "#5b9bd1",
    "encfs": "#93bfe6",
    "cryfs": "#c7dcf0",
}
LEFT, WIDTH, RIGHT = 330, 560, 190
BAR, GAP, GROUP_GAP, TOP = 14, 3, 22, 96
# Shares beyond this run off the axis and are marked as doing so.
AXIS = 1.25


def plot(lines, systems, facts):
    """A bar for each system, its length the share of native, from zero and linear (an arrow: it runs off the axis); the ceiling a black tick."""
    bars = [name for name in systems if name not in ("native", "ceiling")]
    shown = [line for line in lines if line.value("native")]
    heights = [sum(1 for name in bars if line.value(name)) * (BAR + GAP) + GROUP_GAP for line in shown]
    height = TOP + sum(max(h, 34) for h in heights) + 44
    width = LEFT + WIDTH + RIGHT

    def x(ratio):
        return LEFT + min(ratio, AXIS) / AXIS * WIDTH

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="16" y="26" font-size="17" font-weight="bold">Speed as a share of the backing filesystem itself '
        "(longer is better)</text>",
        f'<text x="16" y="46" fill="#555">{escape(facts)}</text>',
    ]
    at = 16
    for name in bars:
        out.append(f'<rect x="{at}" y="58" width="12" height="12" fill="{COLOURS.get(name, "#000")}"/>')
        out.append(f'<text x="{at + 17}" y="68">{escape(name)}</text>')
        at += 32 + 7 * len(name)
    if "ceiling" in systems:
        out.append(f'<rect x="{at + 4}" y="56" width="3" height="16" fill="black"/>')
        out.append(f'<text x="{at + 14}" y="68">ceiling: a FUSE filesystem that does nothing</text>')
    bottom = height - 34
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        stroke = "#666" if tick in (0, 1.0) else "#ddd"
        out.append(f'<line x1="{x(tick):.1f}" y1="{TOP - 8}" x2="{x(tick):.1f}" y2="{bottom}" stroke="{stroke}"/>')
        label = "native" if tick == 1.0 else f"{tick:g}"
        out.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{label}</text>')
    y = TOP
    for line, group in zip(shown, heights):
        native = line.value("native")
        present = [name for name in bars if line.value(name)]
        for i, words in enumerate(wrapped(line.title, 46)):
            out.append(f'<text x="{LEFT - 12}" y="{y + 11 + 14 * i}" text-anchor="end">{escape(words)}</text>')
        top = y
        for name in present:
            ratio = line.value(name) / native
            bold = ' font-weight="bold"' if name == SUBJECT else ""
            out.append(
                f'<rect x="{LEFT}" y="{y}" width="{max(x(ratio) - LEFT, 1):.1f}" height="{BAR}" '
                f'fill="{COLOURS.get(name, "#000")}"/>'
            )
            # In a column of their own, where no line crosses them.
            label = f"{ratio:.2f}{' →' if ratio > AXIS else ''}"
            rate = f"{number(line.value(name))} {line.row.unit}"
            at = LEFT + WIDTH
            out.append(f'<text x="{at + 14}" y="{y + 11}" font-size="11"{bold}>{label}</text>')
            out.append(f'<text x="{at + 160}" y="{y + 11}" font-size="11" text-anchor="end"{bold}>{escape(rate)}</text>')
            y += BAR + GAP
        ceiling = line.value("ceiling")
        if ceiling and present and not line.row.syncs and ceiling / native <= AXIS:
            out.append(f'<rect x="{x(ceiling / native) - 1.5:.1f}" y="{top - 2}" width="3" height="{y - top + 1}" fill="black"/>')
        y = top + max(group, 34)
    out.append("</svg>")
    return "\n".join(out) + "\n"


def wrapped(text, width):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
