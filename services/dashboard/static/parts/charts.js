// Charts: plotly, fetched when a page first draws, in the colours of the theme.
import { h, replace, setText } from "../core/dom.js";
import { skeleton } from "./placeholders.js";

let loading = null;

/** Return plotly, when it is loaded. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "/static/plotly.js", onload: () => resolve(window.Plotly) });
    script.onerror = () => {
      loading = null;
      reject(new Error("The plotting library could not be loaded."));
    };
    document.head.append(script);
  });
  return loading;
}

/** Return the colours of the theme: `ink`, `faint`, `line`, `surface`, regimes, and `series` of eight. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const named = (names) => Object.fromEntries(names.map((name) => [name, read(name)]));
  return {
    ...named(["ink", "faint", "line", "surface", "accent", "warn", "error", "info"]),
    ...named(["regular", "onset", "chaotic", "diverged", "undecided"]),
    series: [1, 2, 3, 4, 5, 6, 7, 8].map((index) => read(`series-${index}`)),
  };
}

const IS_COARSE = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true,
  displayModeBar: IS_COARSE ? false : "hover",
  displaylogo: false,
  scrollZoom: false,
  doubleClick: "reset+autosize",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

export class Chart {
  /** A figure with its title, the chart, and a summary in words. */
  constructor(title, controls = [], height = "20rem") {
    this.title = h("h2", {}, title);
    this.plot = h("div", { class: "plot", style: `height:${height}`, role: "img" }, skeleton("100%"));
    this.summary = h("figcaption", {}, "…");
    this.element = h(
      "figure",
      { class: "panel chart" },
      h("div", { class: "row" }, this.title, h("div", { class: "controls" }, controls)),
      this.plot,
      this.summary,
    );
    this.build = null;
    this.isDrawn = false;
    this.redraw = () => this.build && this.draw(this.build);
    window.addEventListener("theme", this.redraw);
  }

  /** Draw `build(colours) -> {traces, layout}`; called again when the theme changes. */
  async draw(build) {
    this.build = build;
    try {
      const library = await plotly();
      if (this.build !== build || this.isClosed) return;
      if (!this.isDrawn) replace(this.plot);
      this.isDrawn = true;
      const palette = colours();
      const { traces, layout } = build(palette);
      await library.react(this.plot, traces, merged(base(palette), layout), CONFIG);
    } catch (error) {
      this.summarise(error.message);
    }
  }

  /** Append to drawn traces: `xs` and `ys` by trace. */
  async extend(xs, ys) {
    const library = await plotly();
    if (this.isDrawn && !this.isClosed)
      await library.extendTraces(
        this.plot,
        { x: xs, y: ys },
        xs.map((_, index) => index),
      );
  }

  /** Change a property of some traces. */
  async restyle(change, indices) {
    const library = await plotly();
    if (this.isDrawn && !this.isClosed) await library.restyle(this.plot, change, indices);
  }

  /** Put marks on the chart. */
  async mark(shapes) {
    const library = await plotly();
    if (this.isDrawn && !this.isClosed) await library.relayout(this.plot, { shapes });
  }

  /** Set the summary: what the chart shows, or why it is empty. */
  summarise(sentence) {
    setText(this.summary, sentence);
    this.plot.setAttribute("aria-label", `${this.title.textContent}. ${sentence}`);
  }

  /** Show a sentence instead of the chart. */
  blank(sentence) {
    this.build = null;
    if (this.isDrawn) window.Plotly.purge(this.plot);
    this.isDrawn = false;
    replace(this.plot, h("p", { class: "faint middle" }, sentence));
    this.summarise(sentence);
  }

  close() {
    this.isClosed = true;
    window.removeEventListener("theme", this.redraw);
    if (this.isDrawn) window.Plotly.purge(this.plot);
  }
}

function base({ ink, faint, line, surface }) {
  const axis = {
    gridcolor: line,
    zeroline: false,
    linecolor: line,
    tickcolor: line,
    automargin: true,
    nticks: 7,
    title: { standoff: 8 },
  };
  return {
    font: { family: "system-ui, sans-serif", size: 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 12, t: 8, b: 40 },
    uirevision: "kept",
    showlegend: false,
    // On a touch screen, dragging must scroll the page.
    dragmode: IS_COARSE ? false : "zoom",
    hoverlabel: { bgcolor: surface, bordercolor: faint, font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: ink },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
    xaxis: axis,
    yaxis: { ...axis },
  };
}

function merged(first, second) {
  const result = { ...first };
  for (const [name, value] of Object.entries(second)) {
    const isObject = value && typeof value === "object" && !Array.isArray(value);
    result[name] = isObject ? merged(first[name] ?? {}, value) : value;
  }
  return result;
}
