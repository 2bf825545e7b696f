// Curves as SVG, and who was taken for whom.
const SVG = "http://www.w3.org/2000/svg", WIDTH = 460, HEIGHT = 260, LEFT = 48, BOTTOM = 36, TOP = 26;

function shape(tag, settings, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(settings)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function chart(title, note, lines, label) {
  const xs = lines.flatMap((line) => line.points.map((point) => point[0]));
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const x = (value) => LEFT + (value - low) / (high - low || 1) * (WIDTH - LEFT - 16);
  const y = (value) => HEIGHT - BOTTOM - Math.max(0, Math.min(1, value)) * (HEIGHT - BOTTOM - TOP);
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(shape("line", { x1: LEFT, x2: WIDTH - 16, y1: y(value), y2: y(value), class: "axis" }));
    svg.append(shape("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value));
  }
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(shape("text", { x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, high > 2 ? Math.round(value) : value.toFixed(2)));
  }
  svg.append(shape("text", { x: (WIDTH + LEFT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, label));
  lines.forEach((line, n) => {
    const path = line.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`);
    if (line.points[0].length > 2) {
      const around = [...line.points.map(([a, b, s]) => `${x(a)},${y(b + s)}`), ...[...line.points].reverse().map(([a, b, s]) => `${x(a)},${y(b - s)}`)];
      svg.append(shape("polygon", { points: around.join(" "), fill: line.colour, opacity: 0.2 }));
    }
    svg.append(shape("polyline", { points: path.join(" "), fill: "none", stroke: line.colour, "stroke-width": 2 }));
    const place = LEFT + n * (WIDTH - LEFT) / lines.length;
    svg.append(shape("rect", { x: place, y: 8, width: 10, height: 10, fill: line.colour }));
    svg.append(shape("text", { x: place + 15, y: 17 }, line.name));
  });
  return element("figure", {}, element("h2", { text: title }), element("p", { class: "note", text: note }), svg);
}

// Rows are labelled categories, columns those they were found in: the darker, the larger the share of the row.
function matrix({ names, cells }) {
  const last = names.length - 1, side = Math.max(4, Math.min(20, 480 / names.length)), most = 22;
  const short = (name) => name.length > most ? `${name.slice(0, most - 1)}…` : name;
  const told = side >= 9, margin = told ? 172 : 14, size = margin + side * names.length + 8;
  const svg = shape("svg", { viewBox: `0 0 ${size} ${size - side}`, role: "img", "aria-label": "Who was taken for whom", style: `max-width: ${size}px` });
  svg.append(shape("rect", { x: margin, y: margin, width: side * names.length, height: side * last, class: "field" }));
  if (told) {
    names.forEach((name, n) => {
      const middle = margin + (n + 0.5) * side, font = `font-size: ${Math.min(12, side - 1)}px`;
      if (n < last) svg.append(shape("text", { x: margin - 6, y: middle + side / 4, "text-anchor": "end", style: font }, short(name)));
      svg.append(shape("text", { transform: `translate(${middle + side / 4} ${margin - 6}) rotate(-90)`, style: font }, short(name)));
    });
  }
  for (const [row, column, count, whole] of cells) {
    const cell = shape("rect", { x: margin + column * side, y: margin + row * side, width: side, height: side,
      class: row === column ? "right" : "wrong", "fill-opacity": 0.12 + 0.88 * count / whole });
    cell.append(shape("title", {}, `${names[row]}: ${count} of ${whole} found in ${names[column]}`));
    svg.append(cell);
  }
  return element("figure", {}, element("h2", { text: "Labelled, and found in" }),
    element("p", { class: "note", text: "Rows: categories of labelled samples that were held out. Columns: where they came to lie; on the diagonal in their own. Point at a cell to read it." }), svg);
}

const BLUE = "light-dark(#2257c4, #86aefc)", GREEN = "light-dark(#1f8a5b, #6fd3a2)", ORANGE = "light-dark(#b86a00, #f0b35e)", VIOLET = "light-dark(#8a3fb0, #cf9df0)";
const counted = data.curves.classes, sure = data.calibration, confusion = data.confusion;
if (counted) {
  const lines = [["accuracy", BLUE], ["stability", GREEN], ["silhouette", ORANGE]].map(([name, colour]) =>
    ({ name, colour, points: counted.points.map((one) => [one.k].concat(one[name])) }));
  if (counted.merged?.length) lines.push({ name: "merged", colour: VIOLET, points: counted.merged });
  const peaks = Object.entries(counted.peaks || {}).map(([name, k]) => `${name} ${k}`).join(", ");
  byId("charts").append(chart("How many categories?",
    `Estimated: ${counted.best}. ${counted.range[0]} to ${counted.range[1]} cannot be told from it but for noise. Highest: ${peaks}. ` +
    "Accuracy is that of labelled samples, merged the same when the most clusters are merged two by two; bands are standard deviations over seeds.",
    lines, "number of categories"));
}
if (sure.coverage.length > 1) {
  byId("charts").append(chart("How often right, if only the surest are assigned?",
    `Measured on ${sure.held_out} labelled samples that were held out. mmmask assign abstains below a confidence of ${sure.threshold.toFixed(2)}.` +
    (sure.tested ? ` To expect of new ones: ${percent(sure.tested[0])} assigned, ${percent(sure.tested[1])} of these right.` : "") +
    (sure.learned ? ` Features had learned ${sure.learned} of these labels: of others fewer will be right.` : ""),
    [{ name: "accuracy", colour: BLUE, points: sure.coverage.map((share, n) => [share, sure.accuracy[n]]) }],
    "share of the samples that is assigned"));
}
if (confusion.length) {
  const rows = confusion.map(([given, taken, count, whole]) => element("tr", {},
    element("td", { text: given }), element("td", { text: taken }),
    element("td", { class: "number", text: `${count} of ${whole}` })));
  byId("charts").append(element("figure", {}, element("h2", { text: "Taken for another" }),
    element("p", { class: "note", text: "Labelled samples that were held out and came to lie in another category than their own." }),
    element("table", {}, element("tr", {}, element("th", { text: "labelled" }), element("th", { text: "found in" }), element("th", { class: "number", text: "samples" })), ...rows)));
}
if (data.matrix.cells.length) byId("charts").append(matrix(data.matrix));
arrange();
show();
