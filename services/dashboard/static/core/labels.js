// What the machine words mean, for people.

/** Quantities in the order of the tables: name, unit, and what it says. */
export const QUANTITIES = {
  ftle: [
    "Finite-time exponent",
    "per step",
    "Growth rate of separations from the start to saturation or the end (ftle).",
  ],
  nmle: ["Exponent of the exponential phase", "per step", "Growth rate while separations grow exponentially (nmle)."],
  nmle_all_pairs: ["The same, all pairs of replicas", "per step", "As nmle, over every pair of replicas."],
  nmle_best_r2: ["The same, window of best fit", "per step", "As nmle, in the window of best R²."],
  nmle_embedded: ["Exponent of the scalar", "per step", "As nmle, of the separations between scalars."],
  nmle_random_direction: [
    "Control: a random direction",
    "per step",
    "As nmle, of separations along a random direction.",
  ],
  tangent_exponent: ["Tangent-space exponent", "per step", "Growth rate of an infinitesimal perturbation."],
  recurrence_exponent: ["Exponent from recurrences", "per step", "Growth rate from near returns of one trajectory."],
  characteristic_time: ["Characteristic time", "steps", "When the exponential growth of separations ends."],
  characteristic_time_published: ["The same, published rule", "steps", "By the rule of arXiv 2606.30384."],
  decorrelation_time: ["Decorrelation time", "steps", "When the accuracies of replicas are no longer correlated."],
  decorrelation_time_published: ["The same, published rule", "steps", "By the rule of arXiv 2606.30384."],
  steps_to_accuracy: [
    "Steps to the target accuracy",
    "steps",
    "First step at which the test accuracy reaches its target.",
  ],
  explained_variance: [
    "Variance that the scalar shows",
    "share",
    "Share of the trajectory's variance along the scalar.",
  ],
  explained_variance_walk: [
    "Control: a random walk's share",
    "share",
    "What a random walk with the same moves would show.",
  ],
  positive_fraction: [
    "Runs with a positive exponent",
    "share",
    "Share of initial conditions whose ftle is above the bound.",
  ],
};

/** Return the name of a quantity for people. */
export const quantity = (name) => QUANTITIES[name]?.[0] ?? name.replaceAll("_", " ");

/** Return the unit of a quantity. */
export const unit = (name) => QUANTITIES[name]?.[1] ?? "";

/** Return a status in words. */
export const status = (name) => (name === "ok" ? "ok" : name.replaceAll("_", " "));

/** Regimes: word and what it means. */
export const REGIMES = {
  regular: ["regular", "Tiny differences at the start stay tiny."],
  onset: ["onset", "Between regular and chaotic: differences grow, but not surely to saturation."],
  chaotic: ["chaotic", "Tiny differences at the start grow exponentially until they saturate."],
  diverged: ["diverged", "The loss ended above where it began, or is not finite."],
  undecided: ["undecided", "The intervals do not allow a decision."],
};

/** States of a run: what it means. */
export const STATES = {
  waiting: "It has not begun.",
  training: "Rows are being written.",
  trained: "All rows are stored; the exact embedding is not there yet.",
  done: "All rows and the exact embedding are stored.",
  failed: "It stopped with an error; its rows are kept.",
  cancelled: "Somebody stopped it; its rows are kept.",
  silent: "It neither ended nor wrote anything lately.",
};

/** Distances and series that can be drawn: label and unit. */
export const SERIES = {
  embedding: "Scalar (first coordinate)",
  loss: "Loss",
  accuracy: "Accuracy (test split)",
  l1: "Separation of the replicas (L1)",
};
export const DISTANCES = {
  l1: "L1 over all weights",
  rms: "root mean square",
  embedded: "between scalars",
  random: "along a random direction",
};
