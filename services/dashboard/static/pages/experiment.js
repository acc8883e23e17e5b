// One experiment: regimes, exponents and training time over learning rates, with intervals.
import { get, getAll } from "../core/api.js";
import { Chart } from "../parts/charts.js";
import { h, replace } from "../core/dom.js";
import { listen, throttled } from "../core/events.js";
import { regimeMap } from "../parts/regimes.js";
import { chosen, count, counted, drawable, number, when } from "../core/numbers.js";
import { settingsTable } from "../parts/estimates.js";
import { fill } from "../parts/placeholders.js";
import { quantity } from "../core/labels.js";

const REFETCH_MS = 10_000;
const AGAIN_MS = 500;
const EXPONENTS = ["ftle", "nmle", "nmle_embedded", "nmle_random_direction"];
const HOVER = "lr %{customdata[0]}: %{customdata[1]} (%{customdata[2]} to %{customdata[3]}), n = %{customdata[4]}";
const BARS = "Bars are the intervals over initial conditions. Above 0, small differences grow.";
const CONTROL =
  "The random direction is the control: the scalar is better only where it is nearer to the exponent of the weights.";
const SYMBOLS = ["circle", "square", "diamond", "x-thin-open"];

export function experiment(host, { argument: name }) {
  return new ExperimentPage(host, name);
}

class ExperimentPage {
  constructor(host, name) {
    this.name = name;
    this.abort = new AbortController();
    this.known = {};
    this.nAnalysed = -1;
    this.rates = new Chart("Exponents over the learning rate");
    this.speed = new Chart("Steps to the target accuracy");
    this.places = {
      head: h("header", { class: "title" }),
      map: h("div", {}),
      table: h("div", {}),
      about: h("div", { class: "two" }),
    };
    // On an error the banner is shown; the next event tries again.
    const refetch = throttled(() => this.load().catch(() => {}), REFETCH_MS);
    this.stops = [
      listen("runs", ({ items }) => items.some((item) => item.experiment === name) && refetch()),
      listen("reset", refetch),
      refetch.stop,
    ];
    fill(host, "80vh", () => this.begin());
  }

  close() {
    this.abort.abort();
    clearTimeout(this.again);
    for (const stop of this.stops) stop();
    this.rates.close();
    this.speed.close();
  }

  async begin() {
    await this.load();
    const { head, map, table, about } = this.places;
    return h(
      "div",
      { class: "page" },
      head,
      map,
      h("div", { class: "two" }, this.rates.element, this.speed.element),
      table,
      about,
    );
  }

  /** Fetch everything and replace only the parts that differ, so that focus and open details stay. */
  async load() {
    const { signal } = this.abort;
    const [details, runs] = await Promise.all([
      get(`/experiments/${encodeURIComponent(this.name)}`, {}, signal),
      getAll("/runs", { filter: `experiment=${this.name}` }, signal),
    ]);
    this.put("head", [details.item, details.n_analysed, runs.of], () => head(details, runs));
    const shown = runs.items.map(({ id, state, regime, exponent }) => [id, state, regime, exponent?.value]);
    this.put("map", [shown, details.settings], () => regimeMap(runs.items, details.settings));
    this.put("table", details.settings, () => settingsTable(details.settings));
    this.put("about", [details.config, details.provenance], () => about(details));
    drawExponents(this.rates, details.settings);
    drawSpeed(this.speed, details.settings);
    // A request analyses a few runs. Without a new row no event follows, so ask again while there are more of them.
    const isMore = details.n_analysed > this.nAnalysed;
    this.nAnalysed = details.n_analysed;
    if (isMore && details.n_analysed < details.item.n_runs) {
      this.again = setTimeout(() => this.load().catch(() => {}), AGAIN_MS);
    }
  }

  put(name, content, make) {
    const text = JSON.stringify(content);
    if (this.known[name] === text) return;
    this.known[name] = text;
    replace(this.places[name], make());
  }
}

function head({ item, n_analysed: n }, { items, of }) {
  const states = Object.entries(item.states)
    .map(([state, k]) => `${count(k)} ${state}`)
    .join(", ");
  const partly =
    n < item.n_runs
      ? ` Estimates below are from the ${count(n)} of ${counted(item.n_runs, "run")} analysed so far.`
      : "";
  const cut = items.length < of ? ` The map shows the first ${count(items.length)} of ${count(of)} runs.` : "";
  const size = `${item.task} · ${counted(item.n_runs, "run")} (${states}) · ${counted(item.n_rows, "row")}`;
  return [
    h("h1", {}, item.name),
    h("p", {}, `${size} · started ${when(item.created_at)}.${partly}${cut}`),
    h("a", { href: `#/?filter=${encodeURIComponent(`experiment=${item.name}`)}` }, "List its runs"),
  ];
}

/** Return the settings with a known learning rate, in its order. */
function placed(settings) {
  return settings
    .filter(({ learning_rate: rate }) => drawable(rate) !== null && rate > 0)
    .sort((a, b) => a.learning_rate - b.learning_rate);
}

function rateAxis(settings) {
  const rates = [...new Set(settings.map((setting) => setting.learning_rate))];
  const isWide = rates.length > 2 && rates.at(-1) / rates[0] > 8;
  const ticks = rates.length <= 8 ? { tickmode: "array", tickvals: rates, ticktext: rates.map(chosen) } : {};
  return { title: { text: "learning rate" }, type: isWide ? "log" : "linear", ...ticks };
}

function points(settings, name, symbol, colour, shift) {
  const there = settings.filter(({ estimates }) => drawable(estimates[name]?.value) !== null);
  const of = (read) => there.map(({ estimates }) => read(estimates[name]));
  return {
    type: "scatter",
    mode: "lines+markers",
    name: quantity(name),
    x: there.map(({ learning_rate: rate }) => rate * shift),
    y: of((e) => e.value),
    line: { color: colour, width: 1, dash: name === "nmle_random_direction" ? "dot" : "solid" },
    marker: { color: colour, symbol, size: 8, line: { width: 2, color: colour } },
    error_y: {
      type: "data",
      symmetric: false,
      color: colour,
      thickness: 1.2,
      width: 3,
      array: of((e) => (drawable(e.high) ?? e.value) - e.value),
      arrayminus: of((e) => e.value - (drawable(e.low) ?? e.value)),
    },
    customdata: there.map(({ learning_rate: rate, estimates }) => [
      chosen(rate),
      number(estimates[name].value),
      number(estimates[name].low),
      number(estimates[name].high),
      estimates[name].n,
    ]),
    hovertemplate: `${HOVER}<extra>%{fullData.name}</extra>`,
  };
}

function drawExponents(chart, all) {
  const settings = placed(all);
  const drawn = EXPONENTS.filter((name) => settings.some(({ estimates }) => drawable(estimates[name]?.value) !== null));
  if (!drawn.length) return chart.blank("No exponent yet: the table shows the reason.");
  const shifts = [0.985, 0.995, 1.005, 1.015];
  chart.draw((palette) => ({
    traces: drawn.map((name) => {
      const index = EXPONENTS.indexOf(name);
      return points(settings, name, SYMBOLS[index], index === 3 ? palette.faint : palette.series[index], shifts[index]);
    }),
    layout: {
      showlegend: true,
      xaxis: rateAxis(settings),
      yaxis: { title: { text: "exponent per step" }, zeroline: true, zerolinecolor: palette.faint },
    },
  }));
  const best = settings.filter(({ estimates }) => drawable(estimates.ftle?.value) !== null);
  const at = ({ estimates, learning_rate: rate }) => `${number(estimates.ftle.value)} at learning rate ${chosen(rate)}`;
  const span = best.length > 1 ? ` The finite-time exponent goes from ${at(best[0])} to ${at(best.at(-1))}.` : "";
  chart.summarise(`${BARS}${span} ${CONTROL}`);
}

function drawSpeed(chart, all) {
  const settings = placed(all);
  const timed = settings.filter(({ estimates }) => drawable(estimates.steps_to_accuracy?.value) !== null);
  if (!timed.length) return chart.blank("No setting reached the target accuracy in every run.");
  chart.draw((palette) => ({
    traces: [points(settings, "steps_to_accuracy", "circle", palette.series[0], 1)],
    layout: { xaxis: rateAxis(settings), yaxis: { title: { text: "steps" }, rangemode: "tozero" } },
  }));
  const fastest = timed.reduce((a, b) =>
    b.estimates.steps_to_accuracy.value < a.estimates.steps_to_accuracy.value ? b : a,
  );
  const without = settings.length - timed.length;
  const steps = number(fastest.estimates.steps_to_accuracy.value);
  const others = without ? ` ${counted(without, "setting")} without a number; the table shows the reason.` : "";
  chart.summarise(`Fastest at learning rate ${chosen(fastest.learning_rate)}: ${steps} steps.${others}`);
}

function about({ config, provenance }) {
  const block = (title, content) =>
    h("details", { class: "panel" }, h("summary", {}, title), h("pre", {}, JSON.stringify(content, null, 2)));
  return [block("Config", config), block("Provenance", provenance)];
}
