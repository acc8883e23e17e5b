// What a page shows while it waits, when there is nothing, and when something went wrong.
import { h, replace } from "../core/dom.js";

/** Return a grey block of the size of what is to come. */
export const skeleton = (height) => h("div", { class: "skeleton", "aria-hidden": "true", style: `height:${height}` });

/** Return a notice that says that there is nothing, and what to do. */
export const empty = (title, ...more) => h("div", { class: "notice" }, h("h2", {}, title), more);

/** Return a notice of an error with a way to try again. */
export function failure(error, retry) {
  const again = retry && h("button", { type: "button", onclick: retry }, "Try again");
  const title =
    error.status === 404
      ? "Not here"
      : error.status
        ? `The server refused (${error.status})`
        : (error.title ?? "This page failed");
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("h2", {}, title),
    h("p", {}, error.message || String(error)),
    again,
  );
}

/** Fill `host` with what `load()` makes of the server's answer: a skeleton before, an error with retry if it fails. */
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
