// The columns of the run list: content of each, and how a cell is updated in place.
import { h, setAttribute, setText } from "../core/dom.js";
import { progress, regimeMark, sparkline, stateMark } from "./marks.js";
import { age, chosen, count, interval, NONE, number, percent } from "../core/numbers.js";
import { status } from "../core/labels.js";

export const runLink = (id) => `#/run/${encodeURIComponent(id)}`;

const plain = (read) => (cell) => (item) => setText(cell, read(item));

function identity(cell) {
  const link = h("a", { tabindex: "-1" });
  const tags = h("small", { class: "tags" });
  cell.append(link, tags);
  return (item) => {
    setAttribute(link, "href", runLink(item.id));
    setAttribute(link, "title", item.id);
    setText(link, item.run_id);
    const notes = [item.is_tracked ? "tracked" : "", item.parent ? "forked" : "", ...item.tags].filter(Boolean);
    setText(tags, notes.join(" · "));
  };
}

function marked(make, read, note = () => "") {
  return (cell) => {
    const mark = make();
    const none = h("span", { class: "faint" }, NONE);
    cell.append(mark.element, none);
    return (item) => {
      const word = read(item);
      mark.update(word, note(item));
      none.hidden = Boolean(word);
    };
  };
}

function exponent(cell) {
  const value = h("span", { class: "figures" });
  const between = h("small", { class: "figures" });
  cell.append(value, between);
  return ({ exponent: estimate }) => {
    const isNumber = estimate?.status === "ok";
    setText(value, !estimate ? NONE : isNumber ? number(estimate.value) : status(estimate.status));
    value.classList.toggle("words", Boolean(estimate) && !isNumber);
    setText(between, isNumber ? interval(estimate) : "");
    setAttribute(cell, "data-tip", estimate && !isNumber ? estimate.message : null);
  };
}

function rows(cell) {
  const bar = progress();
  cell.append(bar.element);
  return (item) => bar.update(item.n_rows, item.n_planned);
}

function scalar(cell) {
  const spark = sparkline();
  cell.append(spark.element);
  return (item) => spark.update(item.sparkline);
}

function alerts(cell) {
  const link = h("a", { tabindex: "-1" });
  cell.append(link);
  return (item) => {
    setAttribute(link, "href", item.n_alerts ? runLink(item.id) : null);
    setText(link, item.n_alerts ? count(item.n_alerts) : NONE);
  };
}

/** Name, heading, sort key of the server (null: none; `isBackwards`: reversed), and how to fill a cell. */
export const COLUMNS = [
  { name: "id", heading: "Run", sort: "id", fill: identity },
  { name: "experiment", heading: "Experiment", sort: "experiment", fill: plain((item) => item.experiment) },
  {
    name: "state",
    heading: "State",
    sort: "state",
    fill: marked(
      stateMark,
      (item) => item.state,
      (item) => item.reason,
    ),
  },
  { name: "regime", heading: "Regime", sort: "regime", fill: marked(regimeMark, (item) => item.regime) },
  { name: "exponent", heading: "Exponent per step", sort: "exponent", fill: exponent },
  { name: "rate", heading: "Learning rate", sort: "learning_rate", fill: plain((item) => chosen(item.learning_rate)) },
  { name: "rows", heading: "Rows", sort: "n_rows", fill: rows },
  { name: "loss", heading: "Loss", sort: "loss", fill: plain((item) => number(item.loss)) },
  { name: "accuracy", heading: "Accuracy", sort: "accuracy", fill: plain((item) => percent(item.accuracy)) },
  { name: "scalar", heading: "Scalar", sort: null, fill: scalar },
  { name: "alerts", heading: "Alerts", sort: "n_alerts", fill: alerts },
  { name: "age", heading: "Age", sort: "updated_at", isBackwards: true, fill: plain((item) => age(item.updated_at)) },
];
