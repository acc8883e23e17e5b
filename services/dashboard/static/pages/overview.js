// All runs in one list that is updated live.
import { get } from "../core/api.js";
import { alertList } from "../parts/alerts.js";
import { announce, h, replace, setText } from "../core/dom.js";
import { listen, throttled } from "../core/events.js";
import { counted, count } from "../core/numbers.js";
import * as selection from "../parts/selection.js";
import { empty, failure, skeleton } from "../parts/placeholders.js";
import { experimentStrip } from "../parts/strip.js";
import { opposite, RunTable } from "../parts/table.js";
import { runLink } from "../parts/columns.js";

const PAGE = 200;
const NEWEST_FIRST = "-updated_at";
const TYPING_MS = 250;
const REFETCH_MS = 2000;
const AGE_MS = 10_000;
const HINT =
  "All terms, separated by spaces, must hold: regime=chaotic loss<0.5 state!=done run=lr5_*. " +
  "Keys: experiment, run, state, regime, learning_rate, epsilon, group, tag, exponent, loss, accuracy, n_rows. " +
  "Any other word must be part of the id.";

export function overview(host, { query }) {
  return new Overview(host, query);
}

class Overview {
  constructor(host, query) {
    this.filter = query.get("filter") ?? "";
    this.sort = query.get("sort") ?? NEWEST_FIRST;
    this.cursor = null;
    this.of = 0;
    this.isLoading = false;
    this.table = new RunTable({ onSort: (key) => this.sortBy(key), onNearEnd: () => this.more() });
    this.refetch = throttled(() => this.catchUp(), REFETCH_MS);
    this.parts();
    replace(host, this.head, this.strip.element, this.bar, this.body, this.alerts.element, this.basket);
    const ages = setInterval(() => this.table.refresh(), AGE_MS);
    this.stops = [
      listen("rows", ({ items }) => this.moved(items)),
      listen("runs", ({ items }) => this.changed(items)),
      listen("alert", (alert) => this.alerted(alert)),
      listen("reset", () => this.refetch()),
      selection.onChange(() => this.chosen()),
      () => clearInterval(ages),
      () => this.abort?.abort(),
      () => this.table.close(),
      () => this.strip.close(),
      () => this.alerts.close(),
      this.refetch.stop,
    ];
    this.chosen();
    this.load();
  }

  parts() {
    this.strip = experimentStrip();
    this.alerts = alertList({}, 5);
    this.counts = h("p", { class: "counts", id: "counts" }, "…");
    this.fresh = h("button", { type: "button", class: "fresh", hidden: true, onclick: () => this.load() });
    this.input = h("input", {
      type: "search",
      id: "filter",
      name: "filter",
      autocomplete: "off",
      spellcheck: "false",
      value: this.filter,
      placeholder: "regime=chaotic loss<0.5",
      "aria-describedby": "hint counts",
      "aria-keyshortcuts": "/",
      oninput: () => this.typed(),
    });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.head = h("h1", { class: "unseen" }, "All runs");
    this.bar = h(
      "div",
      { class: "filterbar", role: "search" },
      h("label", { for: "filter" }, "Filter"),
      this.input,
      this.counts,
      this.fresh,
      h("details", { class: "hint" }, h("summary", {}, "How to filter"), h("p", { id: "hint" }, HINT)),
      this.problem,
    );
    this.body = h("section", { class: "runlist", "aria-label": "Runs" }, skeleton("60vh"));
    this.basket = h("div", { class: "basket", hidden: true });
  }

  close() {
    clearTimeout(this.typing);
    for (const stop of this.stops) stop();
  }

  /** Handle a key; returns whether it has a function here. */
  key(event) {
    if (event.key === "j" || event.key === "ArrowDown") this.table.move(1);
    else if (event.key === "k" || event.key === "ArrowUp") this.table.move(-1);
    else if (event.key === "/") this.input.focus();
    else if (event.key === "C" && selection.all().length) location.hash = selection.compareLink(selection.all());
    else if (!this.table.focused) return false;
    else if (event.key === "Enter") location.hash = runLink(this.table.focused.id);
    else if (event.key === "c") selection.toggle(this.table.focused.id);
    else return false;
    return true;
  }

  typed() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.filter = this.input.value.trim();
      this.remember();
      this.load();
    }, TYPING_MS);
  }

  sortBy(key) {
    this.sort = this.sort === key ? opposite(key) : key;
    this.remember();
    this.load();
  }

  remember() {
    const query = new URLSearchParams();
    if (this.filter) query.set("filter", this.filter);
    if (this.sort !== NEWEST_FIRST) query.set("sort", this.sort);
    history.replaceState(null, "", `#/${query.size ? `?${query}` : ""}`);
  }

  /** Fetch the list again, from the top. */
  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.isLoading = true;
    this.table.sortedBy(this.sort);
    try {
      this.accept(await this.page(null));
      this.table.element.scrollTop = 0;
      announce(`${counted(this.of, "run")} listed`);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.refused(error);
    }
    this.isLoading = false;
  }

  refused(error) {
    // A half-typed filter must not clear the list.
    const isFilter = [400, 422].includes(error.status) && this.table.items.length > 0;
    this.problem.hidden = !isFilter;
    if (isFilter) setText(this.problem, error.message);
    else
      replace(
        this.body,
        failure(error, () => this.load()),
      );
  }

  page(cursor) {
    return get("/runs", { filter: this.filter, sort: this.sort, cursor, limit: PAGE }, this.abort.signal);
  }

  accept(page, before = []) {
    const items = [...before, ...page.items];
    this.cursor = page.next_cursor;
    this.of = page.of;
    this.nAnalysed = page.n_analysed;
    this.problem.hidden = true;
    this.fresh.hidden = true;
    if (items.length && !this.table.element.isConnected) replace(this.body, this.table.element);
    if (!items.length) replace(this.body, this.nothing());
    this.table.show(items, this.of);
    this.showCounts();
  }

  async more() {
    if (!this.cursor || this.isLoading) return;
    this.isLoading = true;
    try {
      const known = new Set(this.table.items.map((item) => item.id));
      const page = await this.page(this.cursor);
      page.items = page.items.filter((item) => !known.has(item.id));
      this.accept(page, this.table.items);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.problem.hidden = false;
      setText(this.problem, `The next runs could not be loaded: ${error.message}`);
    }
    this.isLoading = false;
  }

  showCounts() {
    const shown = this.table.items.length;
    const isRanked = /^-?(regime|exponent)$/.test(this.sort);
    const ranked =
      isRanked && this.nAnalysed < this.of ? ` · ${count(this.nAnalysed)} analysed so far, the others are last` : "";
    setText(
      this.counts,
      `${count(shown)} of ${counted(this.of, "run")}${shown < this.of ? ", more as you scroll" : ""}${ranked}`,
    );
  }

  nothing() {
    if (this.filter) {
      const clear = () => {
        this.input.value = "";
        this.typed();
      };
      return empty(
        "No run matches",
        h("p", {}, "No run passes the filter."),
        h("button", { type: "button", onclick: clear }, "Clear the filter"),
      );
    }
    return empty(
      "No runs yet",
      h("p", {}, "Start an experiment in another terminal; its runs appear here automatically:"),
      h("pre", {}, "streamscalar demo\nstreamscalar run CONFIG.yaml"),
      h("p", {}, "Its store must be in the folder that is served."),
    );
  }

  moved(items) {
    const updated_at = Date.now() / 1000;
    for (const item of items) this.table.update({ ...item, updated_at });
    this.strip.refetch();
  }

  changed(items) {
    // All items have to be updated, so this must not stop at the first unknown one.
    const unknown = items.filter((item) => !this.table.update(item));
    if (unknown.length) this.refetch();
    this.strip.refetch();
  }

  /** Insert new runs; while a user reads the list, only offer them. */
  async catchUp() {
    if (this.isLoading || !this.abort) return this.refetch();
    if (!this.table.element.isConnected) return this.load();
    try {
      const page = await this.page(null);
      if (this.table.isBeingRead) return this.offer(page.of - this.of);
      const missed = page.of - this.of - this.table.insert(page.items, page.of);
      this.of = page.of;
      this.nAnalysed = page.n_analysed;
      this.showCounts();
      return this.offer(missed);
    } catch {
      // On an error the banner is shown; the next event tries again.
      return undefined;
    }
  }

  offer(n) {
    if (n <= 0) return;
    setText(this.fresh, `Show ${counted(n, "new run")}`);
    if (this.fresh.hidden) announce(`${counted(n, "new run")} to show`);
    this.fresh.hidden = false;
  }

  alerted(alert) {
    const item = this.table.items[this.table.places.get(alert.run)];
    if (item) this.table.update({ id: item.id, n_alerts: item.n_alerts + 1 });
    this.alerts.add(alert);
  }

  chosen() {
    const ids = selection.all();
    this.basket.hidden = !ids.length;
    this.table.refresh();
    replace(
      this.basket,
      h("span", {}, `${counted(ids.length, "run")} selected${ids.length === selection.MOST ? ", the maximum" : ""}`),
      h("a", { class: "button", href: selection.compareLink(ids) }, "Compare"),
      h("button", { type: "button", class: "quiet", onclick: selection.clear }, "Clear"),
    );
  }
}
