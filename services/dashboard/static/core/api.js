// Calls of the query API. The browser sends the session cookie; no token is stored here.

/** An error response, with the fields of problem+json. */
export class ApiError extends Error {
  constructor(status, title, detail) {
    super(detail || title);
    this.name = "ApiError";
    this.status = status;
    this.title = title;
  }
}

/** Return the document at `path`; `query` entries that are null or empty are left out. */
export async function get(path, query = {}, signal = undefined) {
  const answer = await call("GET", path, query, { signal });
  return answer.json();
}

/** Request a change; returns nothing. */
export async function post(path) {
  await call("POST", path, {}, {});
}

/** Exchange the token for the session cookie. */
export async function signIn(token) {
  await call("POST", "/session", {}, { headers: { Authorization: `Bearer ${token}` } });
}

/** Delete the session cookie. */
export async function signOut() {
  await call("DELETE", "/session", {}, {});
}

/** Return `/runs/<id>` with the id encoded. */
export const runPath = (id, rest = "") => `/runs/${encodeURIComponent(id)}${rest}`;

async function call(method, path, query, options) {
  const address = new URL(`/v1${path}`, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") address.searchParams.set(name, value);
  }
  let answer;
  try {
    answer = await fetch(address, { method, credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "No answer", "The server does not answer. Is `streamscalar serve` still running?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/session") window.dispatchEvent(new Event("locked"));
  throw new ApiError(answer.status, problem.title ?? answer.statusText, text(problem.detail));
}

function text(detail) {
  if (Array.isArray(detail)) return detail.map((entry) => entry.msg ?? JSON.stringify(entry)).join("; ");
  return detail ?? "";
}

/** Return the items of a paged list, about `most` at most, and their total number. */
export async function getAll(path, query, signal, most = 2000) {
  const items = [];
  let cursor = null;
  let of = 0;
  do {
    const page = await get(path, { ...query, cursor, limit: 200 }, signal);
    items.push(...page.items);
    ({ of, next_cursor: cursor } = page);
  } while (cursor && items.length < most);
  return { items, of };
}
