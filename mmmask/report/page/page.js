"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(0)} %`;

// All text of the page goes through here, as text: nothing of the data is ever read as HTML.
function element(tag, settings = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name === "text") made.textContent = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const picture = (key) => data.pictures[key] ? element("img", { src: data.pictures[key], alt: "", loading: "lazy" }) : null;
const textOf = (key) => data.texts[key] || "";
const kindOf = (category) => category.known ? "known" : "new";
const titleOf = (category) =>
  category.known || !category.words.length ? category.name : `${category.words.join(", ")}`;

function card(category) {
  const made = element("article", { class: "card", tabindex: "0", role: "button", "data-id": category.id });
  made.append(element("div", { class: "title" },
    element("span", { text: titleOf(category) }),
    element("span", { class: `kind ${kindOf(category)}`, text: kindOf(category) })));
  const id = category.known ? `id ${category.id}` : category.name;
  made.append(element("div", { class: "facts", text: `${id} · ${category.size.toLocaleString("en")} samples · sure ${percent(category.confidence)}` }));
  const level = element("i");
  level.style.width = `${100 * category.confidence}%`;
  made.append(element("div", { class: "bar" }, level));
  const shown = category.examples.map(picture).filter(Boolean).slice(0, 8);
  if (shown.length) made.append(element("div", { class: "pictures" }, ...shown));
  if (category.known && category.words.length) made.append(element("div", { class: "words", text: category.words.join(", ") }));
  const lines = category.examples.map(textOf).filter(Boolean).slice(0, 3);
  if (lines.length) made.append(element("ul", { class: "texts" }, ...lines.map((line) => element("li", { text: line }))));
  made.addEventListener("click", () => open(category));
  made.addEventListener("keydown", (event) => { if (event.key === "Enter") open(category); });
  return made;
}

function samples(keys) {
  return element("div", { class: "samples" }, ...keys.map((key) => {
    const image = picture(key);
    return element("div", { class: "sample" }, ...(image ? [image] : []),
      element("div", { text: textOf(key) }), element("small", { text: key }));
  }));
}

function open(category) {
  const parts = [
    element("h2", { text: titleOf(category) }),
    element("p", { class: "note", text: `${kindOf(category)} · id ${category.id} · ${category.name} · ${category.size.toLocaleString("en")} samples · sure ${percent(category.confidence)}` }),
  ];
  if (category.words.length) parts.push(element("p", { text: `Words that set its texts apart: ${category.words.join(", ")}` }));
  parts.push(element("h3", { text: "Most typical" }), samples(category.examples));
  if (category.doubtful.length) parts.push(element("h3", { text: "Least sure" }), samples(category.doubtful));
  byId("detail").replaceChildren(...parts);
  if (!byId("opened").open) byId("opened").showModal();
}

const wordsOf = (category) => [category.name, category.id, ...category.words, ...category.examples, ...category.doubtful,
  ...[...category.examples, ...category.doubtful].map(textOf)].join(" ").toLowerCase();
const orders = {
  size: (a, b) => b.size - a.size || a.id - b.id,
  confidence: (a, b) => a.confidence - b.confidence,
  name: (a, b) => titleOf(a).localeCompare(titleOf(b)),
};
const all = data.categories.map((category) => ({ category, card: card(category), words: wordsOf(category) }));
let kind = "all";

function show() {
  const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const visible = new Set();
  for (const one of all) {
    const fits = (kind === "all" || kind === kindOf(one.category)) && wanted.every((word) => one.words.includes(word));
    one.card.hidden = !fits;
    if (fits) visible.add(one.category.id);
  }
  byId("count").textContent = `${visible.size} of ${all.length} categories`;
  drawMap(visible);
}

function arrange() {
  const order = orders[byId("order").value];
  byId("cards").append(...[...all].sort((a, b) => order(a.category, b.category)).map((one) => one.card));
}

byId("search").addEventListener("input", show);
byId("order").addEventListener("change", arrange);
byId("close").addEventListener("click", () => byId("opened").close());
byId("opened").addEventListener("click", (event) => { if (event.target === byId("opened")) byId("opened").close(); });
for (const button of document.querySelectorAll("[data-kind]")) {
  button.addEventListener("click", () => {
    kind = button.dataset.kind;
    for (const other of document.querySelectorAll("[data-kind]")) other.setAttribute("aria-pressed", other === button);
    show();
  });
}
byId("summary").textContent = data.summary;
