// The experiments as a compact strip.
import { get } from "../core/api.js";
import { h, replace } from "../core/dom.js";
import { throttled } from "../core/events.js";
import { age, count, counted } from "../core/numbers.js";
import { failure, skeleton } from "./placeholders.js";

const REFETCH_MS = 5000;
const MOST = 24;

/** Return the strip, with `refetch()` to update it. */
export function experimentStrip() {
  const abort = new AbortController();
  const list = h("ul", { class: "strip" }, h("li", {}, skeleton("3.4rem")));
  const element = h("section", { "aria-label": "Experiments" }, list);
  const load = async () => {
    try {
      const { items, of } = await get("/experiments", {}, abort.signal);
      element.hidden = !items.length;
      const more =
        of > MOST ? [h("li", { class: "faint" }, `and ${count(of - MOST)} more: filter by experiment=name`)] : [];
      replace(list, items.slice(0, MOST).map(card), more);
    } catch (error) {
      if (error.name !== "AbortError") replace(list, h("li", {}, failure(error, load)));
    }
  };
  load();
  const refetch = throttled(load, REFETCH_MS);
  const close = () => {
    refetch.stop();
    abort.abort();
  };
  return { element, refetch, close };
}

function card(item) {
  const states = Object.entries(item.states)
    .filter(([, n]) => n > 0)
    .map(([state, n]) => `${count(n)} ${state}`);
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/experiment/${encodeURIComponent(item.name)}`, class: "card" },
      h("strong", {}, item.name),
      h("span", {}, `${item.task} · ${counted(item.n_runs, "run")} · ${counted(item.n_rows, "row")}`),
      h("span", { class: "faint" }, `${states.join(", ")} · ${age(item.updated_at)} ago`),
    ),
  );
}
