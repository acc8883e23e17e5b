// Entry point: session, routes, theme, keys, state of the event stream.
import { get, signIn, signOut } from "./core/api.js";
import { compare } from "./pages/compare.js";
import { announce, h, replace, setText } from "./core/dom.js";
import { connect, disconnect, listen } from "./core/events.js";
import { loadGlossary } from "./core/labels.js";
import { experiment } from "./pages/experiment.js";
import { startTips } from "./parts/marks.js";
import { overview } from "./pages/overview.js";
import { run } from "./pages/run.js";
import { empty, failure } from "./parts/placeholders.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const pulse = document.getElementById("pulse");
const leave = document.getElementById("leave");
const LOST_AFTER_MS = 2000;
const PAGES = { "": overview, experiment, run, compare };

let page = null;
let isLocked = false;

/** Show the page of the address. */
function route() {
  if (takeToken() || isLocked) return;
  page?.close();
  page = null;
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "", ...rest] = path.split("/");
  const argument = decoded(rest.join("/"));
  crumbs(name, argument);
  const show = PAGES[name];
  if (show) page = show(main, { argument, query: new URLSearchParams(search) });
  else replace(main, empty("No such page", h("p", {}, h("a", { href: "#/" }, "All runs"))));
  scrollTo(0, 0);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function crumbs(name, argument) {
  const place = { experiment: argument, run: argument, compare: "Compare" }[name] ?? "";
  document.title = place ? `${place} · streamscalar` : "streamscalar";
  const way = [h("a", { href: "#/" }, "All runs")];
  if (name === "run" && argument.includes(":")) {
    const [owner] = argument.split(":");
    way.push(
      h("a", { href: `#/experiment/${encodeURIComponent(owner)}` }, owner),
      h("span", { "aria-current": "page" }, argument.slice(owner.length + 1)),
    );
  } else if (place) way.push(h("span", { "aria-current": "page" }, place));
  replace(
    document.getElementById("crumbs"),
    h(
      "ol",
      {},
      way.map((step) => h("li", {}, step)),
    ),
  );
}

/** Exchange a token in the address for a session and remove it from the address; returns whether there was one. */
function takeToken() {
  const token = new URLSearchParams(location.hash.replace(/^#\/?/, "")).get("token");
  if (!token) return false;
  history.replaceState(null, "", `${location.pathname}#/`);
  enter(token).catch((error) => lock(error.message));
  return true;
}

async function enter(token) {
  await signIn(token);
  await loadGlossary();
  isLocked = false;
  leave.hidden = false;
  connect();
  route();
}

/** Show the token form instead of the page. */
function lock(problem = "") {
  if (isLocked && !problem) return;
  isLocked = true;
  page?.close();
  page = null;
  disconnect();
  leave.hidden = true;
  const input = h("input", {
    type: "password",
    id: "token",
    name: "token",
    required: true,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "token-hint",
  });
  const notice = h("p", { class: "problem", role: "alert", hidden: !problem }, problem);
  const submit = (event) => {
    event.preventDefault();
    enter(input.value.trim()).catch((error) => {
      notice.hidden = false;
      setText(notice, error.status === 401 ? "This is not a token of this server." : error.message);
    });
  };
  replace(
    main,
    h(
      "form",
      { class: "notice", onsubmit: submit },
      h("h1", {}, "Sign in"),
      h(
        "p",
        { id: "token-hint" },
        "The link that ",
        h("code", {}, "streamscalar serve"),
        " prints signs you in. Or paste the token: the part of that link after ",
        h("code", {}, "#token="),
        ", which is also stored in ",
        h("code", {}, "~/.config/streamscalar/token"),
        ".",
      ),
      h("label", { for: "token" }, "Token"),
      input,
      h("button", {}, "Sign in"),
      notice,
    ),
  );
  input.focus();
}

function watchStream() {
  let timer = null;
  const show = (isLost) => {
    clearTimeout(timer);
    timer = null;
    banner.hidden = !isLost;
    setText(banner, isLost ? "Disconnected: this page is not updated. Reconnecting …" : "");
  };
  listen("state", (state) => {
    pulse.dataset.state = state;
    setText(pulse, { on: "live", lost: "disconnected", off: "not connected" }[state]);
    if (state !== "lost") return show(false);
    timer ??= setTimeout(() => show(true), LOST_AFTER_MS);
    // The stream gives no reason for its end; a request does, and shows the token form if the session has ended.
    if (!isLocked) get("/experiments").catch(() => {});
  });
  listen("alert", (alert) => announce(`Alert, ${alert.level}: ${alert.run}: ${alert.message}`));
}

function startTheme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const show = () => {
    setText(button, isDark() ? "Light" : "Dark");
    button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    window.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("streamscalar.theme", root.dataset.theme);
    } catch {
      // Without storage the choice is lost on reload.
    }
    show();
  });
  dark.addEventListener("change", show);
  show();
}

function startKeys() {
  const dialog = document.getElementById("keys");
  document.getElementById("help").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input:not([type=checkbox]), textarea, select");
    if (isTyping && event.key === "Escape") event.target.blur();
    if (isTyping || dialog.open || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    // Enter and the arrow keys act on the focused control.
    if (event.key.length > 1 && event.target.closest("a, button, summary, input")) return;
    if (event.key === "?") dialog.showModal();
    else if (event.key === "g") location.hash = "#/";
    else if (!page?.key?.(event)) return;
    event.preventDefault();
  });
}

leave.addEventListener("click", () =>
  signOut().then(
    () => lock(),
    (error) => replace(main, failure(error)),
  ),
);
window.addEventListener("locked", () => lock());
window.addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address holds the route, so the link must not change it.
  event.preventDefault();
  main.focus();
});
startTips();
startTheme();
startKeys();
watchStream();
if (!takeToken()) start();

/** Test the session with one request, before the parts of a page send many. */
async function start() {
  try {
    await loadGlossary();
    leave.hidden = false;
    connect();
  } catch (error) {
    if (error.status === 401) return;
  }
  route();
}
