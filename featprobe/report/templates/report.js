"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  // What is shown stands in the address after "#", so that a view can be kept and sent; a plain "#name" is a place.
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const keep = (key, value) => {
    if (value) state.set(key, value); else state.delete(key);
    history.replaceState(null, "", `#${state}`);
  };

  // Filters: an unticked box hides the rows of its backbone or mode, or the section of its data set.
  const filters = document.getElementById("filters");
  const hidden = (kind) => new Set(all(`[data-filter="${kind}"] input:not(:checked)`, filters).map((box) => box.value));
  const apply = () => {
    const off = { backbone: hidden("backbone"), mode: hidden("mode") };
    const gone = (system) => {
      const [backbone, mode] = system.split("|").map(decodeURIComponent);
      return off.backbone.has(backbone) || off.mode.has(mode);
    };
    all("tr[data-systems]").forEach((row) => { row.hidden = row.dataset.systems.split(" ").some(gone); });
    const sets = hidden("dataset");
    all("[data-dataset]").forEach((part) => { part.hidden = sets.has(part.dataset.dataset); });
    const rows = all("table.systems tr[data-systems]");
    const left = rows.filter((row) => !row.hidden && !row.closest("[data-dataset][hidden]")).length;
    filters.querySelector(".count").textContent = left < rows.length ? `(${left} of ${rows.length} rows shown)` : "";
  };
  if (filters) {
    filters.hidden = false;
    all("[data-filter]", filters).forEach((group) => {
      const kind = group.dataset.filter;
      const off = new Set(state.getAll(`without-${kind}`));
      all("input", group).forEach((box) => { box.checked = !off.has(box.value); });
      if (off.size) filters.open = true;
      group.addEventListener("change", () => {
        state.delete(`without-${kind}`);
        hidden(kind).forEach((value) => state.append(`without-${kind}`, value));
        keep("", "");
        apply();
      });
    });
    filters.querySelector(".all").addEventListener("click", () => {
      all("input", filters).forEach((box) => { box.checked = true; });
      all("[data-filter]", filters).forEach((group) => state.delete(`without-${group.dataset.filter}`));
      keep("", "");
      apply();
    });
    apply();
  }

  // Sorting: numbers by size, what is no number last; a second press turns the order round.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.querySelector(".value") || cell).textContent.replace("●", "").replace("can't be told apart from the best:", "");
    const plain = text.trim().replace("\u2212", "-").replace(/^<|,/g, "");
    return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : plain;
  };
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b);
  };
  const sort = (table, column, way) => {
    const sign = way === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => (typeof a === typeof b ? sign : 1) * order(a, b));
    body.append(...rows.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, i) => head.setAttribute("aria-sort", i === column ? way : "none"));
  };
  all("table.sortable").forEach((table, number) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", { type: "button", className: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        // Values are read from the best down; low is the good end where the head says so, and for p and names.
        const low = head.matches(".name") || /low is good|^p\b/.test(head.textContent);
        const first = low ? "ascending" : "descending";
        const second = low ? "descending" : "ascending";
        const way = head.getAttribute("aria-sort") === first ? second : first;
        sort(table, column, way);
        keep("sort", `${number}.${column}.${way}`);
      });
    });
    const [which, column, way] = (state.get("sort") || "").split(".");
    if (Number(which) === number && table.tHead.rows[0].cells[Number(column)]) sort(table, Number(column), way);
  });

  // What a system is: its fingerprint and seed, on hover, on focus and at a press; Escape puts it away.
  const tip = make("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  const away = () => { tip.hidden = true; };
  all(".who").forEach((button) => {
    const text = button.title;
    button.removeAttribute("title");
    button.setAttribute("aria-describedby", "tip");
    const tell = () => {
      tip.textContent = text;
      tip.hidden = false;
      const place = button.getBoundingClientRect();
      const below = place.bottom + 6 + tip.offsetHeight < innerHeight;
      tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${below ? place.bottom + 6 : Math.max(8, place.top - tip.offsetHeight - 6)}px`;
    };
    ["mouseenter", "focus", "click"].forEach((kind) => button.addEventListener(kind, tell));
    ["mouseleave", "blur"].forEach((kind) => button.addEventListener(kind, away));
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") away(); });
  addEventListener("scroll", away, { capture: true, passive: true });

  // Images: a confusion matrix of buttons, each with the pictures of its rows.
  all(".gallery").forEach((gallery) => {
    const data = JSON.parse(gallery.querySelector("script").textContent);
    const choice = gallery.querySelector("select");
    const frame = gallery.querySelector(".wide");
    const shown = gallery.querySelector(".shown");
    data.systems.forEach((system, i) => choice.append(make("option", { value: i }, system.name)));
    const show = (number, truth, said) => {
      const system = data.systems[number];
      const cell = system.cells[`${truth},${said}`] || [];
      const count = system.counts[truth][said];
      const [is, called] = [data.classes[truth], data.classes[said]];
      const words = truth === said ? `${is}, and called so` : `${is}, called ${called}`;
      const list = make("ul");
      cell.forEach(([picture, percent, own]) => {
        const odds = truth === said ? `${percent} %` : `${percent} %, true class ${own} %`;
        const image = make("img", { src: `data:image/png;base64,${data.thumbs[picture]}`, alt: `${data.ids[picture]}: ${words}`, title: data.ids[picture], width: 96, height: 96 });
        list.append(make("li", {}, image, make("span", {}, odds)));
      });
      const some = cell.length < count ? `: ${cell.length} of ${count}, the surest and the least sure` : `: ${count}`;
      shown.replaceChildren(make("p", { className: "caption" }, `${words}${some}`), list);
      all("button", frame).forEach((button) => button.setAttribute("aria-pressed", button.dataset.cell === `${truth},${said}`));
      keep("images", [gallery.id, number, truth, said].join("."));
    };
    const draw = () => {
      const number = Number(choice.value);
      const table = make("table", { className: "cells" });
      table.append(make("caption", {}, "Rows: true class. Columns: what the system called it."));
      const head = make("tr", {}, make("td"));
      data.classes.forEach((name) => head.append(make("th", { scope: "col" }, name)));
      table.append(make("thead", {}, head));
      const body = make("tbody");
      data.systems[number].counts.forEach((counts, truth) => {
        const row = make("tr", {}, make("th", { scope: "row", className: "name" }, data.classes[truth]));
        const total = counts.reduce((a, b) => a + b, 0);
        counts.forEach((count, said) => {
          const cell = make("td", { className: truth === said ? "right" : "" });
          if (count) {
            const words = truth === said ? `${data.classes[truth]}, called so` : `${data.classes[truth]} called ${data.classes[said]}`;
            const button = make("button", { type: "button" }, String(count));
            button.dataset.cell = `${truth},${said}`;
            button.setAttribute("aria-label", `${count} of ${total}: ${words}. Show images`);
            button.setAttribute("aria-pressed", "false");
            button.addEventListener("click", () => show(number, truth, said));
            cell.append(button);
          } else cell.append("0");
          row.append(cell);
        });
        body.append(row);
      });
      table.append(body);
      frame.replaceChildren(table);
      shown.replaceChildren();
    };
    choice.addEventListener("change", () => { draw(); keep("images", ""); });
    gallery.hidden = false;
    const [id, number, truth, said] = (state.get("images") || "").split(".");
    if (id === gallery.id && data.systems[Number(number)]) choice.value = number;
    draw();
    if (id === gallery.id && data.systems[Number(number)]?.counts[Number(truth)]?.[Number(said)]) show(Number(number), Number(truth), Number(said));
  });

  addEventListener("beforeprint", () => all("details:not(.filters)").forEach((part) => { part.open = true; }));
})();
