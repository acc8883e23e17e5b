// Elements without markup strings: text of the server never becomes HTML.

/** Return an element; `on…` properties are listeners, `data` its dataset, false and null leave an attribute out. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Return an SVG element. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Replace the content of `element` by `children`. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** Set the text only if it differs, so that a live table repaints only changes. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute only if it differs; null removes it. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const live = () => document.getElementById("live");
let announcedAt = 0;
let waiting = null;

/** Announce a sentence to screen readers, at most every four seconds; a newer one replaces a waiting one. */
export function announce(sentence) {
  clearTimeout(waiting);
  const wait = Math.max(0, announcedAt + 4000 - performance.now());
  waiting = setTimeout(() => {
    announcedAt = performance.now();
    live().textContent = sentence;
  }, wait);
}

/** Offer `text` as a file named `name`. */
export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
