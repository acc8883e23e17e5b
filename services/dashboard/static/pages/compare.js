// Several runs in one chart, with a note on whether they share an axis.
import { get } from "../core/api.js";
import { Chart } from "../parts/charts.js";
import { runLink } from "../parts/columns.js";
import { download, h, replace, setText, svg } from "../core/dom.js";
import { listen, throttled } from "../core/events.js";
import { counted, drawable, number, range } from "../core/numbers.js";
import { toCsv } from "../core/series.js";
import { empty, failure } from "../parts/placeholders.js";
import { SERIES } from "../core/labels.js";
import { MOST } from "../parts/selection.js";

const MAX_POINTS = 3000;
const WIDTH = 1.6;
const STRONG = 4;
const REFETCH_MS = 10_000;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "12px 2px 2px 2px", "2px 6px"];

export function compare(host, { query }) {
  const ids = [...new Set((query.get("runs") ?? "").split(",").filter(Boolean))];
  return new ComparePage(host, ids, query.get("name") ?? "embedding");
}

class ComparePage {
  constructor(host, ids, name) {
    this.ids = ids.slice(0, MOST);
    this.name = name in SERIES ? name : "embedding";
    this.hidden = new Set();
    this.stops = [];
    if (!ids.length) {
      replace(
        host,
        empty(
          "Nothing to compare",
          h("p", {}, "Select runs in the list with their boxes, or with the key c, then press Compare."),
          h("a", { class: "button", href: "#/" }, "All runs"),
        ),
      );
      return;
    }
    this.chart = new Chart(
      SERIES[this.name],
      [this.choice(), h("button", { type: "button", class: "quiet", onclick: () => this.csv() }, "Download CSV")],
      "30rem",
    );
    this.axis = h("p", { class: "axis", role: "status" }, "…");
    this.legend = h("ul", { class: "curves" });
    this.note = h(
      "p",
      { class: "faint" },
      ids.length > MOST ? `Only the first ${MOST} of ${ids.length} runs are drawn.` : `${counted(ids.length, "run")}.`,
    );
    const all = (isShown) =>
      h(
        "button",
        { type: "button", class: "quiet", onclick: () => this.showAll(isShown) },
        isShown ? "Show all" : "Hide all",
      );
    replace(
      host,
      h(
        "div",
        { class: "page" },
        h("header", { class: "title" }, h("h1", {}, "Compare"), this.note),
        this.axis,
        this.chart.element,
        h(
          "section",
          { class: "panel", "aria-label": "Curves" },
          h("div", { class: "row" }, h("h2", {}, "Curves"), h("div", { class: "controls" }, all(true), all(false))),
          this.legend,
        ),
      ),
    );
    const refetch = throttled(() => this.load(), REFETCH_MS);
    const mine = new Set(this.ids);
    this.stops = [
      listen("rows", ({ items }) => items.some(({ id }) => mine.has(id)) && refetch()),
      listen("reset", refetch),
      refetch.stop,
      () => this.chart.close(),
      () => this.abort?.abort(),
    ];
    this.load();
  }

  close() {
    for (const stop of this.stops) stop();
  }

  choice() {
    const select = h(
      "select",
      { onchange: () => this.choose(select.value) },
      Object.entries(SERIES).map(([value, text]) => h("option", { value, selected: value === this.name }, text)),
    );
    return h("label", { class: "control" }, h("span", {}, "Series"), select);
  }

  choose(name) {
    this.name = name;
    setText(this.chart.title, SERIES[name]);
    history.replaceState(null, "", `#/compare?runs=${this.ids.map(encodeURIComponent).join(",")}&name=${name}`);
    this.load();
  }

  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    try {
      this.answer = await get(
        "/compare",
        { runs: this.ids.join(","), name: this.name, max_points: MAX_POINTS },
        this.abort.signal,
      );
      this.show();
    } catch (error) {
      if (error.name === "AbortError") return;
      replace(
        this.axis,
        failure(error, () => this.load()),
      );
    }
  }

  show() {
    const { axis, message, runs, steps, n, of } = this.answer;
    this.axis.dataset.value = axis;
    replace(
      this.axis,
      h("strong", {}, axis === "shared" ? "One shared axis. " : "Each run has its own axis. "),
      message,
    );
    this.chart.draw((palette) => ({
      traces: runs.map((one, index) => this.trace(one, index, palette)),
      layout: {
        xaxis: { title: { text: "training step" } },
        yaxis: {
          title: { text: SERIES[this.name] },
          tickformat: this.name === "accuracy" ? ".0%" : "",
          type: this.name === "l1" ? "log" : "linear",
        },
      },
    }));
    const sampled = n < of ? ` ${n} of ${of} shared steps drawn.` : ` All ${of} shared steps drawn.`;
    const empties = runs.filter(({ values }) => !range(values)).length;
    const without = empties ? ` ${counted(empties, "run")} without a value.` : "";
    const scale = this.name === "l1" ? " Logarithmic axis." : "";
    const span = `${counted(runs.length, "run")} over steps ${steps[0] ?? 0} to ${steps.at(-1) ?? 0}.`;
    this.chart.summarise(`${span}${sampled}${without}${scale}`);
    this.drawLegend(runs);
  }

  trace({ run, values }, index, palette) {
    return {
      type: "scatter",
      mode: "lines",
      name: run,
      x: this.answer.steps,
      y: values.map(drawable),
      visible: !this.hidden.has(run),
      connectgaps: true,
      line: { ...look(index, palette.series), width: WIDTH },
      hovertemplate: "step %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
    };
  }

  drawLegend(runs) {
    replace(
      this.legend,
      runs.map(({ run, values }, index) => {
        const box = h("input", {
          type: "checkbox",
          checked: !this.hidden.has(run),
          onchange: () => this.toggle(run, index, box.checked),
        });
        const known = values.map(drawable).filter((value) => value !== null);
        const strong = (isStrong) => () => this.chart.restyle({ "line.width": isStrong ? STRONG : WIDTH }, [index]);
        return h(
          "li",
          {
            onpointerenter: strong(true),
            onpointerleave: strong(false),
            onfocusin: strong(true),
            onfocusout: strong(false),
          },
          h("label", {}, box, swatch(index), h("span", {}, run)),
          h("span", { class: "figures faint" }, known.length ? number(known.at(-1)) : "no value"),
          h("a", { href: runLink(run), "aria-label": `open ${run}` }, "open"),
        );
      }),
    );
  }

  toggle(run, index, isShown) {
    if (isShown) this.hidden.delete(run);
    else this.hidden.add(run);
    this.chart.restyle({ visible: isShown }, [index]);
  }

  showAll(isShown) {
    if (!this.answer) return;
    this.hidden = new Set(isShown ? [] : this.ids);
    this.show();
  }

  csv() {
    if (!this.answer) return;
    const { steps, runs } = this.answer;
    download(
      `compare-${this.name}.csv`,
      toCsv([{ name: "step", values: steps }, ...runs.map(({ run, values }) => ({ name: run, values }))]),
    );
  }
}

/** Colour and dash of curve `index`: 64 combinations, the first eight by colour alone. */
const look = (index, series) => ({
  color: series[index % series.length],
  dash: DASHES[Math.floor(index / series.length) % DASHES.length],
});

const STROKES = ["", "6 4", "2 3", "6 3 2 3", "10 4", "10 3 2 3", "12 2 2 2", "2 6"];

const swatch = (index) =>
  svg(
    "svg",
    { class: `swatch s${(index % 8) + 1}`, viewBox: "0 0 32 8", "aria-hidden": "true" },
    svg("path", { d: "M0 4h32", "stroke-dasharray": STROKES[Math.floor(index / 8) % STROKES.length] }),
  );
