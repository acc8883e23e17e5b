// A sampled series that grows by cursor: only new points are fetched.
import { get } from "./api.js";

const MAX_POINTS = 2000;

export class GrowingSeries {
  constructor(path, query = {}) {
    this.path = path;
    this.query = { max_points: MAX_POINTS, ...query };
    this.answer = null;
  }

  /** Fetch new points; returns null for none, the number of points added, or "replaced" if others changed. */
  async fetch(signal) {
    const answer = await get(this.path, { ...this.query, cursor: this.answer?.cursor }, signal);
    if (!this.answer || answer.reset) {
      this.answer = answer;
      return "replaced";
    }
    return this.#grow(answer);
  }

  /** Apply `answer`, which repeats the last unchanged point and replaces all from there on. */
  #grow(answer) {
    const { steps, values } = this.answer;
    const first = answer.steps[0] ?? Infinity;
    let kept = steps.length;
    while (kept && steps[kept - 1] >= first) kept -= 1;
    const isOnlyRepeated =
      kept === steps.length - 1 &&
      steps[kept] === first &&
      values.every((line, replica) => line[kept] === answer.values[replica][0]);
    this.answer = {
      ...answer,
      steps: [...steps.slice(0, kept), ...answer.steps],
      values: values.map((line, replica) => [...line.slice(0, kept), ...(answer.values[replica] ?? [])]),
      n: kept + answer.steps.length,
    };
    if (isOnlyRepeated) return answer.steps.length - 1 || null;
    return kept < steps.length ? "replaced" : answer.steps.length || null;
  }
}

/** Return "n of N rows" of a series. */
export const sampled = ({ n, of }, what = "rows") =>
  n < of ? `${n} of ${of} ${what} drawn` : `All ${of} ${what} drawn`;

/** Return columns of several series over all their steps: `<series> <replica>`, empty for a missing row. */
export function joined(answers) {
  const steps = [...new Set(answers.flatMap((answer) => answer.steps))].sort((a, b) => a - b);
  const columns = answers.flatMap((answer) => {
    const places = new Map(answer.steps.map((step, place) => [step, place]));
    return answer.replicas.map((replica, index) => ({
      name: `${answer.name} ${replica}`,
      values: steps.map((step) => answer.values[index][places.get(step)]),
    }));
  });
  return [{ name: "step", values: steps }, ...columns];
}

/** Return columns as comma-separated values. */
export function toCsv(columns) {
  const length = columns[0].values.length;
  const lines = [columns.map(({ name }) => quoted(name)).join(",")];
  for (let index = 0; index < length; index += 1)
    lines.push(columns.map(({ values }) => cellText(values[index])).join(","));
  return `${lines.join("\n")}\n`;
}

const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const cellText = (value) => (value === null || value === undefined ? "" : String(value));
