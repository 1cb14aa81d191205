// The four axes, and what all scripts of the page draw and format with.
const AXES = [
  { key: "ei", positive: "E", poles: [["E", "Extraversion"], ["I", "Introversion"]] },
  { key: "sn", positive: "N", poles: [["S", "Sensing"], ["N", "Intuition"]] },
  { key: "tf", positive: "T", poles: [["T", "Thinking"], ["F", "Feeling"]] },
  { key: "jp", positive: "J", poles: [["J", "Judging"], ["P", "Perceiving"]] },
];
const $ = (id) => document.getElementById(id);
function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
const points = (share) => (Math.round(100 * share) < 1 ? "less than a point"
  : plural(Math.round(100 * share), "point", "points"));
function percent(share) {
  // Non-breaking spaces: no line break between a number and its unit.
  if (share < 0.005) return "<\u00a01\u00a0%";
  return share > 0.995 ? ">\u00a099\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
}

const range100 = ({ low, high }) => `${Math.round(100 * low)}–${Math.round(100 * high)}\u00a0%`;
