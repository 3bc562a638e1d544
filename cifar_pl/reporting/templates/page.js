const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- A large image with its text: `place` is the style of a tile, which says where on the sheet the image is.

function show(detail, place, text) {
  one(".tile", detail).style.cssText = place;
  one(".text", detail).textContent = text;
  detail.hidden = false;
}

// ---- Walls: the keyboard enters a wall once, and arrows go from image to image.

function focusable(tiles) {
  tiles.forEach((tile, n) => { tile.tabIndex = n ? -1 : 0; });
}

for (const wall of all(".wall")) {
  const list = one("ul", wall);
  focusable(all(".tile", list));
  for (const event of ["pointerover", "focusin", "click"]) {
    list.addEventListener(event, ({target}) => {
      if (target.matches(".tile")) show(one(".detail", wall), target.style.cssText, target.ariaLabel);
    });
  }
  list.addEventListener("keydown", event => {
    const tiles = all(".tile", list), below = tiles.findIndex(tile => tile.offsetTop > tiles[0].offsetTop);
    const across = below > 0 ? below : tiles.length;
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across}[event.key];
    const next = tiles[tiles.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// ---- Every mistake: the form and the address say which of them are shown.

const CHUNK = 120; // images at a time, so that a phone scrolls quickly
const source = one("#data");
const data = source && JSON.parse(source.textContent);
const percent = p => p === null ? "n/a" : (100 * p).toFixed(1) + "%";

const images = (data?.images ?? []).map(([split, name, label, predicted, p, loss, bin], n) => {
  const more = data.splits.length > 1 ? ` (${split === "val" ? "validation" : split})` : "";
  const first = `${name}${more}: ${data.classes[label]} ${percent(loss === null ? null : Math.exp(-loss))}`;
  return {
    split, label, predicted, loss, bin,
    text: label === predicted ? `${first}, right` : `${first}, taken for ${data.classes[predicted]} ${percent(p)}`,
    place: `--column:${n % data.columns};--row:${Math.floor(n / data.columns)}`,
  };
});

function filtered(section) {
  const mistakes = images.slice(0, data.mistakes);
  const form = one("form", section), list = one("ul", section), button = one(".more", section);
  const fields = Object.fromEntries(all("select", form).map(select => [select.name, select]));
  let waiting = [];

  function more() {
    const tiles = waiting.splice(0, CHUNK).map(image => {
      const tile = document.createElement("button");
      Object.assign(tile, {type: "button", className: "tile", ariaLabel: image.text, tabIndex: -1});
      tile.style.cssText = image.place;
      list.appendChild(document.createElement("li")).append(tile);
      return tile;
    });
    button.hidden = !waiting.length;
    button.textContent = `Show ${Math.min(CHUNK, waiting.length)} more of ${waiting.length}`;
    return tiles[0];
  }

  function apply() {
    const wanted = (key, value) => ["", "any", String(value)].includes(fields[key].value);
    waiting = mistakes.filter(image => wanted("split", image.split) && wanted("true", image.label)
      && wanted("predicted", image.predicted) && wanted("bin", image.bin));
    if (fields.sort.value === "loss") waiting.sort((a, b) => b.loss - a.loss);
    one("output", form).textContent = `${waiting.length} of ${mistakes.length} mistakes`;
    one(".detail", section).hidden = true;
    list.replaceChildren();
    more();
    focusable(all(".tile", list));
  }

  // #cat-dog, #cat-, #-dog, #cat-dog&split=val&bin=14&sort=loss; a "-" in a name is %2D there.
  function address() {
    const name = field => field.value && encodeURIComponent(data.classes[field.value]).replaceAll("-", "%2D");
    const others = ["split", "bin", "sort"].map(key => fields[key]).filter(field => field.selectedIndex);
    return `#${name(fields.true)}-${name(fields.predicted)}` + others.map(field => `&${field.name}=${field.value}`).join("");
  }

  function choose() { // whether the address is one of these
    const [pair, ...others] = location.hash.slice(1).split("&");
    let names;
    try { names = pair.split("-").map(decodeURIComponent); } catch { return false; }
    const chosen = names.map(name => name && data.classes.indexOf(name));
    if (names.length !== 2 || chosen.includes(-1)) return false;
    form.reset();
    [fields.true.value, fields.predicted.value] = chosen;
    for (const [key, value] of others.map(other => other.split("="))) {
      const field = ["split", "bin", "sort"].includes(key) ? fields[key] : null;
      if (field && all("option", field).some(option => option.value === value)) field.value = value;
    }
    return true;
  }

  function open() {
    if (!choose()) return;
    apply();
    one("h2", section).focus({preventScroll: true}); // the keyboard goes on from here
    section.scrollIntoView();
  }

  form.reset(); // a browser may keep what was chosen before
  form.addEventListener("change", () => { history.replaceState(null, "", address()); apply(); });
  button.addEventListener("click", () => more().focus());
  addEventListener("hashchange", open);
  apply();
  open();
}

if (one("#mistakes")) filtered(one("#mistakes"));

// ---- The map of the test set.

function drawn(section) {
  const canvas = one("canvas", section), detail = one(".detail", section), select = one("select", section);
  const points = data.map.map(([n, x, y]) => ({x, y, ...images[n]}));
  const REACH = 24, MARGIN = 8; // pixels
  let side = 0, at = points[0];
  const on = point => [point.x, 1 - point.y].map(value => MARGIN + value * (side - 2 * MARGIN));
  select.value = "";

  function draw() {
    side = canvas.clientWidth;
    canvas.width = canvas.height = side * devicePixelRatio;
    const pen = canvas.getContext("2d"), size = Math.max(1.5, side / 220);
    pen.scale(devicePixelRatio, devicePixelRatio);
    const circle = (point, radius) => { pen.beginPath(); pen.arc(...on(point), radius, 0, 7); };
    for (const wrong of [false, true]) { // mistakes above the others
      for (const point of points.filter(point => (point.label !== point.predicted) === wrong)) {
        const of = [point.label, point.predicted].map(String);
        pen.globalAlpha = select.value === "" || of.includes(select.value) ? 0.85 : 0.1;
        pen.fillStyle = data.colors[point.label];
        circle(point, size);
        pen.fill();
        if (!wrong) continue;
        pen.strokeStyle = data.colors[point.predicted];
        circle(point, size + 1.8);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = getComputedStyle(canvas).color;
    circle(at, size + 5);
    pen.stroke();
  }

  function go(point) {
    if (!point || point === at) return;
    at = point;
    show(detail, point.place, point.text);
    draw();
  }

  const nearest = (found, far) => found.reduce((best, point) => !best || far(point) < far(best) ? point : best, null);

  function point({offsetX, offsetY}) {
    const far = point => { const [x, y] = on(point); return Math.hypot(x - offsetX, y - offsetY); };
    go(nearest(points.filter(point => far(point) < REACH), far));
  }

  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("keydown", event => {
    const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    const ahead = point => (point.x - at.x) * dx + (point.y - at.y) * dy;
    const aside = point => Math.abs((point.x - at.x) * dy) + Math.abs((point.y - at.y) * dx);
    go(nearest(points.filter(point => ahead(point) > aside(point)), point => ahead(point) + aside(point)));
  });
  select.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas); // draws now, too
  show(detail, at.place, at.text);
  detail.setAttribute("aria-live", "polite");
}

if (one("#map")) drawn(one("#map"));
