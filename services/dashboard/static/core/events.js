// One stream of server-sent events for the whole page, and its state.

const NAMES = ["rows", "runs", "basis", "alert", "reset"];
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;

let source = null;
let retry = null;
let wait = FIRST_WAIT_MS;
let wasLost = false;
const listeners = new Map();

/** Call `listener(data)` on every event `name`, or `state` with `on`, `lost` or `off`; returns how to stop it. */
export function listen(name, listener) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(listener);
  return () => listeners.get(name).delete(listener);
}

/** Open the stream; the browser resumes it at the id of the last event. */
export function connect() {
  disconnect();
  source = new EventSource("/v1/events");
  source.onopen = () => {
    // A new stream has no last id, so missed changes have to be fetched.
    if (wasLost) emit("reset", { reason: "reconnected" });
    wasLost = false;
    wait = FIRST_WAIT_MS;
    emit("state", "on");
  };
  source.onerror = lost;
  for (const name of NAMES) source.addEventListener(name, (event) => emit(name, JSON.parse(event.data)));
}

/** Close the stream. */
export function disconnect() {
  clearTimeout(retry);
  source?.close();
  source = null;
  emit("state", "off");
}

function lost() {
  emit("state", "lost");
  // In state CONNECTING the browser retries; CLOSED is final.
  if (source.readyState !== EventSource.CLOSED) return;
  wasLost = true;
  clearTimeout(retry);
  retry = setTimeout(connect, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT_MS);
}

function emit(name, data) {
  for (const listener of listeners.get(name) ?? []) listener(data);
}

/** Return a function that calls `action` at most once in `ms`, and a last time after the last call. */
export function throttled(action, ms) {
  let timer = null;
  let last = -Infinity;
  const call = () => {
    if (timer !== null) return;
    const run = () => {
      timer = null;
      last = performance.now();
      action();
    };
    timer = setTimeout(run, Math.max(0, last + ms - performance.now()));
  };
  call.stop = () => clearTimeout(timer);
  return call;
}
