// The regime map: learning rate by initial condition, one labelled cell per run.
import { runLink } from "./columns.js";
import { h } from "../core/dom.js";
import { regimeChip } from "./marks.js";
import { chosen, counted, number } from "../core/numbers.js";
import { regimes, status } from "../core/labels.js";

const MOST_WORDS = 14;
const SHORT = { regular: "reg", onset: "ons", chaotic: "cha", diverged: "div", undecided: "?" };

/** Return the map of these runs; the last row is the regime of the setting over its initial conditions. */
export function regimeMap(runs, settings) {
  const known = runs.filter((item) => item.learning_rate !== null && item.initial_condition !== null);
  const title = h("h2", {}, "Regimes");
  if (!known.length)
    return h(
      "section",
      { class: "panel" },
      title,
      h("p", { class: "faint" }, "No run here has a learning rate and an initial condition."),
    );
  const columns = settingsOf(known);
  const lines = [...new Set(known.map((item) => item.initial_condition))].sort((a, b) => a - b);
  const cells = new Map(known.map((item) => [`${key(item)} ${item.initial_condition}`, item]));
  const epsilons = new Set(known.map((item) => item.epsilon));
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "initial condition"),
    columns.map((column) => h("th", { scope: "col", class: "figures" }, heading(column, epsilons.size > 1))),
  );
  const body = lines.map((line) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "figures" }, String(line)),
      columns.map((column) => cell(cells.get(`${key(column)} ${line}`), columns.length > MOST_WORDS)),
    ),
  );
  const verdicts = new Map(settings.map((setting) => [key(setting), setting]));
  const foot = h(
    "tr",
    {},
    h("th", { scope: "row" }, "all together"),
    columns.map((column) => verdict(verdicts.get(key(column)))),
  );
  return h(
    "section",
    { class: "panel", "aria-label": "Regimes" },
    title,
    h("p", { class: "faint" }, summary(known)),
    h(
      "div",
      { class: "sideways", tabindex: "0", role: "region", "aria-label": "Regime map" },
      h(
        "table",
        { class: "map" },
        h("caption", { class: "unseen" }, "Regime by learning rate and initial condition"),
        h("thead", {}, head),
        h("tbody", {}, body),
        h("tfoot", {}, foot),
      ),
    ),
    h(
      "p",
      { class: "legend" },
      regimes().map((regime) => regimeChip(regime)),
    ),
  );
}

const key = ({ learning_rate: rate, epsilon }) => `${rate} ${epsilon}`;

function settingsOf(runs) {
  const unique = new Map(runs.map((item) => [key(item), item]));
  return [...unique.values()].sort((a, b) => a.epsilon - b.epsilon || a.learning_rate - b.learning_rate);
}

const heading = ({ learning_rate: rate, epsilon }, isLadder) => [
  `lr ${chosen(rate)}`,
  isLadder ? h("small", {}, `eps ${chosen(epsilon)}`) : null,
];

function cell(item, isShort) {
  if (!item) return h("td", {}, h("span", { class: "faint", "aria-label": "no run" }, "·"));
  const { exponent, regime, state, run_id: name } = item;
  const value =
    exponent?.status === "ok"
      ? `exponent ${number(exponent.value)} per step`
      : exponent
        ? status(exponent.status)
        : "not analysed yet";
  const tip = `${name}: ${regime ?? state}, ${value}`;
  return h(
    "td",
    {},
    h(
      "a",
      { href: runLink(item.id), class: "cell", data: { value: regime ?? "none", tip }, "aria-label": tip },
      h("span", { "aria-hidden": "true" }, regime ? (isShort ? SHORT[regime] : regime) : "…"),
      h("small", { class: "figures", "aria-hidden": "true" }, exponent?.status === "ok" ? number(exponent.value) : ""),
    ),
  );
}

function verdict(setting) {
  return h(
    "td",
    { data: { tip: setting?.regime_reason ?? "" }, tabindex: setting ? "0" : null },
    setting ? regimeChip(setting.regime) : "…",
  );
}

function summary(runs) {
  const counts = regimes()
    .map((regime) => [regime, runs.filter((item) => item.regime === regime).length])
    .filter(([, n]) => n);
  const waiting = runs.filter((item) => !item.regime).length;
  const parts = counts.map(([regime, n]) => `${n} ${regime}`);
  if (waiting) parts.push(`${waiting} not analysed yet`);
  return `${counted(runs.length, "run")}: ${parts.join(", ")}. The number is the finite-time exponent per step.`;
}
