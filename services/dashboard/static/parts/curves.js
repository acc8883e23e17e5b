// The charts of a run: traces of each series, and a sentence that describes them.
import { counted, drawable, ln, number, range } from "../core/numbers.js";
import { sampled } from "../core/series.js";

const isControl = (replica) => replica === "control";
const isReference = (replica) => replica === "reference";

export const LINES = "Strong line: the reference; faint: perturbed replicas; dashed: the unperturbed copy.";

/** Return the replicas in drawing order: the control, which often equals the reference, is at the bottom. */
export function drawOrder(replicas) {
  const height = (name) => (isControl(name) ? 0 : isReference(name) ? 2 : 1);
  return replicas.map((_, index) => index).sort((a, b) => height(replicas[a]) - height(replicas[b]));
}

/** Return one trace per replica in drawing order: the reference strong, the perturbed faint, the control dashed. */
export function replicaTraces({ steps, values, replicas }, palette, colour, transform = drawable) {
  return drawOrder(replicas).map((index) => {
    const name = replicas[index];
    const line = isReference(name)
      ? { color: colour, width: 2 }
      : isControl(name)
        ? { color: palette.faint, width: 5, dash: "6px,5px" }
        : { color: colour, width: 1 };
    const opacity = isReference(name) ? 1 : 0.45;
    return {
      type: "scatter",
      mode: "lines",
      name,
      x: [...steps],
      y: values[index].map(transform),
      line,
      opacity,
      connectgaps: false,
      hovertemplate: "step %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
    };
  });
}

/** Describe the scalar in words. */
export function describeScalar(answer, item) {
  const reference = answer.values[0] ?? [];
  const span = range(reference);
  if (!span) return "No scalar yet: it appears when rows are embedded.";
  const basis =
    answer.basis === "exact"
      ? "Exact embedding."
      : `Live embedding in basis version ${answer.basis}: provisional, a later version may rotate or rescale it.`;
  const share =
    typeof item.explained_variance === "number"
      ? ` It holds ${(100 * item.explained_variance).toFixed(0)} % of the trajectory's variance.`
      : "";
  const way = `from ${number(reference[0])} to ${number(reference.at(-1))}`;
  const within = `within ${number(span[0])} to ${number(span[1])}`;
  return `The reference goes ${way} ${within}. ${basis}${share} ${LINES} ${sampled(answer)}.`;
}

/** Return the mean of ln d over the perturbed replicas at every step; null where none is above zero. */
export function meanLn({ values, replicas, steps }) {
  const perturbed = values.filter((_, index) => !isReference(replicas[index]) && !isControl(replicas[index]));
  return steps.map((_, place) => {
    const logs = perturbed.map((line) => ln(line[place])).filter((value) => value !== null);
    return logs.length ? logs.reduce((a, b) => a + b, 0) / logs.length : null;
  });
}

/** Return the fit that the exponent came from: slope, window and a line through the mean of ln d there; or null. */
export function fitted(answer, estimates, isEmbedded) {
  const names = isEmbedded ? ["nmle_embedded"] : ["nmle", "ftle"];
  const name = names.find(
    (candidate) => drawable(estimates?.[candidate]?.value) !== null && estimates[candidate].window,
  );
  if (!name) return null;
  const { value: slope, window } = estimates[name];
  const means = meanLn(answer);
  const inside = answer.steps
    .map((step, place) => [step, means[place]])
    .filter(([step, mean]) => mean !== null && step >= window[0] && step <= window[1]);
  if (!inside.length) return null;
  // The finite-time exponent joins the ends of its window; the others are least-squares lines through the centre.
  const anchors = name === "ftle" ? inside.slice(0, 1) : inside;
  const centre = anchors.reduce((sum, [step]) => sum + step, 0) / anchors.length;
  const level = anchors.reduce((sum, [, mean]) => sum + mean, 0) / anchors.length;
  return { name, slope, window, at: (step) => level + slope * (step - centre) };
}

/** Return traces and layout of the separations from the reference. */
export function divergenceDrawing(answer, fit, isLn, palette) {
  const without = { ...answer, replicas: answer.replicas.slice(1), values: answer.values.slice(1) };
  const hasReference = isReference(answer.replicas[0]);
  const drawn = hasReference ? without : answer;
  const colour = palette.series[1];
  const traces = replicaTraces(drawn, palette, colour, isLn ? ln : drawable);
  const means = meanLn(answer);
  traces.push({
    type: "scatter",
    mode: "lines",
    name: "mean of ln",
    x: [...answer.steps],
    y: isLn ? means : means.map((mean) => (mean === null ? null : Math.exp(mean))),
    line: { color: colour, width: 2.2 },
    hovertemplate: "step %{x}: %{y:.3g}<extra>%{fullData.name}</extra>",
  });
  const shapes = [];
  if (fit) {
    const [first, last] = fit.window;
    const xs = Array.from({ length: 21 }, (_, index) => first + ((last - first) * index) / 20);
    traces.push({
      type: "scatter",
      mode: "lines",
      name: `fit: ${number(fit.slope)} per step`,
      x: xs,
      y: xs.map((x) => (isLn ? fit.at(x) : Math.exp(fit.at(x)))),
      line: { color: palette.ink, width: 2.4, dash: "dot" },
      hoverinfo: "name",
    });
    shapes.push({
      type: "rect",
      xref: "x",
      yref: "paper",
      x0: first,
      x1: last,
      y0: 0,
      y1: 1,
      fillcolor: palette.accent,
      opacity: 0.14,
      line: { width: 0 },
      layer: "below",
    });
  }
  return {
    traces,
    layout: {
      shapes,
      xaxis: { title: { text: "training step" } },
      yaxis: { title: { text: isLn ? "ln separation" : "separation" } },
    },
  };
}

/** Describe the separations in words. */
export function describeDivergence(answer, fit, estimate) {
  const means = meanLn(answer).filter((mean) => mean !== null);
  if (!means.length)
    return "No separation above zero: either the run has no perturbed replica, or rounding removed the perturbation.";
  const grown = `The mean of ln d goes from ${number(means[0])} to ${number(means.at(-1))}.`;
  const control = answer.replicas.indexOf("control");
  const isExact = control >= 0 && answer.values[control].every((value) => value === 0);
  const floor =
    control < 0
      ? ""
      : isExact
        ? " The unperturbed copy stayed at distance 0: no separation here is rounding."
        : " The unperturbed copy (dashed) left the reference: that is the noise floor.";
  const slope = fit
    ? ` Shaded: steps ${fit.window[0]} to ${fit.window[1]}, slope ${number(fit.slope)} per step (${fit.name}).`
    : estimate
      ? ` No fit: ${estimate.status.replaceAll("_", " ")}. ${estimate.message}`
      : "";
  return `${grown}${slope}${floor} ${sampled(answer)}.`;
}

/** Describe a metric in words. */
export function describeMetric(answer, what, asText = number) {
  const reference = (answer.values[0] ?? []).filter((value) => value !== null);
  const span = range(reference);
  if (!span) return "Nothing finite was recorded.";
  const others = answer.values.slice(1).filter((line) => line.some((value) => value !== null)).length;
  const way = `${asText(reference[0])} at the start, ${asText(reference.at(-1))} now`;
  const within = `within ${asText(span[0])} to ${asText(span[1])}`;
  return `Reference: ${way}, ${within}; ${counted(others, "other replica")} drawn too. ${sampled(answer, what)}.`;
}

/** Return marks of alerts on the time axis, one of them emphasised. */
export function alertShapes(alerts, palette, strong = null) {
  return alerts
    .filter(({ step }) => step !== null)
    .map((alert) => ({
      type: "line",
      xref: "x",
      yref: "paper",
      x0: alert.step,
      x1: alert.step,
      y0: 0,
      y1: 1,
      line: {
        color: palette[alert.level] ?? palette.warn,
        width: alert.id === strong?.id ? 4 : 1.4,
        dash: alert.id === strong?.id ? "solid" : "dot",
      },
    }));
}

/** Return a trace that carries the hover texts of alerts at height `y`. */
export function alertTrace(alerts, palette, y) {
  const there = alerts.filter(({ step }) => step !== null);
  const shown = (value) => (typeof value === "number" ? number(value) : JSON.stringify(value).slice(0, 40));
  const fact = ([name, value]) => `${name.replaceAll("_", " ")}: ${shown(value)}`;
  const facts = ({ evidence }) => Object.entries(evidence).slice(0, 6).map(fact).join(", ");
  return {
    type: "scatter",
    mode: "markers",
    name: "alerts",
    x: there.map(({ step }) => step),
    y: there.map(() => y),
    marker: { symbol: "triangle-down", size: 11, color: there.map(({ level }) => palette[level] ?? palette.warn) },
    text: there.map((alert) => plain(`${alert.level}: ${alert.message} ${facts(alert)}`)),
    hovertemplate: "step %{x}<br>%{text}<extra></extra>",
  };
}

// Plotly interprets some tags in texts; without these characters there are none.
const plain = (text) => text.replaceAll("<", "‹").replaceAll(">", "›").replaceAll("%{", "% {");
