"""A network as one page: its facts, its drawing, its table. No script, and nothing from elsewhere."""

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2733; --quiet: #5f6b76; --line: #d5dade; --card: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14191f; --ink: #e3e7ea; --quiet: #a3adb6; --line: #3a444d; --card: #1d242c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1300px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
p { color: var(--quiet); max-width: 75ch; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 8px; margin: 0; }
dl div { background: var(--card); border-radius: 6px; padding: 8px 12px; min-width: 0; }
dt { color: var(--quiet); font-size: 0.85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.wide svg { display: block; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
thead th { border-bottom: 1px solid var(--line); }
.text { text-align: left; }
.first > * { border-top: 1px solid var(--line); }
tfoot { font-weight: 600; }
tfoot > tr > * { border-top: 2px solid var(--line); }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<dl>
{%- for name, text in summary %}
<div><dt>{{ name }}</dt><dd>{{ text }}</dd></div>
{%- endfor %}
</dl>
<h2>To scale</h2>
<p>Each box is the output of a layer: as high as its map, as broad as its channels.</p>
<div class="wide" tabindex="0" role="region" aria-label="drawing">{{ drawing }}</div>
<h2>Layer by layer</h2>
<div class="wide" tabindex="0" role="region" aria-label="table">
<table>
<thead><tr>
{%- for heading in headings %}<th scope="col"{{ kind(loop.index0) }}>{{ heading }}</th>{% endfor -%}
</tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if loop.index0 and row[0] != loop.previtem[0] %} class="first"{% endif %}>
{%- for cell in row %}<td{{ kind(loop.index0) }}>{{ cell }}</td>{% endfor -%}
</tr>
{%- endfor %}
</tbody>
<tfoot><tr>{% for cell in totals %}<td{{ kind(loop.index0) }}>{{ cell }}</td>{% endfor %}</tr></tfoot>
</table>
</div>
{%- for note in notes %}
<p>{{ note }}</p>
{%- endfor %}
</body>
</html>
"""


def network_page(
    *,
    title: str,
    summary: Sequence[tuple[str, str]],
    drawing: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    totals: Sequence[str],
    text_columns: Sequence[int],
    notes: Sequence[str],
) -> str:
    """The text of an HTML file. `drawing` is SVG, put in as it is; all else is escaped.

    text_columns: the columns of the table that are words; the others are numbers, and stand right.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE)

    def kind(column: int) -> Markup:
        return Markup(' class="text"' if column in text_columns else "")

    return template.render(
        title=title,
        summary=summary,
        drawing=Markup(drawing),
        headings=headings,
        rows=rows,
        totals=totals,
        notes=notes,
        kind=kind,
    )
