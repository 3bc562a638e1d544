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
