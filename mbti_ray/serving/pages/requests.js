// Requests to the service, and what is known of the model that answered.
const MAX_WAIT_S = 60;
let key = "";
let info = null; // The body of /info.
let facts = null; // The part of it about the model that answered, if known.
let running = null; // Aborts the current request.

const SENTENCES = {
  0: "The service cannot be reached. It may have been stopped, or you may be offline.",
  401: "This service requires an API key.",
  429: "The service is busy with other requests.",
  503: "The service is still starting.",
  504: "The prediction took too long and was cancelled. Try a shorter text, or try again later.",
};
class Problem extends Error {
  constructor(status, message, retryAfter) {
    const detail = message ? `: ${message}.` : ".";
    super(SENTENCES[status] ?? (status >= 500
      ? "Something failed inside the service; try again later."
      : `The service rejected this${detail}`));
    this.status = status;
    this.waitS = status === 429 || status === 503 ? Math.max(1, Number(retryAfter) || 1) : null;
  }
}

async function call(path, { body, bundle, signal } = {}) {
  const headers = {
    ...(key && { Authorization: `Bearer ${key}` }), ...(bundle && { "X-Bundle-Id": bundle }),
    ...(body && { "Content-Type": "application/json" }),
  };
  const posted = body && { method: "POST", body: JSON.stringify(body) };
  let response, content;
  try {
    response = await fetch(path, { headers, signal, ...posted });
    content = await response.json().catch(() => null);
  } catch {
    signal?.throwIfAborted();
    throw new Problem(0);
  }
  signal?.throwIfAborted();
  if (response.ok && content) return { content, bundle: response.headers.get("X-Bundle-Id") };
  const status = response.ok ? 500 : response.status;
  throw new Problem(status, content?.error?.message, response.headers.get("Retry-After"));
}

// Retries once where the service sends Retry-After.
async function callWithRetry(request, showStatus) {
  try {
    return await call("predict", request);
  } catch (problem) {
    if (!problem.waitS || problem.waitS > MAX_WAIT_S) throw problem;
    const wait = plural(problem.waitS, "second", "seconds");
    showStatus(`${problem.message} Retrying after ${wait}.`);
    await pause(1000 * problem.waitS, request.signal);
    showStatus("Retrying …");
    return await call("predict", request);
  }
}

const pause = (ms, signal) => new Promise((done, fail) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); fail(signal.reason); });
});

const loadInfo = async () => { info = (await call("info")).content; useFacts(info); };

// Two models may be served: the page must show the facts of the one that answered.
async function loadFacts(bundle) {
  const find = () => [info, info?.beside].find((one) => one?.thresholds && one.bundle_id === bundle);
  if (bundle && !find()) await loadInfo().catch(() => {});
  useFacts(bundle ? find() : info);
}

function useFacts(found) {
  facts = found ?? null;
  if (facts) showModel(facts);
  $("trust").hidden = !facts;
  AXES.forEach((axis, place) => drawRule(axis, facts?.thresholds[place], facts?.abstain));
  $("legend").textContent = facts ? "The dot is the result, the line is the threshold between the letters" +
    (facts.abstain ? ", and in the hatched range the model abstains: X." : ".") : "";
}
