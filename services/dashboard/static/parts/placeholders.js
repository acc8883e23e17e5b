// Placeholders: loading, empty, and error.
import { h, replace } from "../core/dom.js";

/** Return a grey block of the size of the content to come. */
export const skeleton = (height) => h("div", { class: "skeleton", "aria-hidden": "true", style: `height:${height}` });

/** Return a notice that there is nothing to show, and what to do. */
export const empty = (title, ...more) => h("div", { class: "notice" }, h("h2", {}, title), more);

/** Return a notice of an error, with a button to try again. */
export function failure(error, retry) {
  const again = retry && h("button", { type: "button", onclick: retry }, "Try again");
  const title =
    error.status === 404
      ? "Not found"
      : error.status
        ? `The server returned an error (${error.status})`
        : (error.title ?? "This page failed");
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("h2", {}, title),
    h("p", {}, error.message || String(error)),
    again,
  );
}

/** Fill `host` with the content that `load()` returns: a skeleton before, an error with retry if it fails. */
export async function fill(host, height, load) {
  replace(host, skeleton(height));
  host.setAttribute("aria-busy", "true");
  try {
    const content = await load();
    if (content) replace(host, content);
  } catch (error) {
    if (error.name !== "AbortError")
      replace(
        host,
        failure(error, () => fill(host, height, load)),
      );
  } finally {
    host.removeAttribute("aria-busy");
  }
}
