// The lower parts of the page of a run: nearest runs, and its setting and layout.
import { evidence, fact } from "./alerts.js";
import { get, runPath } from "../core/api.js";
import { runLink } from "./columns.js";
import { h } from "../core/dom.js";
import { count, number } from "../core/numbers.js";
import { compareLink } from "./selection.js";
import { fill } from "./placeholders.js";

const K = 5;

/** Fill `section` with the runs of the nearest trajectories. */
export function nearestRuns(section, id, signal) {
  const place = h("div", {});
  section.append(place);
  fill(place, "9rem", async () => {
    const { items, message, of } = await get(runPath(id, "/nearest"), { k: K }, signal);
    if (!items.length) return h("p", { class: "faint" }, message || "No other run can be compared.");
    const line = (item) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, h("a", { href: runLink(item.run) }, item.run)),
        h("td", { class: "figures" }, number(item.distance)),
        h("td", { class: "figures" }, count(item.n_steps)),
      );
    return h(
      "div",
      {},
      h("p", { class: "faint" }, `${message} Nearest ${items.length} of ${count(of)}.`),
      h(
        "table",
        { class: "values" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["run", "distance", "shared steps"].map((text) => h("th", { scope: "col" }, text)),
          ),
        ),
        h("tbody", {}, items.map(line)),
      ),
      h(
        "p",
        {},
        h("a", { class: "button", href: compareLink([id, ...items.map((item) => item.run)]) }, "Compare with these"),
      ),
    );
  });
}

/** Return setting, parameters and bases of the run. */
export function aboutRun(details) {
  const { item, setting, seed, n_parameters: n, dtype, layers, replicas, n_embedded: embedded, bases, exact } = details;
  const layer = (one) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, String(one.name)),
      h("td", { class: "figures" }, JSON.stringify(one.shape)),
      h("td", { class: "figures" }, count(one.offset)),
    );
  return h(
    "details",
    { class: "panel" },
    h("summary", {}, "Setting, parameters and embedding"),
    h(
      "dl",
      { class: "facts" },
      evidence(setting),
      fact("seed", String(seed)),
      fact("group", item.group || "none"),
      fact("tags", item.tags.join(", ") || "none"),
      fact("parameters", count(n)),
      fact("dtype", dtype),
      fact("replicas", replicas.join(", ")),
      fact("embedded rows", count(embedded)),
      fact("live bases", bases.join(", ") || "none"),
      evidence(exact),
      item.parent && fact("forked from", `${item.parent[0]} at step ${item.parent[1]}`),
    ),
    h(
      "table",
      { class: "values" },
      h("caption", { class: "unseen" }, "Layers"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["layer", "shape", "offset"].map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h("tbody", {}, layers.map(layer)),
    ),
  );
}
