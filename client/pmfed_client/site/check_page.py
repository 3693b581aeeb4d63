"""The page of a check: the same counts, with bars. One file without scripts; it stays at the site."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment

from pmfed.errors import UsageError
from pmfed.plain import plain
from pmfed_client.site.check import Checked, sections

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>{{ checked.site }}: {{ checked.study }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem } p.about { color: #5b6b7b; margin-top: .2rem }
table { border-collapse: collapse; width: 100% } td { padding: .18rem .4rem; border-bottom: 1px solid #e6ebf0; vertical-align: middle }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; width: 6rem }
td.b { width: 30% } .bar { background: #e6ebf0; height: .7rem; border-radius: .35rem; overflow: hidden }
.bar i { display: block; height: 100%; background: #2f6f9f } .note { background: #fff6df; border-left: 4px solid #e0a100; padding: .4rem .8rem; margin: .4rem 0 }
.stop { background: #fdeaea; border-left-color: #b3261e }
@media (prefers-color-scheme: dark) { body { background: #14191f; color: #e4e9ee } td { border-color: #2b343d } .bar { background: #2b343d } .bar i { background: #6aaedd } .note { background: #33290f } .stop { background: #3a1a1a } }
</style>
<h1>{{ checked.site }}</h1>
<p class="about">{{ checked.study }}. Counts below the site's minimum are shown as "&lt;n". This page stays at the site.</p>
{% if checked.policy %}<p class="note stop">{{ checked.policy.what[0]|upper }}{{ checked.policy.what[1:] }} {{ checked.policy.remedy }}</p>{% endif %}
{% for reason in checked.red %}<p class="note stop">{{ reason }}</p>{% endfor %}
{% for warning in checked.warnings %}<p class="note">{{ warning }}</p>{% endfor %}
{% for title, lines in sections %}
<h2>{{ title[0]|upper }}{{ title[1:] }}</h2>
{% set bars = lines|map(attribute="share")|reject("none")|list %}<table>
{% for line in lines %}<tr><td>{{ line.name }}</td>
{% if bars %}<td class="b">{% if line.share is not none %}<div class="bar" role="img" aria-label="{{ '%.0f' % (100 * line.share) }} %"><i style="width:{{ '%.1f' % (100 * line.share) }}%"></i></div>{% endif %}</td>{% endif %}
<td class="n">{{ line.count }}</td>{% if bars %}<td class="n">{% if line.share is not none %}{{ '%.0f' % (100 * line.share) }} %{% endif %}</td>{% endif %}</tr>
{% endfor %}</table>
{% endfor %}
<h2>Inputs the model would see of a record</h2>
<table>{% for name, shape in checked.inputs.items() %}<tr><td>{{ name }}</td><td class="n">{{ shape }}</td></tr>{% endfor %}</table>
</html>
"""


def write_page(checked: Checked, path: Path) -> None:
    """Write the page; only its owner may read it.

    Raises
    ------
    UsageError
        It cannot be written there.
    """
    pages = Environment(autoescape=True, finalize=lambda shown: plain(shown) if isinstance(shown, str) else shown)
    page = pages.from_string(_PAGE).render(checked=checked, sections=sections(checked))
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: the page cannot be written ({error.strerror}).", "Name another with --page."
        ) from None
