// How each kind of chart is drawn: Vega-Lite over the rows that the page gives it.
const quantity = (field, title = null, more = {}) => ({ field, type: "quantitative", title,
  scale: { zero: false, nice: false, padding: 12 }, ...more });
const name = (field, more = {}) => ({ field, type: "nominal", title: null, ...more });
const layer = (type, mark = {}, encoding = {}, more = {}) => ({ mark: { type, ...mark }, encoding, ...more });
const only = (filter) => ({ transform: [{ filter }] });
const tooltip = (rows, titles) => ({ tooltip: Object.entries(titles).map(([field, title]) =>
  ({ field, title, type: typeof rows[0]?.[field] === "number" ? "quantitative" : "nominal" })) });
const whole = (rows, field) => {
  const found = [...new Set(rows.map((row) => row[field]))].sort((a, b) => a - b);
  return { axis: { format: "d", values: found.filter((_, k) => k % Math.ceil(found.length / 10) === 0) } };
};
const plain = { axis: { domain: false, labelColor: "var(--ink)", labelLimit: 150 } };
const clickable = { cursor: "pointer" };

// `trial` is the highlighted trial, or null; the others fade while there is one.
const params = [{ name: "trial", value: null }];
const isChosen = "datum.trial === trial";
const color = { condition: [{ test: isChosen, value: "var(--mark)" },
  { test: "datum.best", value: "var(--fill)" }], value: "var(--soft)" };
const opacity = { condition: { test: `trial === null || ${isChosen}`, value: 0.85 }, value: 0.15 };
const strokeWidth = { condition: { test: `${isChosen} || datum.best`, value: 3 }, value: 1 };

const drawings = {
  bars: ({ caption, rows }) => ({
    height: 22 * rows.length,
    encoding: { y: name("name", { sort: null, ...plain }),
      // Space on the right for the label of the longest bar.
      x: quantity("length", null, { axis: null, scale: { domain: [0,
        1.25 * Math.max(...rows.map((row) => row.length)) || 1] } }) },
    layer: [layer("bar", { color: "var(--fill)", height: 14 }, tooltip(rows, { name: "", label: caption })),
      layer("text", { align: "left", dx: 6 }, { text: { field: "label" } })] }),

  reliability: ({ rows, pole }) => ({
    height: 280,
    encoding: Object.fromEntries([["x", "probability", `predicted probability of ${pole}`],
      ["y", "positive", `share of rows that are ${pole}`]].map(([key, field, title]) =>
      [key, quantity(field, title, { scale: { domain: [0, 1], padding: 12 }, axis: { tickCount: 5 } })])),
    layer: [layer("line", { color: "var(--soft)", strokeDash: [4, 4], strokeWidth: 1 }, {},
      { data: { values: [0, 1].map((share) => ({ probability: share, positive: share })) } }),
      layer("line", { color: "var(--fill)", strokeWidth: 1.5 }),
      layer("point", { color: "var(--fill)", opacity: 0.6 }, { size: quantity("count", null, { legend: null,
        scale: { domain: [0, rows.reduce((sum, { count }) => sum + count, 0)], range: [20, 900] } }),
        ...tooltip(rows, { count: "rows", probability: "mean probability", positive: `are ${pole}` }) })] }),

  learning: ({ caption, rows }) => {
    // Distinguished by dashes as well as by color.
    const strokes = { training: ["var(--soft)", [5, 3]], validation: ["var(--fill)", [1, 0]],
      "majority class": ["var(--ink)", [1, 3]] };
    const domain = Object.keys(strokes).filter((key) => rows.some(({ series }) => series === key));
    const scale = (k) => ({ scale: { domain, range: domain.map((key) => strokes[key][k]) } });
    return { encoding: { x: quantity("epoch", "epoch", whole(rows, "epoch")), y: quantity("value"),
      color: name("series", scale(0)), ...tooltip(rows, { series: "", epoch: "epoch", value: caption }) },
    layer: [layer("line", { strokeWidth: 1.75 }, { strokeDash: name("series", scale(1)) }),
      layer("point", { size: 30 })] };
  },

  history: ({ rows, objective }) => {
    const shapes = { completed: "circle", "stopped early": "triangle-down", failed: "cross" };
    const domain = Object.keys(shapes).filter((key) => rows.some(({ state }) => state === key));
    return { params, encoding: { x: quantity("trial", "trial", whole(rows, "trial")) },
      layer: [layer("line", { interpolate: "step-after", color: "var(--soft)" },
        { y: quantity("so_far", objective) }, only("datum.so_far !== null")),
        layer("point", { size: 70, ...clickable }, { y: quantity("value", objective), color, opacity,
          shape: name("state", { scale: { domain, range: domain.map((key) => shapes[key]) } }),
          ...tooltip(rows, { trial: "trial", shown: objective, so_far: "best so far", state: "state" }) })] };
  },

  epochs: ({ rows, objective }) => ({
    params,
    encoding: { x: quantity("epoch", "epoch", whole(rows, "epoch")), y: quantity("value", objective), color, opacity,
      detail: { field: "trial" }, ...tooltip(rows, { trial: "trial", epoch: "epoch", value: objective }) },
    layer: [layer("line", clickable, { strokeWidth, strokeDash: { value: [1, 0],
      condition: { test: "datum.state !== 'completed' && !datum.best", value: [3, 3] } } }),
      layer("point", { size: 28, ...clickable })] }),

  // The scales lie below each other, so that their names stay readable at any width.
  parallel: ({ rows, ticks, objective, scales }) => ({
    params,
    height: 52 * scales.length,
    encoding: { x: quantity("at", null, { axis: null, scale: { domain: [-0.12, 1], padding: 30 } }),
      y: name("scale", { sort: scales, ...plain }) },
    layer: [layer("line", { color: "var(--line)", strokeWidth: 1.5 }, { detail: { field: "scale" } },
      { data: { values: ticks }, ...only("datum.at >= 0") }),
      ...[layer("line", clickable, { strokeWidth }), layer("point", { size: 28, ...clickable })]
        .map(({ mark, encoding }) => ({ mark, encoding: { ...encoding, color, opacity,
          detail: { field: "trial" }, order: { field: "order", type: "quantitative" },
          ...tooltip(rows, { trial: "trial", score: objective, scale: "address", value: "value" }) } })),
      layer("text", { dy: 15, fontSize: 11, color: "var(--soft)" }, { text: { field: "label" } },
        { data: { values: ticks } })] }),

  timeline: ({ rows, unit, lanes }) => {
    const fill = { condition: { test: isChosen, value: "var(--mark)" }, value: "var(--fill)" };
    return { params, height: 30 * lanes.length,
      encoding: { y: name("worker", { sort: lanes, axis: { domain: false, labelLimit: 110 } }),
        ...tooltip(rows, { trial: "trial", worker: "worker", took: "took", state: "state" }) },
      layer: [layer("bar", { strokeWidth: 1.5, ...clickable }, {
        x: quantity("start", unit, { scale: { domainMin: 0, nice: false } }), x2: { field: "end" },
        fill, stroke: fill, fillOpacity: { condition: [{ test: "datum.state === 'failed'", value: 0 },
          { test: "datum.state === 'stopped early'", value: 0.3 }], value: 0.75 } }),
      layer("text", { fontSize: 11, ...clickable }, { x: quantity("middle", unit), text: { field: "label" } })] };
  },

  front: ({ rows, x, y }) => ({
    params,
    encoding: { x: quantity("x", x), y: quantity("y", y) },
    layer: [layer("line", { color: "var(--fill)" }, {}, only("datum.best")),
      layer("point", { size: 70, ...clickable }, { color, opacity, ...tooltip(rows, { trial: "trial", x, y }) })] }),
};
