// Draws the charts, highlights one trial in all of them, sorts tables, copies commands.
const ink = { labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12 };
const config = { font: "system-ui, sans-serif", numberFormat: ".4~g", view: { stroke: null },
  background: "transparent", axisX: { grid: false },
  axis: { ...ink, titleFontSize: 12, titleFontWeight: "normal", domainColor: "var(--line)", ticks: false,
    gridColor: "var(--line)", labelPadding: 6 }, legend: { ...ink, orient: "top", title: null },
  text: { color: "var(--ink)", fontSize: 12 }, point: { filled: true, opacity: 1, size: 50 } };
const options = { ast: true, renderer: "svg", actions: false, defaultStyle: false, config,
  tooltip: { disableDefaultStyle: true } };
const views = [], all = (selector) => document.querySelectorAll(selector);
let chosen = null;

function choose(trial) {
  chosen = trial === chosen ? null : trial;
  for (const view of views) view.signal("trial", chosen).runAsync();
  for (const row of all("[data-trial]")) row.classList.toggle("chosen", Number(row.dataset.trial) === chosen);
}

for (const place of all(".chart")) {
  const chart = JSON.parse(place.textContent), drawn = drawings[chart.kind](chart);
  const spec = { description: chart.caption, width: "container", height: 260, ...drawn,
    data: { values: chart.rows }, autosize: { type: "fit-x", contains: "padding" } };
  vegaEmbed(place, spec, options).then(({ view }) => {
    if (!drawn.params) return;
    views.push(view);
    view.addEventListener("click", (_, item) => item?.datum?.trial === undefined || choose(item.datum.trial));
  });
}

for (const row of all("[data-trial]"))
  row.addEventListener("click", ({ target }) => target.closest("a") || choose(Number(row.dataset.trial)));

for (const head of all(".sortable thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], up = head.ariaSort !== "ascending";
    const text = (row) => row.cells[head.cellIndex].textContent;
    const rows = [...body.rows].sort((a, b) => (up ? 1 : -1)
      * (parseFloat(text(a)) - parseFloat(text(b)) || text(a).localeCompare(text(b))));
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = up ? "ascending" : "descending";
    body.append(...rows);
  });
}

for (const button of all(".command button"))
  button.addEventListener("click", () => {
    // navigator.clipboard is missing where the page comes from another machine by plain HTTP.
    getSelection().selectAllChildren(button.previousElementSibling);
    if (document.execCommand("copy")) button.textContent = "copied";
  });

for (const heading of all("section > h2")) {
  heading.parentNode.id = heading.textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const link = document.createElement("a");
  link.href = `#${heading.parentNode.id}`;
  link.textContent = heading.textContent;
  document.querySelector("nav").append(link);
}
