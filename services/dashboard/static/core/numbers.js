// Numbers for display: three significant digits, or words.

const GROUPED = new Intl.NumberFormat("en");
const SIGNIFICANT = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const NOT_FINITE = { nan: "not a number", inf: "∞", "-inf": "−∞" };
export const NONE = "–";

/** Return a measured number with three significant digits. */
export function number(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string") return NOT_FINITE[value] ?? value;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : SIGNIFICANT.format(value);
  return text.replace("-", "−").replace("e+", "e").replace("e-", "e−");
}

/** Return a number from a config, as it was written. */
export function chosen(value) {
  if (typeof value !== "number") return number(value);
  return String(Number(value.toPrecision(6))).replaceAll("-", "−");
}

/** Return a whole number with thousands separators. */
export const count = (value) => (value === null || value === undefined ? NONE : GROUPED.format(value));

/** Return "1 run" or "2 runs". */
export const counted = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** Return a share as per cent. */
export const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : number(value));

/** Return the interval of an estimate, or "". */
export function interval(estimate) {
  if (!estimate || estimate.low === null || estimate.high === null) return "";
  return `${number(estimate.low)} to ${number(estimate.high)}`;
}

/** Return the time since `seconds` (Unix time). */
export function age(seconds, now = Date.now() / 1000) {
  const passed = Math.max(0, now - seconds);
  if (passed < 60) return `${Math.floor(passed)} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  if (passed < 86_400) return `${Math.floor(passed / 3600)} h`;
  return `${Math.floor(passed / 86_400)} d`;
}

/** Return date and time of `seconds` (Unix time). */
export const when = (seconds) =>
  new Date(1000 * seconds).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** Return a finite number, which a chart can draw, or null. */
export const drawable = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/** Return the natural logarithm, or null if it is undefined. */
export const ln = (value) =>
  typeof value === "number" && value > 0 && Number.isFinite(value) ? Math.log(value) : null;

/** Return the least and the greatest drawable value, or null. */
export function range(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (drawable(value) === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? null : [low, high];
}
