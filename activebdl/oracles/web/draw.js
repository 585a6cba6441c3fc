// From what the server tells to what is seen. Text goes in as text: a class may be called <script>.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export const percent = (p) => (p > 0 && p < 0.005 ? "<1 %" : `${Math.round(100 * p)} %`);
export const short = (x) => String(Number(x.toPrecision(4)));
export const measured = (measure, x) => (measure === "accuracy" ? `${(100 * x).toFixed(1)} %` : short(x));

export function nameOf(label, run) {
  if (label === null) return "abstained";
  return run.kind === "classes" ? run.classes[label].name : String(label);
}

// A picture, or a table of numbers. It calls `ready` when the item can be seen, and `failed` where its picture does not
// come; it is tried again all the same.
export function item(it, alt, ready, failed = () => {}) {
  if (!it.size) {
    const table = make("table", { className: "table" });
    const columns = it.values.length > 12 ? 4 : it.values.length > 5 ? 2 : 1;
    const rows = Math.ceil(it.values.length / columns);
    for (let r = 0; r < rows; r++) {
      const row = table.insertRow();
      for (let i = r; i < it.values.length; i += rows)
        row.append(make("th", { scope: "row", textContent: i }), make("td", { textContent: it.values[i] }));
    }
    const all = it.shape.reduce((a, b) => a * b, 1);
    if (all > it.values.length)
      table.append(make("caption", { textContent: `the first ${it.values.length} of ${all} values` }));
    table.setAttribute("aria-label", alt);
    ready();
    return table;
  }
  const image = make("img", { alt, draggable: false });
  if (Math.max(...it.size) <= 160) image.className = "crisp";
  image.style.setProperty("--shape", `${it.size[1]} / ${it.size[0]}`);
  image.addEventListener("load", ready, { once: true });
  let tries = 1;
  image.addEventListener("error", () => {
    if (++tries === 3) failed();
    setTimeout(() => { image.src = `/image/${it.id}?${tries}`; }, 1000);
  });
  image.src = `/image/${it.id}`;
  return image;
}

export function belief(model, run) {
  if (run.kind !== "classes")
    return [make("p", {}, make("strong", { textContent: `${short(model.mean)} ± ${short(model.sd)}` })),
      make("p", { className: "doubt", textContent: "mean and standard deviation" })];
  const rows = model.top.map(([c, p]) => {
    const bar = make("span");
    bar.style.width = `${100 * p}%`;
    return make("div", { className: "belief" },
      make("span", { textContent: run.classes[c].name }),
      make("span", { className: "track", "aria-hidden": "true" }, bar),
      make("span", { className: "share", textContent: percent(p) }));
  });
  const part = model.entropy / model.most;
  const word = part < 0.1 ? "It is sure" : part < 0.4 ? "It is fairly sure" : part < 0.7 ? "It is unsure" : "It is very unsure";
  rows.push(make("p", { className: "doubt" }, `${word}: entropy `, make("strong", { textContent: model.entropy.toFixed(2) }),
    ` of ${model.most.toFixed(2)} nats`));
  return rows;
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// How good the model was with how many labels; with axes where there is room for them.
export function curve(points, measure, width, height, axes) {
  const [left, right, top, bottom] = axes ? [48, 12, 12, 26] : [2, 4, 4, 4];
  const labels = points.map(([n]) => n), values = points.map(([, v]) => v);
  const [n0, n1, low, high] = [Math.min(...labels), Math.max(...labels), Math.min(...values), Math.max(...values)];
  const x = (n) => left + (n1 > n0 ? (n - n0) / (n1 - n0) : 0.5) * (width - left - right);
  const y = (v) => height - bottom - (high > low ? (v - low) / (high - low) : 0.5) * (height - top - bottom);
  const last = points.at(-1);
  const told = `${measure} ${measured(measure, last[1])} with ${last[0]} labels`;
  const picture = svg("svg", { class: "line", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": told });
  if (axes) {
    for (const v of high > low ? [low, high] : [low]) {
      picture.append(svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v) }));
      picture.append(svg("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, measured(measure, v)));
    }
    for (const n of n1 > n0 ? [n0, n1] : [n0])
      picture.append(svg("text", { x: x(n), y: height - 4, "text-anchor": n === n1 && n1 > n0 ? "end" : "start" }, `${n} labels`));
  }
  picture.append(svg("path", { d: points.map(([n, v], i) => `${i ? "L" : "M"}${x(n).toFixed(1)} ${y(v).toFixed(1)}`).join("") }));
  picture.append(svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 3 }));
  return picture;
}
