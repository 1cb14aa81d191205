// What the model read: what was masked, and which posts and words moved a dimension.
const MAX_INFLUENCE = 32; // As the service's.
const KINDS = {
  type: ["name of a type", "names of a type"], link: ["link", "links"],
  functions: ["name of a function", "names of functions"],
  temperaments: ["name of a temperament", "names of temperaments"],
  axes: ["word for a pole", "words for poles"],
};

function showReading(read, asPosts) {
  const counts = {};
  for (const { kind } of read.flatMap((one) => one.hidden)) counts[kind] = (counts[kind] ?? 0) + 1;
  const listed = Object.entries(counts).map(([kind, n]) => plural(n, ...(KINDS[kind] ?? [kind, kind])));
  $("masked").textContent = listed.length
    ? `Masked: ${listed.join(", ")}, so that the model cannot copy the answer.`
    : "Nothing was masked, such as the name of a type or a link.";
  $("read-heading").textContent = asPosts ? "Post by post" : "What the model read";
  $("read").replaceChildren(...read.map((one, place) => element(
    "li", "", ...(asPosts ? [element("h3", "", `Post ${place + 1}`)] : []), passage(one))));
  $("pushing").textContent = $("weighing").textContent = "";
  $("again").hidden = $("letters").hidden = true;
  $("explain").hidden = false;
  $("reading").hidden = false;
}

function passage({ text, hidden }, words = []) {
  const letters = [...text]; // Offsets count code points, JavaScript strings UTF-16 units.
  const shown = element("p", "text");
  let end = 0;
  for (const part of [...hidden, ...words].sort((a, b) => a.start - b.start)) {
    const own = letters.slice(part.start, part.end).join("");
    shown.append(letters.slice(end, part.start).join(""), part.kind ? element("mark", "",
      element("s", "", own), element("small", "", element("span", "unseen", "masked: "),
        (KINDS[part.kind] ?? [part.kind])[0])) : part.mark(own));
    end = part.end;
  }
  shown.append(letters.slice(end).join(""));
  if (letters.length <= 600) return shown;
  return element("details", "", element("summary", "",
    `Show it, ${plural(letters.length, "character", "characters")}`), shown);
}

// A further request about the text that was read; if it fails, a button asks for it again.
async function askMore({ posts, bundle, signal }, [place, button], more, what, done) {
  const tell = (...parts) => $(place).replaceChildren(...parts);
  $(button).hidden = true;
  tell(`Reading it again without each ${what} …`);
  try {
    const { content } = await callWithRetry({ body: { posts, ...more }, bundle, signal }, tell);
    tell(done(content));
  } catch (problem) {
    if (signal.aborted) return;
    tell(`The influence of single ${what}s could not be computed. ${problem.message}`);
    $(button).hidden = false;
  }
}

async function showInfluence(asked) {
  const count = asked.posts.length;
  if (count < 2 || count > MAX_INFLUENCE) {
    $("pushing").textContent = `The influence of single posts is computed for 2 to ${MAX_INFLUENCE} posts.`;
    return;
  }
  $("again").onclick = () => showInfluence(asked);
  await askMore(asked, ["pushing", "again"], { influence: true }, "post", ({ influence }) => {
    const largest = Math.max(0.05, ...influence.flatMap(Object.values).map(Math.abs));
    influence.forEach((push, place) => $("read").children[place].append(pushes(push, largest)));
    return "Each bar: by how many points the probability would be lower without the post. " +
      "Posts interact, so the bars need not add up.";
  });
}

// Asked for by the user: it takes as many passes as there are words.
const explainWords = (asked) => askMore(
  asked, ["weighing", "explain"], { explain: "words" }, "word", ({ read: found }) => {
    $("letters").hidden = false;
    $("letters").onchange = () => markWords(found);
    markWords(found);
    return "By how many points the probability would be lower without the word." +
      (found.some(({ words }) => !words) ? " Only the posts that matter most were weighed." : "");
  });

function markWords(found) {
  const axis = AXES[document.querySelector("#letters :checked").value];
  const values = found.flatMap(({ words }) => (words ?? []).map((word) => Math.abs(word[axis.positive])));
  const largest = Math.max(0.01, ...values);
  found.forEach((one, place) => {
    const words = (one.words ?? []).map((word) => ({ ...word, value: word[axis.positive] }))
      .filter(({ value }) => Math.abs(value) >= Math.max(0.005, largest / 5))
      .map(({ start, end, value }) => ({ start, end, mark: (own) => {
        const made = element("mark", "word", own, element("small", "", pushed(axis, value)));
        made.style.setProperty("--size", Math.abs(value) / largest);
        return made;
      } }));
    $("read").children[place].querySelector("details, .text").replaceWith(passage(one, words));
  });
}

// `4 to E`: a change in points, and the letter that it speaks for.
const pushed = ({ positive, poles }, value) =>
  `${Math.round(100 * Math.abs(value))} to ${poles.find(([p]) => (p === positive) === value > 0)[0]}`;

function pushes(push, largest) {
  const most = Math.max(...Object.values(push).map(Math.abs));
  return element("dl", "pushes", ...AXES.map(({ positive, poles }) => {
    const value = push[positive];
    const towards = poles.find(([p]) => (p === positive) === value > 0)[0];
    const size = Math.abs(value);
    const bar = element("i");
    const side = towards === poles[0][0] ? -1 : 1;
    between(bar, 0.5, 0.5 + (side * size) / largest / 2);
    return element("div", size === most && size >= 0.005 ? "most" : "",
      element("dt", "", ...poles.map(([p]) => element("span", "", p))),
      element("dd", "", element("span", "push", bar, element("b", "")),
        size < 0.005 ? "–" : pushed({ positive, poles }, value)));
  }));
}
