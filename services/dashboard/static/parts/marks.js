// Small marks: state, regime, level, progress, sparkline, and the tooltip for hover and focus.
import { h, setAttribute, setText, svg } from "../core/dom.js";
import { count, drawable, range } from "../core/numbers.js";
import { regimeMeaning, stateMeaning } from "../core/labels.js";

const STATE_SHAPES = {
  waiting: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10",
  training: "M5 3l8 5l-8 5z",
  trained: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10M8 8v.01",
  done: "M3 8.5l3.5 3.5l6.5-8",
  failed: "M4 4l8 8M12 4l-8 8",
  cancelled: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10M4.5 11.5l7-7",
  silent: "M3 8h2M7 8h2M11 8h2",
};
const REGIME_SHAPES = {
  regular: "M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
  onset: "M8 3l6 10h-12z",
  chaotic: "M3 3h10v10h-10z",
  diverged: "M8 2l6 6l-6 6l-6-6z",
  undecided: "M3 6h10v4h-10z",
};
const LEVEL_SHAPES = { info: "M8 7v5M8 4v.01", warn: "M8 3v6M8 12v.01", error: "M4 4l8 8M12 4l-8 8" };

const icon = (shape) =>
  svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", class: "icon" }, svg("path", { d: shape }));

/** Return a mark that `update(word)` changes in place: shape and text, with colour in addition. */
function mark(kind, shapes, meaning) {
  const path = svg("path");
  const text = h("span");
  const element = h(
    "span",
    { class: `mark ${kind}` },
    svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", class: "icon" }, path),
    text,
  );
  const update = (word, note = "") => {
    element.hidden = !word;
    if (!word) return;
    setAttribute(element, "data-value", word);
    setAttribute(path, "d", shapes[word] ?? "");
    setText(text, word);
    setAttribute(element, "data-tip", [meaning(word), note].filter(Boolean).join(" "));
  };
  return { element, update };
}

export const stateMark = () => mark("state", STATE_SHAPES, stateMeaning);
export const regimeMark = () => mark("regime", REGIME_SHAPES, regimeMeaning);

/** Return the mark of a regime that does not change. */
export function regimeChip(regime) {
  const chip = regimeMark();
  chip.update(regime);
  return chip.element;
}

/** Return the level of an alert. */
export const levelMark = (level) =>
  h("span", { class: "mark level", data: { value: level } }, icon(LEVEL_SHAPES[level] ?? ""), h("span", {}, level));

/** Return the rows of the planned rows with a thin bar, to update in place. */
export function progress() {
  const text = h("span", { class: "figures" });
  const done = h("span");
  const element = h("span", { class: "progress" }, text, h("span", { class: "track", "aria-hidden": "true" }, done));
  const update = (n, planned) => {
    setText(text, planned === null ? count(n) : `${count(n)} / ${count(planned)}`);
    const share = planned ? Math.min(1, n / planned) : 0;
    done.style.transform = `scaleX(${share})`;
    element.classList.toggle("full", share === 1);
  };
  return { element, update };
}

const WIDTH = 96;
const HEIGHT = 24;

/** Return a sparkline to update in place. */
export function sparkline() {
  const path = svg("path");
  const element = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" },
    path,
  );
  let drawn = null;
  const update = (curve) => {
    if (curve === drawn) return;
    drawn = curve;
    setAttribute(path, "d", curve ? line(curve) : "");
    setAttribute(element, "aria-label", curve ? describe(curve) : "no scalar yet");
  };
  return { element, update };
}

function line({ steps, values }) {
  const vertical = range(values);
  if (!vertical || steps.length < 2) return "";
  const [low, high] = vertical;
  const [first, last] = [steps[0], steps.at(-1)];
  let pen = "M";
  let d = "";
  values.forEach((value, index) => {
    if (drawable(value) === null) {
      pen = "M";
      return;
    }
    const x = ((steps[index] - first) / (last - first || 1)) * (WIDTH - 2) + 1;
    const y = HEIGHT - 2 - ((value - low) / (high - low || 1)) * (HEIGHT - 4);
    d += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  });
  return d;
}

function describe({ values }) {
  const known = values.map(drawable).filter((value) => value !== null);
  if (known.length < 2) return "scalar: too few rows";
  const change = known.at(-1) - known[0];
  return `scalar ${change > 0 ? "rising" : change < 0 ? "falling" : "constant"} over ${count(values.length)} points`;
}

/** Show the `data-tip` of every element on hover and on focus. */
export function startTips() {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (!owner?.dataset.tip) return hide();
    owner.setAttribute("aria-describedby", "tip");
    tip.textContent = owner.dataset.tip;
    tip.hidden = false;
    place(tip, owner.getBoundingClientRect());
  };
  const hide = () => {
    tip.hidden = true;
  };
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

function place(tip, box) {
  const width = tip.offsetWidth;
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
  const below = box.bottom + 6;
  const top = below + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 6 : below;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}
