// Alerts as a list: level, run, step and message, with expandable evidence.
import { get } from "../core/api.js";
import { h, replace, setText } from "../core/dom.js";
import { levelMark } from "./marks.js";
import { age, counted, number, when } from "../core/numbers.js";
import { runLink } from "./columns.js";
import { ruleMeaning, status } from "../core/labels.js";
import { failure } from "./placeholders.js";

/**
 * Return the newest alerts of `query`, with `add(alert)` for new ones.
 *
 * `onPoint(alert or null)` is called on hover and focus, `onChange()` when the list changes.
 */
export function alertList(query, most, { onPoint = () => {}, onChange = () => {} } = {}) {
  const abort = new AbortController();
  const list = h("ul", { class: "alerts" });
  const title = h("h2", {}, "Alerts");
  const element = h("section", { class: "panel", "aria-label": "Alerts" }, title, list);
  let items = [];
  let of = 0;
  const draw = () => {
    const shown = items.slice(0, most);
    setText(title, of > shown.length ? `Alerts (${shown.length} newest of ${of})` : `Alerts (${of})`);
    if (shown.length)
      replace(
        list,
        shown.map((alert) => entry(alert, !query.run, onPoint)),
      );
    else replace(list, h("li", { class: "faint" }, "No alerts."));
  };
  const load = async () => {
    try {
      ({ items, of } = await get("/alerts", { ...query, limit: most }, abort.signal));
      draw();
      onChange();
    } catch (error) {
      if (error.name !== "AbortError") replace(list, h("li", {}, failure(error, load)));
    }
  };
  load();
  const add = (alert) => {
    if (items.some(({ id }) => id === alert.id)) return;
    items = [alert, ...items].slice(0, most);
    of += 1;
    draw();
    onChange();
  };
  return { element, add, close: () => abort.abort(), items: () => items };
}

function entry(alert, isNamed, onPoint) {
  const name = isNamed && h("a", { href: runLink(alert.run) }, alert.run);
  const step = alert.step === null ? null : h("span", { class: "figures faint" }, `step ${alert.step}`);
  const summary = h(
    "summary",
    {},
    levelMark(alert.level),
    step,
    h("span", { class: "message" }, alert.message),
    h("span", { class: "faint", title: when(alert.at) }, `${age(alert.at)} ago`),
  );
  const point = () => onPoint(alert);
  const leave = () => onPoint(null);
  return h(
    "li",
    { onpointerenter: point, onpointerleave: leave, onfocusin: point, onfocusout: leave },
    h(
      "details",
      {},
      summary,
      h(
        "dl",
        { class: "facts" },
        fact("rule", status(alert.rule)),
        fact("condition", ruleMeaning(alert.rule)),
        evidence(alert.evidence),
      ),
    ),
    name,
  );
}

/** Return the evidence as terms and values. */
export const evidence = (facts) =>
  Object.entries(facts).map(([name, value]) => fact(status(name), valueText(value)));

export const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", { class: "figures" }, value));

function valueText(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
  if (Array.isArray(value) && value.length > 12) return `${counted(value.length, "value")}`;
  return typeof value === "string" ? value : JSON.stringify(value);
}
