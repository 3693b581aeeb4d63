"use strict";
// Evaluates a pmfed scorecard. `values` holds what is known, by feature; of alleles by "feature/term". Nothing is sent anywhere.
function numberOf(card, term, values, odd) {
  const given = values[term.says === "allele" ? term.feature + "/" + term.term : term.feature];
  const known = given !== undefined && given !== null && given !== "";
  if (term.says === "missing") return featureKnown(card, term.feature, values, odd) ? 0 : 1;
  if (!known) return 0;
  if (term.says === "category") {
    const listed = card.terms.filter((t) => t.feature === term.feature && t.category !== undefined).map((t) => t.category);
    return (term.category === undefined ? !listed.includes(given) : given === term.category) ? 1 : 0;
  }
  const value = Number(given);
  if (!Number.isFinite(value) || value < term.minimum || value > term.maximum) {
    odd.add(term.feature);
    return 0;
  }
  return ((term.transform === "log1p" ? Math.log1p(value) : value) - term.mean) / term.scale;
}
function featureKnown(card, feature, values, odd) {
  const mine = card.terms.filter((t) => t.feature === feature && t.says !== "missing");
  return mine.some((t) => {
    const given = values[t.says === "allele" ? feature + "/" + t.term : feature];
    if (given === undefined || given === null || given === "") return false;
    if (t.says === "category") return true;
    const value = Number(given);
    return Number.isFinite(value) && !(value < t.minimum) && !(value > t.maximum);
  });
}
function outputsOf(card, values, odd) {
  let outputs = card.intercept.slice();
  for (const term of card.terms) {
    const input = numberOf(card, term, values, odd);
    outputs = outputs.map((sum, place) => sum + term.coefficient[place] * input);
  }
  const map = card.recalibration && card.recalibration.map;
  if (!map) return outputs;
  if (map.kind === "straight") {
    const bound = map.bound === undefined || map.bound === null ? Infinity : map.bound;
    return outputs.map((one, place) => map.intercept[place] + map.slope * Math.min(bound, Math.max(-bound, one)));
  }
  return outputs.map((one) => {
    const last = map.at.length - 1;
    if (one <= map.at[0]) return map.value[0];
    if (one >= map.at[last]) return map.value[last];
    const next = map.at.findIndex((at) => at > one);
    const share = (one - map.at[next - 1]) / (map.at[next] - map.at[next - 1]);
    return map.value[next - 1] + share * (map.value[next] - map.value[next - 1]);
  });
}
const LINKS = {
  logistic: (answer, outputs) => [["probability " + answer.classes[1], 1 / (1 + Math.exp(-outputs[0]))]],
  softmax: (answer, outputs) => {
    const top = Math.max(...outputs);
    const shares = outputs.map((one) => Math.exp(one - top));
    const all = shares.reduce((a, b) => a + b, 0);
    return answer.classes.map((name, place) => ["probability " + name, shares[place] / all]);
  },
  regression: (answer, outputs) => {
    const scaled = outputs[0] * answer.scale + answer.centre;
    const back = { none: (x) => x, sqrt: (x) => Math.max(x, 0) ** 2, log: (x) => Math.exp(Math.min(x, 700)) };
    const value = back[answer.transform || "none"](scaled);
    return [[answer.column + (answer.unit ? " " + answer.unit : ""), Math.min(answer.maximum, Math.max(answer.minimum, value))]];
  },
  hazards: (answer, outputs) => {
    let hazard = 0;
    const alive = outputs.map((one) => Math.exp(-(hazard += Math.max(one, 0) + Math.log1p(Math.exp(-Math.abs(one))))));
    const risk = 1 - alive[answer.intervals.indexOf(answer.horizon)];
    return [["risk by " + answer.horizon, risk], ...answer.intervals.map((end, place) => ["without " + end, alive[place]])];
  },
  rate: (answer, outputs) => [["expected " + answer.column, Math.exp(Math.min(outputs[0], Math.log(answer.maximum)))]],
  grades: (answer, outputs) => {
    let below = 1;
    const reached = outputs.map((one) => (below = Math.min(below, 1 / (1 + Math.exp(-one)))));
    return answer.classes.map((name, place) => ["probability " + name, (place ? reached[place - 1] : 1) - (place < reached.length ? reached[place] : 0)]);
  },
  labels: (answer, outputs) => answer.classes.map((name, place) => ["probability " + name, 1 / (1 + Math.exp(-outputs[place]))]),
};
function answerOf(card, values) {
  const odd = new Set();
  return { told: LINKS[card.answer.link](card.answer, outputsOf(card, values, odd)), outside: [...odd].sort() };
}
