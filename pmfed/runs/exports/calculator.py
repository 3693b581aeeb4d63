"""A linear model as one HTML page that asks for values and tells the answer, without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pmfed.errors import UsageError
from pmfed.runs.exports.scorecard import scorecard
from pmfed.runs.links import LINKS
from pmfed.runs.model import Model

PAGE = """
const card = JSON.parse(document.getElementById("card").textContent);
const form = document.getElementById("form");
function show() {
  const found = answerOf(card, Object.fromEntries(new FormData(form)));
  const shown = (x) => card.percent ? (100 * x).toFixed(1) + " %" : x.toPrecision(4);
  document.getElementById("told").textContent = found.told.map(([name, x]) => name + ": " + shown(x)).join("\\n");
  document.getElementById("odd").textContent = found.outside.length
    ? "Outside what the study allows, and counted as not known: " + found.outside.join(", ") : "";
}
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
show();
"""
MOST = 200  # fields that a person fills in


def calculator(model: Model) -> str:
    """Return the page.

    Raises
    ------
    UsageError
        The model has no scorecard, or so many features that nobody would fill in the page.

    Guarantee
    ---------
    The page loads nothing, sends nothing and keeps nothing: its own policy allows its one script only.
    """
    card = scorecard(model)
    parts = _fields(card)
    if sum(map(len, parts.values())) > MOST:
        raise UsageError(f"a page with more than {MOST} fields is not filled in.", "Use --to scorecard or --to onnx.")
    script = Markup((files("pmfed.runs.exports") / "calculator.js").read_text(encoding="utf-8") + PAGE)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (files("pmfed.runs.exports") / "calculator.html").read_text(encoding="utf-8")
    card["percent"] = LINKS[model.description.answer.link].percent
    data = Markup(json.dumps(card).replace("<", "\\u003c").replace("&", "\\u0026"))  # no study can end the script
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(page)
    return template.render(card=card, parts=parts, data=data, script=script, digest=f"sha256-{digest}")


def _fields(card: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the fields of the page, by modality: one per feature, of alleles one per allele."""
    found: dict[str, list[dict[str, Any]]] = {}
    seen: dict[str, dict[str, Any]] = {}
    for term in card["terms"]:
        if term["says"] == "missing":
            continue
        part, _, feature = term["feature"].partition(".")
        allele = term["says"] == "allele"
        name = f"{term['feature']}/{term['term']}" if allele else term["feature"]
        if name not in seen:
            seen[name] = {
                "name": name, "label": term["term"] if allele else feature, "unit": term.get("unit"), "options": [],
                "minimum": term.get("minimum"), "maximum": term.get("maximum"), "stand_in": "not known",
            }  # fmt: skip
            found.setdefault(part, []).append(seen[name])
        if term["says"] == "category":
            seen[name]["options"].append(term.get("category", "another"))
    return found
