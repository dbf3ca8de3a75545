"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = (script) => JSON.parse(script.textContent);
const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");
const FOUND = "rgb(64 224 255)", TRUTH = "rgb(120 255 90)";
const COLORMAP = data(document.getElementById("colormap")); // 256 colours, [r, g, b]

// ---- Tables: a click on a heading sorts by it, a second one the other way round.

for (const table of all("table.sortable")) {
  const headings = all("th", table);
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (cell) => cell.dataset.value ?? cell.textContent.split(" ± ")[0];
      const key = (row) => value(row.cells[column]);
      const numeric = all("tbody tr", table).every((row) => !isNaN(key(row)));
      const order = (a, b) =>
        numeric ? key(a) - key(b) : key(a).localeCompare(key(b), undefined, { numeric: true });
      const rows = all("tbody tr", table).sort((a, b) => (rising ? order(a, b) : order(b, a)));
      table.tBodies[0].append(...rows);
    });
  });
}

// ---- Figures, in the colours of the page.

const COLOURS = ["#3b82c4", "#e0662f", "#2a9d78", "#b565a7", "#c99a1b", "#5fb3e6", "#8c6d52"];
const GREY = "#8a8f98"; // all of them distinguishable on white and on black

const colourOf = (line) => COLOURS[line.colour] ?? GREY;

// A line of a panel (experiments/drawing/panels.py); its thresholds are customdata.
function lineTrace(line, { title, x, y }) {
  let hover = `${x.title} %{x}: %{y:.1f}`;
  if (line.filled) hover = "from %{x:.4g}: %{y} images";
  if (line.thresholds)
    hover = `${x.title} %{x:.1%}<br>${y.title} %{y:.1%}<br>score ≥ %{customdata:.4g}`;
  return {
    x: line.x, y: line.y, name: line.label || title, meta: line.name || undefined,
    mode: line.error ? "lines+markers" : "lines", customdata: line.thresholds ?? undefined,
    line: { shape: line.steps, color: colourOf(line), dash: line.dashed ? "dash" : "solid", width: 1.5 },
    error_y: line.error ? { array: line.error, thickness: 1, width: 3 } : undefined,
    fill: line.filled ? "tozeroy" : "none",
    hovertemplate: `${hover}<extra>${line.label}</extra>`,
  };
}

function cellTrace({ cells, span, digits, x }) {
  return {
    type: "heatmap", x: cells.columns, y: cells.index, z: cells.data, zmin: span[0], zmax: span[1],
    colorscale: "Viridis", showscale: false, texttemplate: `%{z:.${digits}f}`,
    hovertemplate: `%{y}, ${x.title} %{x}: %{z:.${digits}f}<extra></extra>`,
  };
}

// Of points those that a cheaper or better one dominates, or those on the Pareto front, numbered.
function pointTrace(points, front) {
  const chosen = points.filter((point) => point.front === front);
  const column = (name) => chosen.map((point) => point[name]);
  return {
    x: column("x"), y: column("y"), customdata: column("label"),
    text: chosen.map((_, i) => i + 1), textfont: { color: "#fff", size: 10 },
    mode: front ? "lines+markers+text" : "markers", cliponaxis: false,
    error_x: { array: column("error"), thickness: 1, width: 0 },
    line: { shape: "hv" }, marker: { size: front ? 16 : 8, color: front ? COLOURS[0] : GREY },
    hovertemplate: "%{customdata}<br>%{x:.4g}: %{y:.1f}<extra></extra>",
  };
}

function axis({ title, log, ticks, share }) {
  const shown = { title: { text: title }, type: log ? "log" : "linear" };
  if (ticks.length) Object.assign(shown, { tickvals: ticks, tickformat: ".4~r" });
  const range = { tickformat: ".0%", range: [-0.01 * share, 1.01 * share], dtick: share < 1 ? 0.1 : 0.25 };
  return share ? { ...shown, ...range } : shown;
}

function figure(plot) {
  const panel = data(plot.firstElementChild);
  const layout = { xaxis: axis(panel.x), yaxis: axis(panel.y) };
  const traces = panel.lines.map((line) => lineTrace(line, panel));
  if (panel.cells) {
    traces.push(cellTrace(panel));
    for (const side of Object.values(layout)) Object.assign(side, { type: "category", showgrid: false });
    layout.yaxis.autorange = "reversed";
  }
  if (panel.points) traces.push(pointTrace(panel.points, false), pointTrace(panel.points, true));
  if (plot.closest(".curve")) // a dot for each line, at the threshold
    traces.push({
      mode: "markers", hoverinfo: "skip",
      marker: { size: 9, color: panel.lines.map(colourOf) },
    });
  return { data: traces, layout };
}

const specs = new Map(all(".plot").map((plot) => [plot, figure(plot)]));
const drawn = new Set();
const marks = new Map(); // run shown so far -> marks its threshold in its figures

// A legend stands outside of the plot, which keeps its size: once where all figures of a group share it.
function legend({ lines, points }) {
  const list = document.createElement("p");
  const add = (label, colour, number = "", style = "solid") => {
    const entry = document.createElement("span");
    entry.append(label);
    entry.dataset.number = number;
    entry.style.cssText = `--ink: ${colour}; --style: ${style}`;
    list.append(entry);
  };
  for (const line of lines.filter((line) => line.label && line.colour !== null))
    add(line.label, colourOf(line), "", line.dashed ? "dashed" : "solid");
  (points ?? []).filter((point) => point.front).forEach((point, i) => add(point.label, COLOURS[0], i + 1));
  list.className = "legend";
  return list;
}

for (const group of all(".figures")) {
  const plots = all(".plot", group);
  const legends = plots.map((plot) => legend(data(plot.firstElementChild)));
  if (plots.length > 1 && legends.every((one) => one.isEqualNode(legends[0]))) group.before(legends[0]);
  else plots.forEach((plot, i) => plot.before(legends[i]));
}

function theme() {
  const css = getComputedStyle(document.body);
  const colour = (name) => css.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
    automargin: true, title: { standoff: 8 },
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), family: css.fontFamily, size: 12 },
      xaxis: axis, yaxis: axis, margin: { l: 48, r: 20, t: 8, b: 40 },
      showlegend: false,
      hoverlabel: { font: { family: css.fontFamily } },
      dragmode: matchMedia("(pointer: fine)").matches && "zoom", // a finger scrolls the page
    },
  };
}

function draw(plot) {
  const { data, layout } = specs.get(plot);
  const printing = document.documentElement.classList.contains("printing");
  const width = printing ? 330 : undefined; // half a page; the layout of a print is not known yet
  const options = { responsive: true, displayModeBar: false };
  Plotly.react(plot, data, { ...layout, width, template: theme() }, options);
  drawn.add(plot);
}

function drawWithin(root) {
  all(".plot", root).filter((plot) => plot.offsetParent && !drawn.has(plot)).forEach(draw);
}

function redraw() {
  drawn.forEach(draw);
  marks.forEach((mark) => mark?.());
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const [event, printing] of [["beforeprint", true], ["afterprint", false]])
  addEventListener(event, () => {
    document.documentElement.classList.toggle("printing", printing); // paper is white
    redraw();
  });

// ---- Maps: 8-bit pixels k stand for the score bottom (top / bottom)^(k / 255).

function pixels(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i]);
  return { values, width: canvas.width, height: canvas.height };
}

// A picture of values, each of the colour [r, g, b, a] that a table has for it.
function painted({ values, width, height }, table) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  values.forEach((value, i) => picture.data.set(table[value], 4 * i));
  context.putImageData(picture, 0, 0);
  return canvas;
}

// Marching squares: the line along which values cross a level, in units of the picture's sides.
function contour({ values, width, height }, level) {
  const path = new Path2D();
  const inside = (i) => values[i] >= level;
  const between = (i, j) => (level - values[i]) / (values[j] - values[i]);
  for (let y = 0; y + 1 < height; y++)
    for (let x = 0; x + 1 < width; x++) {
      const a = y * width + x, b = a + 1, d = a + width, c = d + 1; // clockwise
      const ends = [];
      if (inside(a) !== inside(b)) ends.push([x + between(a, b), y]);
      if (inside(b) !== inside(c)) ends.push([x + 1, y + between(b, c)]);
      if (inside(d) !== inside(c)) ends.push([x + between(d, c), y + 1]);
      if (inside(a) !== inside(d)) ends.push([x, y + between(a, d)]);
      ends.forEach(([u, v], i) =>
        path[i % 2 ? "lineTo" : "moveTo"]((u + 0.5) / width, (v + 0.5) / height));
    }
  return path;
}

function stroke(context, path, colour) {
  const { width, height } = context.canvas;
  context.save();
  context.scale(width, height);
  for (const [line, size] of [["rgb(0 0 0 / 60%)", 3], [colour, 1.5]]) {
    context.strokeStyle = line;
    context.lineWidth = (size * devicePixelRatio) / width;
    context.stroke(path);
  }
  context.restore();
}

// ---- A run: one threshold for its pictures, counts, curves and histogram.

function openRun(article) {
  const run = data(article.querySelector(".data"));
  const slider = article.querySelector(".threshold");
  if (!slider) return;
  const views = article.querySelector(".views");
  const curve = new Map();
  for (const plot of all(".curve .plot", article))
    for (const trace of specs.get(plot).data) curve.set(trace.meta, trace);
  const cards = all(".card", article).map((card) => ({
    card, score: Number(card.dataset.score), label: Number(card.dataset.label),
    canvas: card.querySelector("canvas"), image: card.querySelector(".image"),
  }));
  const level = (score) => (255 * Math.log(score / run.bottom)) / Math.log(run.top / run.bottom);
  let threshold = run.start;

  // Of the curves the points at a threshold, from the highest threshold down; null is infinite.
  function at(name) {
    const points = curve.get(name);
    if (!points) return { x: NaN, y: NaN };
    let i = points.customdata.findIndex((t) => t !== null && t < threshold);
    i = i < 0 ? points.x.length - 1 : i - 1;
    return { x: points.x[i], y: points.y[i] };
  }

  function count() {
    const n = { tp: 0, fn: 0, fp: 0, tn: 0 };
    for (const { defect, label, scores } of run.defects) {
      const found = scores.filter((score) => score >= threshold).length;
      n[label ? "tp" : "fp"] += found;
      n[label ? "fn" : "tn"] += scores.length - found;
      const row = all("tr", article).find((other) => other.cells[0]?.textContent === defect);
      const cell = row.cells[2];
      cell.textContent = `${found} of ${scores.length}`;
      cell.dataset.value = found / scores.length;
    }
    const pixel = at("pixel/roc");
    const shown = {
      ...n, recall: percent(n.tp / (n.tp + n.fn)), precision: percent(n.tp / (n.tp + n.fp)),
      pixel_recall: percent(pixel.y), pixel_precision: percent(at("pixel/pr").y),
      pixel_alarms: percent(pixel.x),
    };
    for (const cell of all("[data-count]", article)) cell.textContent = shown[cell.dataset.count];
    return n;
  }

  function paint({ card, canvas, map, truth, heat, score, label }) {
    const found = score >= threshold;
    const verdict = card.querySelector(".verdict");
    verdict.textContent = label ? (found ? "found" : "missed") : found ? "false alarm" : "passed";
    verdict.className = `verdict ${found === Boolean(label) ? "right" : "wrong"}`;
    if (!map) return; // its images are not decoded yet
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio); // and clears it
    canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (!canvas.width) return; // not shown
    const context = canvas.getContext("2d");
    const view = views.elements.view.value;
    if (heat[view]) context.drawImage(heat[view], 0, 0, canvas.width, canvas.height);
    if (view === "mask") {
      const cut = level(threshold);
      const table = COLORMAP.map((_, k) => (k >= cut ? [64, 224, 255, 170] : [0, 0, 0, 0]));
      context.imageSmoothingEnabled = false;
      context.drawImage(painted(map, table), 0, 0, canvas.width, canvas.height);
      context.imageSmoothingEnabled = true;
    }
    if (views.elements.truth.checked && truth) stroke(context, truth, TRUTH);
    if (views.elements.contour.checked) stroke(context, contour(map, level(threshold)), FOUND);
  }

  // In the figures and on the colour bar; pictures painted just before a print would come out blank.
  function mark() {
    const histogram = article.querySelector(".histogram .plot");
    if (drawn.has(histogram)) {
      const line = { type: "line", yref: "paper", y0: 0, y1: 1, x0: threshold, x1: threshold };
      Plotly.relayout(histogram, { shapes: [{ ...line, line: { width: 2, color: "#8a8f98" } }] });
    }
    for (const plot of all(".curve .plot", article).filter((plot) => drawn.has(plot))) {
      const { data } = specs.get(plot);
      const dots = data.filter((trace) => trace.meta).map((trace) => at(trace.meta));
      Plotly.restyle(plot, { x: [dots.map((p) => p.x)], y: [dots.map((p) => p.y)] }, [data.length - 1]);
    }
    const needle = article.querySelector(".needle");
    if (needle) {
      const share = (threshold - run.low) / (run.high - run.low);
      needle.style.left = `${100 * Math.min(1, Math.max(0, share))}%`;
    }
  }

  let waiting = false;
  function update() {
    const shown = threshold.toPrecision(4);
    article.querySelector(".at").textContent = shown;
    article.querySelector(".at").value = threshold;
    const { tp, fn, fp } = count();
    const summary = `score ${shown}: ${tp} found, ${fn} missed, ${fp} false alarms`;
    slider.setAttribute("aria-valuetext", summary);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      cards.forEach(paint);
      mark();
    });
  }

  const steps = Number(slider.max), [least, most] = run.range;
  function set(score) {
    threshold = score;
    slider.value = (steps * Math.log(score / least)) / Math.log(most / least);
    update();
  }
  slider.addEventListener("input", () => {
    threshold = least * (most / least) ** (slider.value / steps);
    update();
  });
  for (const button of all(".mark", article))
    button.addEventListener("click", () => set(run.marks[button.dataset.mark]));

  if (views) {
    const ramp = COLORMAP.filter((_, k) => k % 15 === 0).map((c) => `rgb(${c.join(" ")})`);
    views.querySelector(".ramp").style.background = `linear-gradient(90deg, ${ramp.join()})`;
    views.querySelector(".low").textContent = run.low.toPrecision(3);
    views.querySelector(".high").textContent = run.high.toPrecision(3);
    views.addEventListener("submit", (event) => event.preventDefault());
    views.addEventListener("change", () => {
      article.dataset.view = views.elements.view.value;
      cards.forEach(paint);
    });
    article.dataset.view = views.elements.view.value;
    const shares = COLORMAP.map((_, k) => {
      const score = run.bottom * (run.top / run.bottom) ** (k / 255);
      return Math.min(1, Math.max(0, (score - run.low) / (run.high - run.low)));
    });
    // The higher the score, the denser the colour, as in the pictures of the run.
    const colours = shares.map((s) => [...COLORMAP[Math.round(255 * s)], 255 * (0.4 + 0.4 * s)]);
    for (const one of cards)
      Promise.all(all("img", one.card).map((image) => image.decode())).then(() => {
        one.map = pixels(one.card.querySelector(".map"));
        const levels = all(".level", one.card).map((image) => painted(pixels(image), colours));
        one.heat = { heat: painted(one.map, colours) };
        levels.forEach((level, i) => (one.heat[`level${i}`] = level));
        const mask = one.card.querySelector(".mask");
        one.truth = mask && contour(pixels(mask), 128);
        new ResizeObserver(() => paint(one)).observe(one.canvas); // paints it at once
      });
  }
  for (const picture of all(".picture", article))
    picture.addEventListener("click", () => {
      const large = picture.closest(".card").classList.toggle("large");
      picture.setAttribute("aria-pressed", large);
    });
  set(threshold);
  return mark;
}

function show(article) {
  all(".run").forEach((other) => (other.hidden = other !== article));
  drawWithin(article);
  if (!marks.has(article)) marks.set(article, openRun(article));
  marks.get(article)?.();
}

document.getElementById("chosen")?.addEventListener("change", (event) => {
  show(document.getElementById(event.target.value));
});
drawWithin(document);
if (all(".run").length) show(all(".run")[0]);
