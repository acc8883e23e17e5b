// One run: scalar, separation of the replicas, metrics, estimates, alerts and nearest runs.
import { alertList } from "../parts/alerts.js";
import { get, runPath } from "../core/api.js";
import { Chart, colours } from "../parts/charts.js";
import {
  alertShapes,
  alertTrace,
  describeDivergence,
  describeMetric,
  describeScalar,
  divergenceDrawing,
  drawOrder,
  fitted,
  replicaTraces,
} from "../parts/curves.js";
import { download, h, replace } from "../core/dom.js";
import { listen, throttled } from "../core/events.js";
import { drawable, number, percent, range } from "../core/numbers.js";
import { RunHead } from "../parts/runhead.js";
import { aboutRun, nearestRuns } from "../parts/runparts.js";
import { GrowingSeries, joined, toCsv } from "../core/series.js";
import { estimatesTable } from "../parts/estimates.js";
import { failure, fill, skeleton } from "../parts/placeholders.js";
import { DISTANCES } from "../core/labels.js";

const ROWS_MS = 2000;
const ESTIMATES_MS = 10_000;
const MOST_ALERTS = 50;

export function run(host, { argument: id }) {
  return new RunPage(host, id);
}

class RunPage {
  constructor(host, id) {
    this.host = host;
    this.id = id;
    this.abort = new AbortController();
    this.charts = {};
    this.series = {};
    this.stops = [];
    fill(host, "80vh", () => this.start());
  }

  close() {
    this.isClosed = true;
    this.abort.abort();
    this.alerts?.close();
    for (const stop of this.stops) stop();
    for (const chart of Object.values(this.charts)) chart.close();
  }

  async start() {
    this.details = await get(runPath(this.id), {}, this.abort.signal);
    this.item = this.details.item;
    this.head = new RunHead(this.details, () => this.csv());
    this.alerts = alertList({ run: this.id }, MOST_ALERTS, {
      onPoint: (alert) => this.pointAt(alert),
      onChange: () => this.draw("scalar"),
    });
    this.controls();
    this.metrics = this.details.metrics.filter(isMain);
    this.charts.scalar = new Chart("Scalar embedding", [this.component], "20rem");
    this.charts.divergence = new Chart("Separation", [this.distance, this.scale], "20rem");
    for (const name of this.metrics)
      this.charts[name] = new Chart(
        name === "loss" ? "Loss" : "Accuracy on the test split",
        name === "loss" ? [this.lossScale] : [],
        "15rem",
      );
    this.offerMetrics(this.details.metrics);
    if (this.metric.control.value) this.metrics.push("metric");
    if (this.metric.control.value) this.charts.metric = new Chart("Metric", [this.metric], "15rem");
    this.estimatesPlace = h("div", {}, skeleton("20rem"));
    const metrics = this.metrics.map((name) => this.charts[name].element);
    const nearest = h("section", { class: "panel", "aria-label": "Nearest runs" }, h("h2", {}, "Nearest runs"));
    nearestRuns(nearest, this.id, this.abort.signal);
    this.begin();
    return h(
      "div",
      { class: "page" },
      this.head.element,
      h("div", { class: "two" }, this.charts.scalar.element, this.charts.divergence.element),
      metrics.length ? h("div", { class: "two" }, metrics) : null,
      h("section", { class: "panel", "aria-label": "Estimates" }, h("h2", {}, "Estimates"), this.estimatesPlace),
      h("div", { class: "two" }, this.alerts.element, nearest),
      aboutRun(this.details),
    );
  }

  controls() {
    const again = (name) => () => this.renew(name);
    this.component = labelled(
      "Component",
      h("input", {
        type: "number",
        min: "1",
        max: String(this.details.n_components),
        value: "1",
        onchange: again("scalar"),
      }),
    );
    this.distance = labelled(
      "Distance",
      h(
        "select",
        { onchange: again("divergence") },
        Object.entries(DISTANCES).map(([value, text]) => h("option", { value }, text)),
      ),
    );
    this.metric = labelled("Metric", h("select", { onchange: again("metric"), onfocus: () => this.listMetrics() }));
    this.scale = scaleChoice("Scale of the separation", "ln", () => this.draw("divergence"));
    this.lossScale = scaleChoice("Scale of the loss", "linear", () => this.draw("loss"));
  }

  /** Offer the metrics that have no chart of their own. */
  offerMetrics(names) {
    const { control } = this.metric;
    const known = new Set([...control.options].map(({ value }) => value));
    const added = names.filter((name) => !isMain(name) && !known.has(name));
    control.append(...added.map((value) => h("option", { value }, value || "(no name)")));
  }

  /** Offer the metrics that were first reported since the page was opened. */
  async listMetrics() {
    try {
      this.offerMetrics((await get(runPath(this.id), {}, this.abort.signal)).metrics);
    } catch {
      // The names that are known stay.
    }
  }

  begin() {
    const rows = throttled(() => this.grow(), ROWS_MS);
    const estimates = throttled(() => this.estimate(), ESTIMATES_MS);
    this.stops.push(
      listen("rows", ({ items }) => {
        const mine = items.find((item) => item.id === this.id);
        if (!mine) return;
        this.update({ ...mine, updated_at: Date.now() / 1000 });
        rows();
        estimates();
      }),
      listen("runs", ({ items }) => {
        const mine = items.find((item) => item.id === this.id);
        if (!mine) return;
        this.update(mine);
        rows();
        estimates();
      }),
      listen("basis", ({ run: owner }) => owner === this.id && rows()),
      listen("alert", (alert) => alert.run === this.id && this.alerts.add(alert)),
      listen("reset", rows),
      rows.stop,
      estimates.stop,
    );
    this.charts.scalar.summarise("Loading …");
    for (const name of Object.keys(this.charts)) this.renew(name);
    this.estimate();
  }

  update(change) {
    Object.assign(this.item, change);
    this.head.update(this.item);
  }

  /** Fetch a series from its beginning and draw it. */
  async renew(name) {
    this.series[name] = this.seriesOf(name);
    await this.fetch(name);
  }

  seriesOf(name) {
    if (name === "scalar")
      return new GrowingSeries(runPath(this.id, "/embedding"), { component: Number(this.component.control.value) - 1 });
    if (name === "divergence")
      return new GrowingSeries(runPath(this.id, "/divergence"), { distance: this.distance.control.value });
    const metric = name === "metric" ? this.metric.control.value : name;
    return new GrowingSeries(runPath(this.id, `/metrics/${encodeURIComponent(metric)}`));
  }

  async fetch(name) {
    const series = this.series[name];
    try {
      const found = await series.fetch(this.abort.signal);
      if (series !== this.series[name]) return;
      if (found === "replaced" || name === "divergence") this.draw(name);
      else if (found) this.extend(name, found);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (series.answer === null) this.charts[name].blank(error.message);
      else this.charts[name].summarise(`No newer rows: ${error.message}`);
    }
  }

  grow() {
    return Promise.all(Object.keys(this.charts).map((name) => this.fetch(name)));
  }

  extend(name, n) {
    const { steps, values, replicas } = this.series[name].answer;
    const order = drawOrder(replicas);
    this.charts[name].extend(
      order.map(() => steps.slice(-n)),
      order.map((index) => values[index].slice(-n).map(drawable)),
    );
    this.summarise(name);
  }

  draw(name) {
    const answer = this.series[name]?.answer;
    const chart = this.charts[name];
    if (!answer || this.isClosed) return;
    if (!answer.steps.length) return chart.blank("No rows yet: they appear automatically.");
    if (name === "scalar") chart.draw((palette) => this.scalarDrawing(answer, palette));
    else if (name === "divergence")
      chart.draw((palette) => divergenceDrawing(answer, this.fit(answer), this.scale.value() === "ln", palette));
    else chart.draw((palette) => this.metricDrawing(name, answer, palette));
    this.summarise(name);
  }

  summarise(name) {
    const { answer } = this.series[name];
    const exponent = this.estimates?.estimates[this.distance.control.value === "embedded" ? "nmle_embedded" : "nmle"];
    if (name === "scalar") {
      this.charts.scalar.summarise(describeScalar(answer, this.item));
      this.head.basis(answer.basis, this.details.exact.method);
    } else if (name === "divergence")
      this.charts.divergence.summarise(describeDivergence(answer, this.fit(answer), exponent));
    else {
      // A tracked training reports values at more steps than it has rows.
      const what = this.details.setting.is_tracked ? "values" : "rows";
      this.charts[name].summarise(describeMetric(answer, what, name === "accuracy" ? percent : number));
    }
  }

  fit(answer) {
    const distance = this.distance.control.value;
    // Other distances have no fit of their own, so no line is drawn for them.
    return distance === "l1" || distance === "embedded"
      ? fitted(answer, this.estimates?.estimates, distance === "embedded")
      : null;
  }

  scalarDrawing(answer, palette) {
    const alerts = this.alerts.items();
    const traces = replicaTraces(answer, palette, palette.series[0]);
    const span = range(answer.values.flat());
    if (alerts.length && span) traces.push(alertTrace(alerts, palette, span[1]));
    return {
      traces,
      layout: {
        shapes: alertShapes(alerts, palette),
        xaxis: { title: { text: "training step" } },
        yaxis: { title: { text: `coordinate ${this.component.control.value}` } },
      },
    };
  }

  metricDrawing(name, answer, palette) {
    const isLog = name === "loss" && this.lossScale.value() === "log";
    const yaxis =
      name === "accuracy"
        ? { title: { text: "accuracy" }, tickformat: ".0%" }
        : { title: { text: answer.name }, type: isLog ? "log" : "linear" };
    return {
      traces: replicaTraces(answer, palette, palette.series[2]),
      layout: { xaxis: { title: { text: "training step" } }, yaxis },
    };
  }

  /** Emphasise the mark of an alert, or of none. */
  pointAt(alert) {
    this.charts.scalar.mark(alertShapes(this.alerts.items(), colours(), alert));
  }

  async estimate() {
    try {
      this.estimates = await get(runPath(this.id, "/estimates"), {}, this.abort.signal);
      replace(this.estimatesPlace, summary(this.estimates), estimatesTable(this.estimates.estimates));
      this.head.estimated(this.estimates);
      this.draw("divergence");
    } catch (error) {
      if (error.name !== "AbortError")
        replace(
          this.estimatesPlace,
          failure(error, () => this.estimate()),
        );
    }
  }

  csv() {
    const loaded = Object.values(this.series)
      .map(({ answer }) => answer)
      .filter((answer) => answer?.steps.length);
    if (loaded.length) download(`${this.item.run_id}.csv`, toCsv(joined(loaded)));
  }
}

/** Whether a metric has a chart of its own. */
const isMain = (name) => name === "loss" || name === "accuracy";

function summary({ regime, regime_reason: reason, n_rows: n, control_divergence: floor, eigengap }) {
  const noise =
    floor === null
      ? ""
      : floor === 0
        ? " The unperturbed copy stayed at distance 0."
        : ` The unperturbed copy reached a distance of ${number(floor)}: separations below that are noise.`;
  const gap = eigengap === null ? "" : ` Eigengap ${number(eigengap)}.`;
  return h("p", {}, h("strong", {}, `${regime}: `), `${reason} From ${n} rows.${noise}${gap}`);
}

/** Return a label around `control`, which is its property `control` in the document. */
function labelled(text, control) {
  return h("label", { class: "control" }, h("span", {}, text), control);
}

let nChoices = 0;

/** Return a choice between the linear and the logarithmic scale, with `first` selected. */
function scaleChoice(label, first, onChange) {
  nChoices += 1;
  const other = first === "linear" ? "log" : "linear";
  const option = (value) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: `scale-${nChoices}`, value, checked: value === first, onchange: onChange }),
      h("span", {}, value),
    );
  const element = h(
    "fieldset",
    { class: "choice" },
    h("legend", { class: "unseen" }, label),
    [first, other].map(option),
  );
  element.value = () => element.querySelector("input:checked").value;
  return element;
}
