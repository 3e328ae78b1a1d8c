"use strict";
// Comforts only: everything is readable without this script.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Sortable tables: the header cells become buttons.
  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    const value = (row, column) => {
      const cell = row.cells[column];
      const raw = cell.dataset.value ?? cell.textContent.trim();
      const figure = Number(raw.replaceAll(",", "").replace("−", "-"));
      return raw === "" || raw === "–" ? -Infinity : Number.isNaN(figure) ? raw : figure;
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = (a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          if (typeof x === "number" && typeof y === "number") return x - y;
          return String(x).localeCompare(String(y), undefined, { numeric: true });
        };
        body.append(...[...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b))));
      });
    });
  }

  // Completion browser: search and open all.
  const unfolder = (button, items, word) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const open = items.some((item) => !item.open);
      for (const item of items) item.open = open;
      button.textContent = `${open ? "Close" : "Open"} all${word}`;
    });
  };
  for (const browser of all(".browser")) {
    const samples = all(".sample", browser);
    const search = browser.querySelector("input");
    const count = browser.querySelector(".count");
    const texts = samples.map((sample) => sample.textContent.toLowerCase().normalize());
    search.hidden = false;
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().normalize().split(/\s+/).filter(Boolean);
      let shown = 0;
      samples.forEach((sample, i) => {
        sample.hidden = !words.every((word) => texts[i].includes(word));
        shown += sample.hidden ? 0 : 1;
      });
      const rest = browser.querySelector(".rest");
      if (rest && words.length) rest.open = true;
      count.textContent = shown;
    });
    unfolder(browser.querySelector(".unfold"), all("details", browser), "");
  }
  const stages = all("details.stage");
  for (const button of all(".unfold-stages")) unfolder(button, stages, " stages");
  const follow = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", follow);
  follow();

  // Curves: the value under the pointer, read back from the line's own coordinates.
  const shown = (v) => (v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e6) ? Number(v.toPrecision(4)).toLocaleString("en") : v.toExponential(2));
  for (const area of all("svg.plot .area")) {
    const readout = area.closest("figure").querySelector(".readout");
    const [x0, x1, y0, y1] = area.dataset.range.split(" ").map(Number);
    const [width, height] = [Number(area.getAttribute("width")), Number(area.getAttribute("height"))];
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cursor.setAttribute("class", "cursor");
    let lines = null;
    const parse = (path) => path.getAttribute("d").match(/[\d.-]+ [\d.-]+/g).map((pair) => pair.split(" ").map(Number));
    area.addEventListener("pointermove", (event) => {
      lines ??= all("path.line", area).map((path) => parse(path));
      const box = area.ownerSVGElement.getBoundingClientRect();
      const view = area.ownerSVGElement.viewBox.baseVal;
      const x = ((event.clientX - box.left) * view.width) / box.width - Number(area.getAttribute("x"));
      const near = lines.map((points) => points.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best)));
      const at = near.reduce((best, p) => (Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best))[0];
      cursor.setAttribute("d", `M${at} 0V${height}`);
      if (!cursor.parentNode) area.append(cursor);
      const values = near.map((p) => shown(y1 - (p[1] / height) * (y1 - y0)));
      const place = x0 + (at / width) * (x1 - x0);
      const name = area.dataset.x;
      readout.textContent = `${name} ${shown(name === "step" ? Math.round(place) : place)}: ${values.join(" · ")}`;
    });
    area.addEventListener("pointerleave", () => {
      cursor.remove();
      readout.textContent = "";
    });
  }

  // Print everything but the closed completions.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open]):not(.sample):not(.rest)");
    for (const item of closed) item.open = true;
  });
  addEventListener("afterprint", () => {
    for (const item of closed) item.open = false;
  });
})();
