// The text, the buttons and the key: what a user does. Runs last, when the rest is defined.
const EXAMPLE = "Another Friday night with tea and a notebook. I keep wondering where all this " +
  "might lead in ten years, and whether I should have said yes. Typical INFP, my sister says.";
const EXAMPLE_POSTS = [
  "Up at six again. List made, three things crossed off before breakfast.",
  "The test said ISTJ, which explains the spreadsheets: www.example.org/plan",
  "I would rather see the numbers than hear how everybody feels about them.",
  "Dinner with the whole team tonight! Best evening in weeks, we talked until two.",
  "What if the whole thing is a metaphor, and nobody has noticed?",
];

const isPosts = () => $("form").elements.as.value === "posts";
function enteredPosts() {
  const text = $("text").value.toWellFormed?.() ?? $("text").value;
  const parts = isPosts() ? text.split(text.includes("|||") ? "|||" : /\n[ \t]*\n/) : [text];
  return parts.map((part) => part.trim()).filter(Boolean);
}

function count() {
  const posts = enteredPosts();
  const words = plural(posts.join(" ").split(/\s+/).filter(Boolean).length, "word", "words");
  $("label").textContent = isPosts() ? "The posts" : "The text";
  $("text").placeholder = isPosts() ? "One post.\n\nA blank line, then the next."
    : "Write or paste something.";
  $("examples").hidden = Boolean($("text").value);
  const rule = "Posts of one person, with a blank line or ||| between two.";
  if (!isPosts()) $("count").textContent = posts.length ? words : "A few sentences, or pages.";
  else if (!posts.length) $("count").textContent = rule;
  else $("count").textContent = `${plural(posts.length, "post", "posts")}, ${words}. ${posts.length < 2 ? rule : ""}`;
}

function example(value, as) {
  $("text").value = value;
  $("form").elements.as.value = as;
  count();
  $("text").focus();
}

const showStatus = (...parts) => $("status").replaceChildren(...parts);
function setBusy(isBusy) {
  $("stop").hidden = !isBusy;
  $("answer").setAttribute("aria-busy", String(isBusy));
}

function report(problem) {
  blank();
  showStatus();
  if (!(problem instanceof Problem)) throw problem;
  if (problem.status === 401) return askForKey(true);
  const wait = problem.waitS ? ` Please try again after ${plural(problem.waitS, "second", "seconds")}.` : "";
  $("problem").textContent = problem.message + wait;
  $("problem").scrollIntoView({ block: "nearest" });
}

function askForKey(isWanted) {
  $("lock").hidden = false;
  if (!isWanted) return;
  $("problem").textContent = key ? "The service did not accept this key." : SENTENCES[401];
  $("key").setAttribute("aria-invalid", String(Boolean(key)));
  $("key").focus();
  $("key").select();
  $("lock").scrollIntoView({ block: "nearest" });
}

async function read() {
  running?.abort();
  const posts = enteredPosts();
  const asPosts = isPosts();
  $("problem").textContent = "";
  $("text").setAttribute("aria-invalid", String(!posts.length));
  if (!posts.length) {
    $("problem").textContent = "Enter some text first.";
    $("text").focus();
    return;
  }
  running = new AbortController();
  const { signal } = running;
  setBusy(true);
  showStatus("Predicting …");
  try {
    // One text is sent as one post: posts are read whole, a text only up to one window.
    const body = { posts, explain: true };
    const { content, bundle } = await callWithRetry({ body, signal }, showStatus);
    await loadFacts(bundle);
    signal.throwIfAborted();
    show(content, asPosts);
    const asked = { posts, bundle, signal };
    $("explain").onclick = () => explainWords(asked);
    showStatus();
    setBusy(false);
    if (asPosts) await showInfluence(asked);
  } catch (problem) {
    if (signal.aborted) return;
    setBusy(false);
    report(problem);
  }
}

function stop() {
  if ($("stop").hidden) return;
  running.abort();
  blank();
  setBusy(false);
  showStatus("Stopped.");
  $("text").focus();
}

$("axes").append(...AXES.map(build));
$("letters").append(...AXES.map(({ poles: [[one], [other]] }, place) => {
  const input = Object.assign(element("input"), { type: "radio", name: "axis", value: place, checked: !place });
  return element("label", "choice", input, `${one} or ${other}`);
}));
blank();
count();
$("form").addEventListener("submit", (event) => { event.preventDefault(); read(); });
$("form").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
  event.preventDefault();
  $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
$("form").addEventListener("change", count);
$("text").addEventListener("input", () => {
  $("text").setAttribute("aria-invalid", "false");
  count();
});
$("text").addEventListener("paste", (event) => {
  if (event.clipboardData.getData("text").includes("|||")) $("form").elements.as.value = "posts";
});
$("stop").addEventListener("click", stop);
$("one").addEventListener("click", () => example(EXAMPLE, "text"));
$("five").addEventListener("click", () => example(EXAMPLE_POSTS.join("\n\n"), "posts"));
$("lock").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    $("problem").textContent = "A key consists of ASCII letters, digits and punctuation, without spaces.";
    $("key").focus();
    return;
  }
  key = given;
  $("problem").textContent = "";
  try {
    await loadInfo();
    $("lock").hidden = true;
    $("key").value = "";
    $("text").focus();
    if (enteredPosts().length) await read();
  } catch (problem) {
    report(problem);
  }
});
loadInfo().catch((problem) => { if (problem.status === 401) askForKey(false); });
