// One stream of server-sent events for the whole page, with its state.

const NAMES = ["rows", "runs", "basis", "alert", "reset"];
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15_000;

let source = null;
let retry = null;
let wait = FIRST_WAIT_MS;
let wasLost = false;
const listeners = new Map();

/** Call `listener(data)` on every event `name`, or `state` with `on`, `lost` or `off`; returns how to stop. */
export function listen(name, listener) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(listener);
  return () => listeners.get(name).delete(listener);
}

/** Open the stream; the browser resumes it by the last event's id. */
export function connect() {
  disconnect();
  source = new EventSource("/v1/events");
  source.onopen = () => {
    // A stream opened anew has no last id, so what was missed has to be fetched.
    if (wasLost) tell("reset", { reason: "reconnected" });
    wasLost = false;
    wait = FIRST_WAIT_MS;
    tell("state", "on");
  };
  source.onerror = lost;
  for (const name of NAMES) source.addEventListener(name, (event) => tell(name, JSON.parse(event.data)));
}

/** Close the stream on purpose. */
export function disconnect() {
  clearTimeout(retry);
  source?.close();
  source = null;
  tell("state", "off");
}

function lost() {
  tell("state", "lost");
  // While CONNECTING the browser tries again by itself; CLOSED is final.
  if (source.readyState !== EventSource.CLOSED) return;
  wasLost = true;
  clearTimeout(retry);
  retry = setTimeout(connect, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT_MS);
}

function tell(name, data) {
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
