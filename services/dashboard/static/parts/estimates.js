// Tables of estimates: a number with its interval, or its status.
import { h } from "../core/dom.js";
import { regimeChip } from "./marks.js";
import { chosen, count, interval, NONE, number } from "../core/numbers.js";
import { meaning, quantities, quantity, status, unit } from "../core/labels.js";

const SHOWN = [
  "ftle",
  "nmle",
  "nmle_embedded",
  "nmle_random_direction",
  "positive_fraction",
  "steps_to_accuracy",
  "characteristic_time",
  "decorrelation_time",
  "explained_variance",
];

/** Return a cell with an estimate. */
export function estimateCell(estimate) {
  if (!estimate) return h("td", { class: "faint" }, NONE);
  if (estimate.status !== "ok")
    return h("td", { class: "words", tabindex: "0", data: { tip: estimate.message } }, status(estimate.status));
  const between = interval(estimate);
  const tip = [estimate.message, `n = ${estimate.n}.`, estimate.method].filter(Boolean).join(" ");
  return h("td", { class: "figures", data: { tip } }, number(estimate.value), between && h("small", {}, between));
}

/** Return one row per setting. */
export function settingsTable(settings) {
  const hasEpsilons = new Set(settings.map((setting) => setting.epsilon)).size > 1;
  const hasVariants = settings.some((setting) => setting.variant);
  const shown = SHOWN.filter((name) => settings.some(({ estimates }) => estimates[name]));
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "learning rate"),
    hasEpsilons && h("th", { scope: "col" }, "epsilon"),
    hasVariants && h("th", { scope: "col" }, "variant"),
    h("th", { scope: "col" }, "regime"),
    h("th", { scope: "col" }, "runs"),
    shown.map((name) =>
      h("th", { scope: "col", data: { tip: meaning(name) } }, quantity(name), h("small", {}, unit(name))),
    ),
  );
  const line = (setting) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "figures" }, chosen(setting.learning_rate)),
      hasEpsilons && h("td", { class: "figures" }, chosen(setting.epsilon)),
      hasVariants && h("td", {}, setting.variant),
      h("td", { data: { tip: setting.regime_reason } }, regimeChip(setting.regime)),
      h("td", { class: "figures" }, count(setting.n_runs)),
      shown.map((name) => estimateCell(setting.estimates[name])),
    );
  return h(
    "section",
    { class: "panel", "aria-label": "Settings" },
    h("h2", {}, "Settings"),
    settings.length
      ? h(
          "div",
          { class: "sideways", tabindex: "0", role: "region", "aria-label": "Table of settings" },
          h(
            "table",
            { class: "values" },
            h("caption", { class: "unseen" }, "Estimates per setting with intervals over initial conditions"),
            h("thead", {}, head),
            h("tbody", {}, settings.map(line)),
          ),
        )
      : h("p", { class: "faint" }, "Not analysed yet. The table appears when the analysis is done."),
  );
}

/** Return all estimates of one run; an estimate without a number shows the reason. */
export function estimatesTable(estimates) {
  const known = quantities().filter((name) => estimates[name]);
  const shown = known.length ? known : Object.keys(estimates);
  const head = ["quantity", "value", "interval", "n", "steps used", "remarks"].map((text) =>
    h("th", { scope: "col" }, text),
  );
  const line = (name) => {
    const estimate = estimates[name];
    const isNumber = estimate.status === "ok";
    return h(
      "tr",
      {},
      h("th", { scope: "row", data: { tip: meaning(name) } }, quantity(name), h("small", {}, unit(name))),
      h("td", { class: isNumber ? "figures" : "words" }, isNumber ? number(estimate.value) : status(estimate.status)),
      h("td", { class: "figures" }, interval(estimate) || NONE),
      h("td", { class: "figures" }, count(estimate.n)),
      h("td", { class: "figures" }, estimate.window ? `${estimate.window[0]} to ${estimate.window[1]}` : NONE),
      h("td", { class: "long" }, estimate.message),
    );
  };
  return h(
    "div",
    { class: "sideways", tabindex: "0", role: "region", "aria-label": "Table of estimates" },
    h(
      "table",
      { class: "values stack" },
      h("caption", { class: "unseen" }, "Estimates of this run"),
      h("thead", {}, h("tr", {}, head)),
      h("tbody", {}, shown.map(line)),
    ),
  );
}
