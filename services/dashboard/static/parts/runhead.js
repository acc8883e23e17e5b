// The head of the page of a run: name, state and main numbers, kept up to date.
import { post, runPath } from "../core/api.js";
import { h, setAttribute, setText } from "../core/dom.js";
import { progress, regimeMark, stateMark } from "./marks.js";
import { age, chosen, interval, NONE, number, percent } from "../core/numbers.js";
import { status } from "../core/labels.js";

const STOPPABLE = ["waiting", "training", "silent"];

export class RunHead {
  /** `onCsv()` is called for a download. */
  constructor({ item, exact, bases, has_exact: hasExact }, onCsv) {
    this.item = item;
    this.state = stateMark();
    this.regime = regimeMark();
    this.rows = progress();
    this.figures = new Map();
    this.notice = h("p", { class: "problem", role: "status", hidden: true });
    this.reason = h("p", { class: "problem", hidden: true });
    this.stop = h("button", { type: "button", class: "quiet", onclick: () => this.cancel() }, "Stop this run");
    this.element = h(
      "header",
      { class: "title" },
      h(
        "div",
        { class: "row" },
        h("h1", {}, item.run_id),
        this.state.element,
        this.regime.element,
        h("div", { class: "controls" }, h("button", { type: "button", onclick: onCsv }, "Download CSV"), this.stop),
      ),
      this.reason,
      this.notice,
      h(
        "dl",
        { class: "facts figures-row" },
        h("div", {}, h("dt", {}, "rows"), h("dd", {}, this.rows.element)),
        this.figure("exponent", "exponent per step"),
        this.figure("share", "variance shown"),
        this.figure("loss", "loss"),
        this.figure("accuracy", "accuracy"),
        this.figure("rate", "learning rate"),
        this.figure("epsilon", "epsilon"),
        this.figure("basis", "basis"),
        this.figure("age", "newest row"),
      ),
    );
    this.basis(hasExact ? "exact" : bases.at(-1), exact.method);
    this.update(item);
  }

  figure(name, label) {
    const value = h("span", { class: "figures" });
    const note = h("small");
    this.figures.set(name, { value, note });
    return h("div", {}, h("dt", {}, label), h("dd", {}, value, note));
  }

  put(name, value, note = "") {
    const place = this.figures.get(name);
    setText(place.value, value);
    setText(place.note, note);
  }

  /** Show the current facts of the run. */
  update(item) {
    this.item = item;
    this.state.update(item.state);
    this.rows.update(item.n_rows, item.n_planned);
    if (!this.isEstimated) this.listed(item);
    this.put("loss", number(item.loss));
    this.put("accuracy", percent(item.accuracy));
    this.put("rate", chosen(item.learning_rate));
    this.put("epsilon", chosen(item.epsilon));
    this.put("age", `${age(item.updated_at)} ago`, item.step === null ? "" : `step ${item.step}`);
    this.stop.hidden = !STOPPABLE.includes(item.state);
    this.reason.hidden = !item.reason;
    setText(this.reason, item.reason);
  }

  /** Show the estimates of the list; once those of the run are loaded, they replace these for good. */
  listed({ exponent, explained_variance: share, regime }) {
    this.regime.update(regime);
    if (exponent) this.exponent(exponent);
    else this.put("exponent", NONE, "not analysed yet");
    this.put("share", percent(share));
  }

  /** Show the basis of the coordinates in the chart. */
  basis(name, method = "") {
    if (name === "exact") this.put("basis", "exact", method);
    else if (name) this.put("basis", `version ${name}`, "live, provisional");
    else this.put("basis", NONE, "none yet");
  }

  /** Show the estimates of the run from now on. */
  estimated({ regime, estimates }) {
    this.isEstimated = true;
    this.regime.update(regime);
    if (estimates.ftle) this.exponent(estimates.ftle);
    if (estimates.explained_variance)
      this.put(
        "share",
        percent(estimates.explained_variance.value),
        estimates.explained_variance.status === "ok" ? "" : status(estimates.explained_variance.status),
      );
  }

  exponent(estimate) {
    const isNumber = estimate.status === "ok";
    this.put(
      "exponent",
      isNumber ? number(estimate.value) : status(estimate.status),
      isNumber ? interval(estimate) : "",
    );
    setAttribute(this.figures.get("exponent").value, "data-tip", estimate.message);
  }

  async cancel() {
    if (!confirm(`Stop ${this.item.id}? Its rows are kept.`)) return;
    this.notice.hidden = false;
    try {
      await post(runPath(this.item.id, "/cancel"));
      setText(this.notice, "The run will stop after the current row.");
    } catch (error) {
      setText(this.notice, error.status === 403 ? "Stopping a run needs the admin token." : error.message);
    }
  }
}
