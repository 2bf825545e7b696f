// The samples on a plane: neighbours in the space of features are neighbours here; a click opens the category.
const points = data.map.points; // [x, y, category place, key]
const colour = (place) => `hsl(${(place * 137.5) % 360} 62% ${matchMedia("(prefers-color-scheme: dark)").matches ? 62 : 45}%)`;
let seen = null;

function place(canvas) {
  const margin = 18;
  return points.map(([x, y]) => [margin + x * (canvas.clientWidth - 2 * margin), margin + y * (canvas.clientHeight - 2 * margin)]);
}

function drawMap(visible) {
  if (visible) seen = visible;
  if (!points.length) return;
  const canvas = byId("map"), density = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * density;
  canvas.height = canvas.clientHeight * density;
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const at = place(canvas);
  for (const bright of [false, true]) {
    points.forEach(([, , category], n) => {
      const shown = seen.has(data.categories[category].id);
      if (shown !== bright) return;
      pen.globalAlpha = shown ? 0.9 : 0.12;
      pen.beginPath();
      pen.arc(at[n][0], at[n][1], 3, 0, 7);
      if (data.categories[category].known) { pen.fillStyle = colour(category); pen.fill(); }
      else { pen.strokeStyle = colour(category); pen.lineWidth = 1.6; pen.stroke(); }
    });
  }
}

function nearestPoint(event) {
  const canvas = byId("map"), box = canvas.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 100;
  place(canvas).forEach(([a, b], n) => {
    const gap = (a - x) ** 2 + (b - y) ** 2;
    if (gap < least && seen.has(data.categories[points[n][2]].id)) { best = n; least = gap; }
  });
  return { best, x, y };
}

if (points.length) {
  byId("map-part").hidden = false;
  byId("map-note").textContent = data.map.note;
  byId("map").addEventListener("mousemove", (event) => {
    const { best, x, y } = nearestPoint(event), tip = byId("tip");
    tip.hidden = best < 0;
    if (best < 0) return;
    const [, , category, key] = points[best], image = picture(key);
    tip.replaceChildren(...(image ? [image] : []), element("b", { text: titleOf(data.categories[category]) }),
      element("div", { text: textOf(key) }), element("small", { text: key }));
    tip.style.left = `${Math.min(x + 14, byId("map").clientWidth - 250)}px`;
    tip.style.top = `${y + 14}px`;
  });
  byId("map").addEventListener("mouseleave", () => { byId("tip").hidden = true; });
  byId("map").addEventListener("click", (event) => {
    const { best } = nearestPoint(event);
    if (best >= 0) open(data.categories[points[best][2]]);
  });
  addEventListener("resize", () => drawMap());
}
