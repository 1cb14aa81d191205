// The four letters, their probabilities, and how often such a probability was right on test.
function build(axis) {
  const side = ([letter, name]) => element(
    "span", "", element("b", "", letter), ` ${name}`, element("i", ""));
  axis.sides = axis.poles.map(side);
  axis.parts = Object.fromEntries(["band", "fill", "dot", "tick"].map((n) => [n, element("i", n)]));
  axis.note = element("p", "soft");
  axis.row = element("div", "axis blank", element("div", "poles", ...axis.sides),
    element("div", "track", ...Object.values(axis.parts)), axis.note);
  axis.row.querySelector(".track").setAttribute("aria-hidden", "true");
  return axis.row;
}

const likelihood = ({ share, positive }, pole) => percent(pole === positive ? share : 1 - share);
// The position of a positive pole's probability on the track; its left end is the first pole.
const placeOf = (axis, share) => (axis.positive === axis.poles[0][0] ? 1 - share : share);
const between = (part, one, other) => {
  const [low, high] = [one, other].map((x) => Math.min(1, Math.max(0, x))).sort((a, b) => a - b);
  part.style.left = `${100 * low}%`;
  part.style.width = `${100 * (high - low)}%`;
};

function drawRule(axis, threshold = 0.5, abstain = 0) {
  axis.threshold = threshold;
  axis.row.classList.toggle("unknown", !facts);
  between(axis.parts.band, placeOf(axis, threshold - abstain), placeOf(axis, threshold + abstain));
  axis.parts.tick.style.left = `${100 * placeOf(axis, threshold)}%`;
  if (axis.share === undefined) moveDot(axis, threshold);
}

function moveDot(axis, share) {
  between(axis.parts.fill, placeOf(axis, axis.threshold), placeOf(axis, share));
  axis.parts.dot.style.left = `${100 * placeOf(axis, share)}%`;
}

function drawAxis(axis, share, letter, more) {
  axis.share = share;
  axis.letter = letter;
  axis.row.classList.remove("blank");
  axis.row.classList.toggle("unsure", letter === "X");
  moveDot(axis, share);
  axis.poles.forEach(([pole], side) => {
    axis.sides[side].className = pole === letter ? "given" : "";
    axis.sides[side].querySelector("i").textContent = likelihood(axis, pole);
  });
  const margin = points(Math.abs(share - axis.threshold));
  const mark = Math.abs(axis.threshold - 0.5) < 0.005 ? "the middle"
    : `the threshold of ${percent(axis.threshold)} ${axis.positive}`;
  const by = facts ? `${margin} ${letter === "X" ? "from" : "beyond"} ${mark}` : "";
  axis.note.textContent = letter === "X" ? `Too close to tell${by && `: ${by}`}.` : by && `${letter}, ${by}.`;
  if (more) axis.note.append(` About ${plural(more, "more post", "more posts")} like this would make it 80\u00a0%.`);
}

function show(answer, asPosts) {
  $("heading").textContent = asPosts ? "These posts sound most like" : "This text sounds most like";
  const idle = showIdle();
  $("type").replaceChildren(...AXES.map(({ poles }, place) => {
    const letter = answer.type[place];
    const name = poles.find(([pole]) => pole === letter)?.[1] ?? "cannot tell";
    const look = letter === "X" ? "unsure" : idle.includes(AXES[place]) ? "idle" : "";
    return element("span", look, element("b", "", letter), element("small", "", name));
  }));
  // Spelled out once: screen readers do not read four separate boxes as one type.
  $("type").role = "img";
  $("type").ariaLabel = [...answer.type].join(" ");
  $("extent").textContent = extent(answer);
  AXES.forEach((axis, place) =>
    drawAxis(axis, answer.probabilities[axis.positive], answer.type[place],
      answer.more_posts?.[axis.positive]));
  showSureness();
  showReading(answer.read, asPosts);
  $("announcement").textContent = `${[...answer.type].join(" ")}. ${AXES.map(spoken).join(". ")}.`;
  const top = $("answer").getBoundingClientRect().top;
  if (top < 0 || top > 0.6 * innerHeight) $("answer").scrollIntoView();
}

// Grays the letters of which the test scores say nothing; returns their axes.
function showIdle() {
  const card = facts?.scores?.scorecard;
  const idle = !card ? [] : AXES.filter(({ key: name }) =>
    !(card.dimensions[name].accuracy.low > majorityOf(card, name)));
  AXES.forEach((axis) => axis.row.classList.toggle("idle", idle.includes(axis)));
  $("idle").hidden = !idle.length;
  const names = idle.map(({ poles: [[one], [other]] }) => `${one} or ${other}`).join(", ");
  $("idle").textContent =
    `Gray letters: on test rows, ${names} was predicted no better than by always the more frequent letter.`;
  return idle;
}

const majorityOf = ({ baselines, dimensions }, name) => baselines?.majority?.[name]?.value
  ?? Math.max(dimensions[name].positive, 1 - dimensions[name].positive);

function spoken(axis) {
  const [pole, name] = axis.poles.find(([p]) => p === axis.letter) ?? [];
  return pole ? `${name} ${likelihood(axis, pole)}`
    : `${axis.poles.map(([, n]) => n).join(" or ")}: too close to tell`;
}

function extent({ truncated, windows, unknown, tokens }) {
  const strange = unknown ? ` ${percent(unknown)} of its words are unknown to the model.` : "";
  const places = windows === 1 ? "one window" : plural(windows, "window", "windows");
  const read = `${plural(tokens, "token", "tokens")} (words or parts of words)`;
  const asked = Object.entries(facts?.asked_base_rates ?? {});
  const rates = asked.map(([pole, share]) => `${percent(share)} ${pole}`).join(", ");
  return (truncated ? `Longer than the limit: only ${places} counted, ${read}.`
    : `All of it was read, ${read} in ${places}.`) + strange +
    (rates && ` Its probabilities are for people of whom these shares are so: ${rates}.`);
}

function blank() {
  $("heading").textContent = "The result will appear here";
  $("type").replaceChildren(...AXES.map(({ poles }) =>
    element("span", "open", element("b", "", "–"),
      element("small", "", `${poles[0][0]} or ${poles[1][0]}`))));
  $("type").role = $("type").ariaLabel = null;
  $("extent").textContent = "Four letters, the probability of each, and how reliable that is.";
  for (const axis of AXES) {
    axis.share = undefined;
    axis.row.classList.remove("unsure");
    axis.row.classList.add("blank");
    axis.note.textContent = "";
    axis.sides.forEach((side) => { side.className = ""; side.querySelector("i").textContent = ""; });
  }
  useFacts(info);
  for (const id of ["sureness", "reading", "again", "idle"]) $(id).hidden = true;
  $("announcement").textContent = "";
}

function showSureness() {
  const card = facts?.scores?.scorecard;
  // The test had its own base rates: where others are asked for, its probabilities are not these.
  const axes = AXES.filter(({ positive }) => !(positive in (facts?.asked_base_rates ?? {})));
  $("sureness").hidden = !card || !axes.length;
  if ($("sureness").hidden) return;
  $("sure-lead").textContent = facts.unit === "user"
    ? "Of the people in its test set with a similar probability, so many had that letter:"
    : "Of the posts in its test set with a similar probability, so many were by people with that letter:";
  $("sure").replaceChildren(...axes.map((axis) => element(
    "li", "", ...alike(axis, card.dimensions[axis.key].reliability))));
}

function alike(axis, bins) {
  const { share, letter, positive, poles } = axis;
  const likelier = poles.find(([p]) => (p === positive) === share > 0.5);
  const [pole, name] = poles.find(([p]) => p === letter) ?? likelier;
  const isPositive = pole === positive;
  const figure = element("span", "", `${name} ${likelihood(axis, pole)}`);
  const bin = bins.find(({ low, high }) => share >= low && (share < high || high >= 1));
  if (!bin) return [figure, element("small", "", "no test result near that")];
  const sides = isPositive ? bin : { low: 1 - bin.high, high: 1 - bin.low };
  const positives = Math.round(bin.count * bin.positive);
  const right = isPositive ? positives : bin.count - positives;
  const few = bin.count < 10 ? ": too few to be reliable" : "";
  return [figure, element("b", "", `${right} of ${bin.count}`),
    element("small", "", `with ${range100(sides)} ${pole}${few}`)];
}
