// The runs selected for a comparison; kept when the page changes, lost when the tab is closed.

export const MOST = 64;
const KEY = "streamscalar.chosen";
const listeners = new Set();
const chosen = new Set(remembered());

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  } catch {
    return [];
  }
}

export const isChosen = (id) => chosen.has(id);
export const all = () => [...chosen];

/** Select or deselect a run; returns false if 64 are selected already. */
export function toggle(id) {
  if (!chosen.delete(id)) {
    if (chosen.size >= MOST) return false;
    chosen.add(id);
  }
  changed();
  return true;
}

export function clear() {
  chosen.clear();
  changed();
}

/** Call `listener` on every change; returns how to stop. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Return the address of a comparison. */
export const compareLink = (ids) => `#/compare?runs=${ids.map(encodeURIComponent).join(",")}`;

function changed() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(all()));
  } catch {
    // Without storage the selection is lost on reload.
  }
  for (const listener of listeners) listener();
}
