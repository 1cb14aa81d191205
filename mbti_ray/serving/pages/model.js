// How often the model was right on its test split.
function showModel({ bundle_id: id, created, data, scores, unit, versions }) {
  const card = scores?.scorecard;
  $("scores").hidden = !card;
  $("unknown").hidden = Boolean(card);
  $("made-up").hidden = data?.source !== "builtin";
  const made = new Date(created).toLocaleDateString("en-GB", { dateStyle: "long" });
  $("served").textContent = `Model ${id}, created on ${made}, mbti_ray ${versions?.mbti_ray}.`;
  if (!card) return;
  $("tested").textContent = `Letters predicted correctly for ${tested(card.rows, unit, data)}`;
  const majority = card.baselines?.majority;
  const { accuracy, all_four: allFour, brier, ece } = card.overall;
  const row = (name, value, other) => {
    const head = element("th", "", name);
    head.scope = "row";
    const interval = value.low === null ? [] : [element("small", "", range100(value))];
    return element("tr", "", head, element("td", "", percent(value.value), ...interval),
      element("td", "", other === undefined ? "–" : percent(other)));
  };
  $("rights").replaceChildren(
    ...AXES.map(({ key: name, poles }) => {
      const right = card.dimensions[name].accuracy;
      return row(`${poles[0][0]} or ${poles[1][0]}`, right, majorityOf(card, name));
    }),
    row("mean of the four", accuracy, majority?.accuracy.value),
    row("all four letters", allFour, majority?.all_four.value),
  );
  showComparison(card);
  const shares = AXES.map(({ key: name }) => card.dimensions[name].positive);
  const naive = shares.reduce((sum, p) => sum + p * (1 - p), 0) / shares.length;
  $("calibrated").textContent =
    (accuracy.low === null ? "" : "Small print: the 95 % interval. ") +
    `Its probabilities are off by ${points(ece.value)} on average (ECE). Its Brier score is ` +
    `${brier.value.toFixed(2)}; 0 would be perfect, and ${naive.toFixed(2)} is what the shares of ` +
    "the letters alone reach.";
}

function showComparison({ baselines, paired }) {
  const found = paired?.accuracy;
  $("comparison").hidden = typeof found?.low !== "number";
  if ($("comparison").hidden) return;
  const other = `the best baseline: ${baselines[paired.against].description}`;
  const isBetter = found.low > 0;
  $("comparison").className = isBetter ? "" : "careful";
  $("comparison").textContent = isBetter ? `It is right more often than ${other}, by ${points(found.value)}.`
    : `Its test scores do not show that it is right more often than ${other}.`;
}

function tested(rows, unit, data) {
  const count = plural(rows, ...(unit === "user" ? ["person", "people"] : ["post", "posts"]));
  if (unit === "user") return `${count} not in its training data, all posts of each together. One short text says less.`;
  return data?.split_by === "post"
    ? `${count} by people with other posts in its training data. It does worse on strangers.`
    : `${count} by people not in its training data.`;
}
