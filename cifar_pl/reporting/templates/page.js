const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- One image, large, with its text. `place` is the style of a tile: where on the sheet the image is.

function show(detail, place, text) {
  one(".tile", detail).style.cssText = place;
  one(".text", detail).textContent = text;
  detail.hidden = false;
}

// ---- Walls: what is pointed to or has the focus is shown large. The keyboard stops once; arrows go on from there.

const stopOnce = tiles => tiles.forEach((tile, n) => { tile.tabIndex = n ? -1 : 0; });

for (const wall of all(".wall")) {
  const list = one("ul", wall);
  stopOnce(all(".tile", list));
  for (const event of ["pointerover", "focusin", "click"]) {
    list.addEventListener(event, ({target}) => {
      if (target.matches(".tile")) show(one(".detail", wall), target.style.cssText, target.getAttribute("aria-label"));
    });
  }
  list.addEventListener("keydown", event => {
    const tiles = all(".tile", list), second = tiles.findIndex(tile => tile.offsetTop > tiles[0].offsetTop);
    const row = second > 0 ? second : tiles.length;
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row}[event.key];
    const next = tiles[tiles.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// ---- The images of a run: image n is tile n of the sheet.

const source = one("#data"), data = source && JSON.parse(source.textContent);
const percent = p => p === null ? "n/a" : (100 * p).toFixed(1) + "%";
const images = (data?.images ?? []).map(([split, name, label, predicted, p, loss, bin], n) => {
  const where = data.splits.length > 1 ? ` (${split === "val" ? "validation" : split})` : "";
  const is = `${name}${where}: ${data.classes[label]} ${percent(loss === null ? null : Math.exp(-loss))}`;
  const verdict = label === predicted ? "right" : `taken for ${data.classes[predicted]} ${percent(p)}`;
  const place = `--column:${n % data.columns};--row:${Math.floor(n / data.columns)}`;
  return {split, label, predicted, loss, bin, place, text: `${is}, ${verdict}`};
});

// ---- Every mistake: the form and the address say which of them are shown.

if (one("#mistakes")) everyMistake(one("#mistakes"), images.slice(0, data.mistakes));

function everyMistake(section, mistakes) {
  const CHUNK = 120; // images at a time, so that a phone scrolls quickly
  const form = one("form", section), list = one("ul", section), button = one(".more", section);
  form.reset(); // a browser may keep what was chosen before
  const values = () => Object.fromEntries(new FormData(form)), usual = values();
  const counts = new Map(); // mistakes by address
  let waiting = [];

  // #cat-dog, #cat-, #-dog, #cat-dog&split=val&bin=14&sort=loss; a "-" in a name is %2D there.
  function address(chosen) {
    const [label, predicted] = ["true", "predicted"].map(key =>
      encodeURIComponent(data.classes[chosen[key]] ?? "").replaceAll("-", "%2D"));
    const others = ["split", "bin", "sort"].filter(key => String(chosen[key] ?? usual[key]) !== usual[key]);
    return `#${label}-${predicted}` + others.map(key => `&${key}=${chosen[key]}`).join("");
  }

  // Put what the address says into the form; false if it is another kind of address.
  function choose() {
    const [pair, ...others] = location.hash.slice(1).split("&");
    let names;
    try { names = pair.split("-").map(decodeURIComponent); } catch { return false; }
    const classes = names.map(name => name && data.classes.indexOf(name));
    if (names.length !== 2 || classes.includes(-1)) return false;
    form.reset();
    const chosen = others.map(other => other.split("=")).filter(([key]) => ["split", "bin", "sort"].includes(key));
    for (const [key, value] of [["true", classes[0]], ["predicted", classes[1]], ...chosen]) {
      const option = all("option", form.elements[key]).find(option => option.value === String(value));
      if (option) option.selected = true;
    }
    return true;
  }

  function apply() {
    const chosen = values(), fits = (key, value) => ["", "any", String(value)].includes(chosen[key]);
    waiting = mistakes.filter(image => fits("split", image.split) && fits("true", image.label)
      && fits("predicted", image.predicted) && fits("bin", image.bin));
    if (chosen.sort === "loss") waiting.sort((a, b) => b.loss - a.loss);
    const cut = data.total > mistakes.length;
    one("output", form).textContent = `${waiting.length} of ${mistakes.length} `
      + (cut ? `shown mistakes; there are ${data.total} in all` : "mistakes");
    one(".detail", section).hidden = true;
    list.replaceChildren();
    more();
    stopOnce(all(".tile", list));
  }

  function more() { // the first of these tiles
    const tiles = waiting.splice(0, CHUNK).map(image => {
      const tile = document.createElement("button");
      Object.assign(tile, {type: "button", className: "tile", tabIndex: -1});
      tile.setAttribute("aria-label", image.text);
      tile.style.cssText = image.place;
      list.appendChild(document.createElement("li")).append(tile);
      return tile;
    });
    button.hidden = !waiting.length;
    button.textContent = `Show ${Math.min(CHUNK, waiting.length)} more of ${waiting.length}`;
    return tiles[0];
  }

  // Make a link of what stands for some mistakes; their number.
  function link(element, chosen) {
    const number = counts.get(address(chosen)) ?? 0, anchor = document.createElement("a");
    if (!number) return number;
    anchor.href = address(chosen);
    anchor.addEventListener("click", () => { if (anchor.hash === location.hash) open(); }); // once more
    anchor.append(...element.childNodes);
    element.append(anchor);
    return number;
  }

  function open() {
    if (!choose()) return;
    apply();
    one("h2", section).focus({preventScroll: true}); // the keyboard goes on from here
    section.scrollIntoView();
  }

  for (const {split, label, predicted, bin} of mistakes) {
    for (const kind of [{true: label}, {predicted}, {true: label, predicted}, {bin}]) {
      const key = address({split, ...kind});
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  for (const pair of all("span[data-split]")) link(pair, pair.dataset);
  for (const table of all("table[data-split]")) {
    const {split} = table.dataset, matrix = table.matches(".matrix");
    all("tbody tr", table).forEach((row, label) => all("td", row).forEach((cell, column) => {
      if (matrix) link(cell, {split, true: label, predicted: column});
      else if (column < 2) link(cell, {split, [["true", "predicted"][column]]: label}); // accuracy, precision
    }));
  }
  for (const {value, text} of one("#bins") ? all("[name=bin] option[value]", form).reverse() : []) {
    const place = document.createElement("span");
    place.textContent = text;
    const number = link(place, {split: "test", bin: value});
    if (number) one("#bins").append(place, ` (${number}) `);
  }
  form.addEventListener("change", () => { history.replaceState(null, "", address(values())); apply(); });
  button.addEventListener("click", () => more().focus());
  addEventListener("hashchange", open);
  apply();
  open();
}

// ---- The map of the test set.

if (one("#map")) map(one("#map"), data.map.map(([n, x, y]) => ({x, y: 1 - y, ...images[n]})));

function map(section, points) {
  const REACH = 24, MARGIN = 8; // pixels
  const canvas = one("canvas", section), detail = one(".detail", section), select = one("select", section);
  const wrong = point => point.label !== point.predicted;
  const inOrder = [...points.filter(point => !wrong(point)), ...points.filter(wrong)]; // mistakes above the others
  const nearest = (found, far) => found.reduce((best, point) => !best || far(point) < far(best) ? point : best, null);
  let side = 0, at = points[0];
  select.value = "";

  const on = value => MARGIN + value * (side - 2 * MARGIN);

  function draw() {
    side = canvas.clientWidth;
    canvas.width = canvas.height = side * devicePixelRatio;
    const pen = canvas.getContext("2d"), size = Math.max(1.5, side / 220);
    const circle = ({x, y}, radius) => { pen.beginPath(); pen.arc(on(x), on(y), radius, 0, 7); };
    pen.scale(devicePixelRatio, devicePixelRatio);
    for (const point of inOrder) {
      const out = ["", String(point.label), String(point.predicted)].includes(select.value);
      pen.globalAlpha = out ? 0.85 : 0.1;
      pen.fillStyle = data.colors[point.label];
      circle(point, size);
      pen.fill();
      if (!wrong(point)) continue;
      pen.strokeStyle = data.colors[point.predicted];
      circle(point, size + 1.8);
      pen.stroke();
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = getComputedStyle(canvas).color;
    circle(at, size + 5);
    pen.stroke();
  }

  function go(point) {
    if (!point) return;
    at = point;
    show(detail, at.place, at.text);
    draw();
  }

  function pointed({offsetX, offsetY}) {
    const far = ({x, y}) => Math.hypot(on(x) - offsetX, on(y) - offsetY);
    go(nearest(points.filter(point => far(point) < REACH), far));
  }

  canvas.addEventListener("pointermove", pointed);
  canvas.addEventListener("pointerdown", pointed);
  canvas.addEventListener("keydown", event => {
    const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    const ahead = ({x, y}) => (x - at.x) * dx + (y - at.y) * dy;
    const aside = ({x, y}) => Math.abs((x - at.x) * dy) + Math.abs((y - at.y) * dx);
    go(nearest(points.filter(point => ahead(point) > aside(point)), point => ahead(point) + aside(point)));
  });
  select.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas); // draws now, too
  go(at);
  detail.setAttribute("aria-live", "polite"); // from now on
}
