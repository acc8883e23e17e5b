// A table that draws only the visible rows, so that thousands of runs cost as much as thirty.
import { COLUMNS, runLink } from "./columns.js";
import { h, setAttribute } from "../core/dom.js";
import * as selection from "./selection.js";

const SPARE = 8;
const NEAR_END = 30;

export class RunTable {
  /** `onSort(key)` is called on a click on a heading, `onNearEnd()` when more rows are needed. */
  constructor({ onSort, onNearEnd }) {
    this.items = [];
    this.places = new Map();
    this.drawn = new Map();
    this.active = 0;
    this.onNearEnd = onNearEnd;
    this.headings = new Map();
    this.above = spacer();
    this.below = spacer();
    this.body = h("tbody", { onclick: (event) => this.#clicked(event) }, this.above, this.below);
    this.table = h(
      "table",
      { class: "runs" },
      h("caption", { class: "unseen" }, "Runs"),
      this.#head(onSort),
      this.body,
    );
    this.element = h("div", { class: "window", tabindex: "-1", "aria-label": "Runs", role: "region" }, this.table);
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.resize = new ResizeObserver(() => this.#draw());
    this.resize.observe(this.element);
  }

  close() {
    this.resize.disconnect();
  }

  /** Whether a user is in the middle of the list, so that its order must not change. */
  get isBeingRead() {
    return this.element.scrollTop > 4 || this.body.matches(":hover") || this.body.contains(document.activeElement);
  }

  /** Show these runs in this order; `of` is the total. */
  show(items, of) {
    const id = this.items[this.active]?.id;
    this.items = items;
    this.places = new Map(items.map((item, place) => [item.id, place]));
    this.active = this.places.get(id) ?? Math.min(this.active, Math.max(0, items.length - 1));
    setAttribute(this.table, "aria-rowcount", String(of + 1));
    this.#draw();
  }

  /** Update a run in place; returns false for a run that is not listed. */
  update(change) {
    const place = this.places.get(change.id);
    if (place === undefined) return false;
    Object.assign(this.items[place], change);
    this.drawn.get(change.id)?.fill(this.items[place]);
    return true;
  }

  /** Insert the new runs of a fetched `page` without moving the listed ones; returns their number. */
  insert(page, of) {
    const items = [...this.items];
    let place = 0;
    let n = 0;
    for (const item of page) {
      if (this.update(item)) place = Math.max(place, items.findIndex(({ id }) => id === item.id) + 1);
      else {
        items.splice(place, 0, item);
        place += 1;
        n += 1;
      }
    }
    this.show(items, of);
    return n;
  }

  /** Draw the visible rows again, for ages and selections. */
  refresh() {
    for (const [id, row] of this.drawn) row.fill(this.items[this.places.get(id)]);
  }

  /** Mark the heading that the list is sorted by. */
  sortedBy(key) {
    for (const [sort, heading] of this.headings) {
      const order = key === sort ? "ascending" : key === opposite(sort) ? "descending" : "none";
      heading.setAttribute("aria-sort", order);
    }
  }

  /** Move the focus by `by` rows. */
  move(by) {
    if (!this.items.length) return;
    const isInside = this.body.contains(document.activeElement);
    this.active = Math.max(0, Math.min(this.items.length - 1, this.active + (isInside ? by : 0)));
    this.#scrollTo(this.active);
    this.#draw();
    this.drawn.get(this.items[this.active].id)?.row.focus({ preventScroll: true });
  }

  /** The focused run, or undefined. */
  get focused() {
    const row = document.activeElement?.closest?.("tr[data-id]");
    return row && this.body.contains(row) ? this.items[this.places.get(row.dataset.id)] : undefined;
  }

  #head(onSort) {
    const cells = COLUMNS.map(({ name, heading, sort: key, isBackwards }) => {
      const sort = isBackwards ? opposite(key) : key;
      const label = sort ? h("button", { type: "button", onclick: () => onSort(sort) }, heading) : heading;
      const cell = h("th", { scope: "col", class: `c-${name}` }, label);
      if (sort) this.headings.set(sort, cell);
      return cell;
    });
    const choice = h("th", { scope: "col", class: "c-choice" }, h("span", { class: "unseen" }, "Compare"));
    return h("thead", {}, h("tr", { "aria-rowindex": "1" }, choice, cells));
  }

  #clicked(event) {
    const row = event.target.closest("tr[data-id]");
    if (!row || event.target.closest("a, input, label") || String(getSelection())) return;
    location.hash = runLink(row.dataset.id);
  }

  #rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 40;
  }

  #scrollTo(place) {
    const height = this.#rowHeight();
    const head = this.table.tHead.offsetHeight;
    const room = this.element.clientHeight - head;
    const top = place * height;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + height > this.element.scrollTop + room) this.element.scrollTop = top + height - room;
  }

  #draw() {
    const height = this.#rowHeight();
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - SPARE);
    const last = Math.min(
      this.items.length,
      Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + SPARE,
    );
    const wanted = this.items.slice(first, last);
    this.#forget(new Set(wanted.map((item) => item.id)));
    let next = this.above.nextSibling;
    wanted.forEach((item, index) => {
      const row = this.drawn.get(item.id) ?? this.#row(item.id);
      row.fill(item);
      setAttribute(row.row, "aria-rowindex", String(first + index + 2));
      setAttribute(row.row, "tabindex", first + index === this.active ? "0" : "-1");
      // A row in the right position is not moved: that would drop the focus.
      if (row.row === next) next = next.nextSibling;
      else this.body.insertBefore(row.row, next);
    });
    this.above.style.height = `${first * height}px`;
    this.below.style.height = `${(this.items.length - last) * height}px`;
    if (last + NEAR_END > this.items.length) this.onNearEnd();
  }

  #forget(wanted) {
    for (const [id, { row }] of this.drawn) {
      if (wanted.has(id)) continue;
      // Otherwise the focus would return to the top of the page.
      if (row.contains(document.activeElement)) this.element.focus({ preventScroll: true });
      row.remove();
      this.drawn.delete(id);
    }
  }

  #row(id) {
    const box = h("input", { type: "checkbox", tabindex: "-1", onchange: () => choose(id, box) });
    const row = h("tr", { data: { id } }, h("td", { class: "c-choice" }, h("label", {}, box)));
    row.addEventListener("focus", () => this.#focused(id));
    const fills = COLUMNS.map(({ name, fill }) => {
      const cell = h(name === "id" ? "th" : "td", { class: `c-${name}`, scope: name === "id" ? "row" : null });
      row.append(cell);
      return fill(cell);
    });
    const entry = {
      row,
      fill: (item) => {
        for (const fill of fills) fill(item);
        box.checked = selection.isChosen(id);
        setAttribute(box, "aria-label", `compare ${item.run_id}`);
        row.classList.toggle("chosen", box.checked);
      },
    };
    this.drawn.set(id, entry);
    return entry;
  }

  #focused(id) {
    this.drawn.get(this.items[this.active]?.id)?.row.setAttribute("tabindex", "-1");
    this.active = this.places.get(id) ?? this.active;
    this.drawn.get(id)?.row.setAttribute("tabindex", "0");
  }
}

function choose(id, box) {
  if (!selection.toggle(id)) box.checked = false;
}

/** Return the sorting key of the opposite order. */
export const opposite = (sort) => (sort.startsWith("-") ? sort.slice(1) : `-${sort}`);

const spacer = () => h("tr", { class: "spacer", "aria-hidden": "true" });
