// Names that documents use and their meaning: the glossary of the server, and labels of this page alone.
import { get } from "./api.js";

let glossary = { quantities: {}, regimes: {}, states: {}, rules: {} };

/** Fetch the glossary; until then keys are shown. */
export async function loadGlossary() {
  glossary = await get("/glossary");
}

/** Return the keys of all quantities in the order of the tables. */
export const quantities = () => Object.keys(glossary.quantities);

/** Return the name of a quantity. */
export function quantity(key) {
  const label = glossary.quantities[key]?.label ?? status(key);
  return label[0].toUpperCase() + label.slice(1);
}

/** Return the unit of a quantity. */
export const unit = (key) => glossary.quantities[key]?.unit ?? "";

/** Return what a quantity means, in one sentence. */
export const meaning = (key) => glossary.quantities[key]?.meaning ?? "";

/** Return a status in words. */
export const status = (name) => name.replaceAll("_", " ");

/** Return all regimes. */
export const regimes = () => Object.keys(glossary.regimes);

/** Return what a regime, a state of a run, or a rule of alerts means, in one sentence. */
export const regimeMeaning = (name) => glossary.regimes[name] ?? "";
export const stateMeaning = (name) => glossary.states[name] ?? "";
export const ruleMeaning = (name) => glossary.rules[name]?.meaning ?? "";

/** Series that can be compared, and distances between replicas: labels of the choices. */
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
