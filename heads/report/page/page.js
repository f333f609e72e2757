"use strict";
(() => {
  const data = document.getElementById("map-data");
  if (!data) return;
  const facts = JSON.parse(data.textContent);
  const $ = (name) => document.getElementById("map-" + name);
  const canvas = $("points"), over = $("over"), tip = $("tip"), atlas = $("atlas");
  const names = facts.names.split("\n"), labels = facts.labels.split("\n"), count = names.length;
  const words = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), found = new Uint16Array(bytes.length / 2);
    for (let i = 0; i < found.length; i++) found[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    return found;
  };
  facts.layouts.forEach((one) => {
    one.places = words(one.places);
    one.size = [0, 1].map((axis) => {
      let low = 65535, high = 0;
      for (let i = axis; i < one.places.length; i += 2) { low = Math.min(low, one.places[i]); high = Math.max(high, one.places[i]); }
      return Math.max(high - low, 1);
    });
  });
  facts.colourings.forEach((one) => (one.codes = words(one.codes)));

  const TILE = 24, ACROSS = 64, SHAPES = 8, MARGIN = 18;
  let layout = facts.layouts[0], colouring = facts.colourings[0], only = -1;
  let zoom = 1, left = 0, top = 0, wide = 0, high = 0, ratio = 1, waiting = false;
  let current = -1, picked = new Set(), lasso = null, grip = null;
  const xs = new Float32Array(count), ys = new Float32Array(count);

  // A code's mark: its colour and its shape together; quiet ones are small grey dots.
  const style = () => getComputedStyle(document.documentElement);
  const mark = (context, code, x, y, size, colours) => {
    const quiet = colouring.quiet.includes(code), loud = colouring.labels.map((_, i) => i).filter((i) => !colouring.quiet.includes(i));
    const place = Math.max(loud.indexOf(code), 0), shape = quiet ? 0 : (place + Math.floor(place / 8)) % SHAPES;
    const a = quiet ? size * 0.7 : size;
    context.fillStyle = quiet ? colours.quiet : colours.all[place % 8];
    context.strokeStyle = colours.paper;
    context.beginPath();
    const lines = (...points) => points.forEach(([u, v], i) => context[i ? "lineTo" : "moveTo"](x + a * u, y + a * v));
    const cross = (turn) => {
      const c = Math.cos(turn), s = Math.sin(turn), b = 0.4, l = 1.15;
      lines(...[[-b, -l], [b, -l], [b, -b], [l, -b], [l, b], [b, b], [b, l], [-b, l], [-b, b], [-l, b], [-l, -b], [-b, -b]]
        .map(([u, v]) => [u * c - v * s, u * s + v * c]));
    };
    if (shape === 0) context.arc(x, y, a, 0, 7);
    else if (shape === 1) lines([-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]);
    else if (shape === 2) lines([0, -1.1], [1.1, 0.8], [-1.1, 0.8]);
    else if (shape === 3) lines([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
    else if (shape === 4) lines([0, 1.1], [1.1, -0.8], [-1.1, -0.8]);
    else if (shape === 5) cross(0);
    else if (shape === 6) cross(Math.PI / 4);
    else lines(...Array.from({ length: 10 }, (_, i) => {
      const r = i % 2 ? 0.55 : 1.3, t = (i * Math.PI) / 5 - Math.PI / 2;
      return [r * Math.cos(t), r * Math.sin(t)];
    }));
    context.closePath();
    context.fill();
    context.lineWidth = a > 3 ? 0.8 : 0.4;
    context.stroke();
  };
  const colours = () => {
    const read = style(), all = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => read.getPropertyValue("--s" + i).trim());
    return { all, quiet: read.getPropertyValue("--quiet").trim(), paper: read.getPropertyValue("--paper").trim(), ink: read.getPropertyValue("--ink").trim() };
  };

  // One small picture of each mark, drawn once; points are copies of it.
  let stamps = [], known = null;
  const size = () => (count > 6000 ? 2.4 : count > 1500 ? 3.4 : 4.6) * (wide < 500 ? 0.75 : 1) * Math.min(1 + Math.log2(zoom) / 4, 2);
  const makeStamps = () => {
    known = colours();
    const a = size() * ratio, side = Math.ceil(a * 3) + 2;
    stamps = colouring.labels.map((_, code) => {
      const stamp = document.createElement("canvas");
      stamp.width = stamp.height = side;
      mark(stamp.getContext("2d"), code, side / 2, side / 2, a, known);
      return stamp;
    });
  };
  const place = () => {
    const scale = Math.min((wide - 2 * MARGIN) / layout.size[0], (high - 2 * MARGIN) / layout.size[1]) * zoom;
    for (let i = 0; i < count; i++) {
      xs[i] = wide / 2 + (layout.places[2 * i] - 32767.5) * scale + left;
      ys[i] = high / 2 + (layout.places[2 * i + 1] - 32767.5) * scale + top;
    }
  };
  const order = () => {
    const quiet = new Set(colouring.quiet), first = [], last = [];
    for (let i = 0; i < count; i++) (quiet.has(colouring.codes[i]) ? first : last).push(i);
    return first.concat(last);
  };
  let sequence = order();
  const draw = () => {
    waiting = false;
    const context = canvas.getContext("2d"), half = stamps.length ? stamps[0].width / 2 : 0;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const codes = colouring.codes, w = canvas.width, h = canvas.height;
    for (const faint of [true, false]) {
      context.globalAlpha = faint ? 0.14 : 1;
      if (faint && only < 0) continue;
      for (const i of sequence) {
        const code = codes[i];
        if (only >= 0 && (code === only) === faint) continue;
        const x = xs[i] * ratio - half, y = ys[i] * ratio - half;
        if (x > -40 && y > -40 && x < w && y < h) context.drawImage(stamps[code], Math.round(x), Math.round(y));
      }
    }
    context.globalAlpha = 1;
    drawOver();
  };
  const drawOver = () => {
    const context = over.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, high);
    context.strokeStyle = known.ink;
    context.lineWidth = 1.1;
    context.beginPath();
    for (const i of picked) { context.moveTo(xs[i] + size() + 3, ys[i]); context.arc(xs[i], ys[i], size() + 3, 0, 7); }
    context.stroke();
    if (current >= 0) { context.lineWidth = 2.5; context.beginPath(); context.arc(xs[current], ys[current], size() + 5, 0, 7); context.stroke(); }
    if (lasso && lasso.length > 1) {
      context.setLineDash([5, 4]);
      context.beginPath();
      lasso.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x, y));
      context.stroke();
      context.setLineDash([]);
    }
  };
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const moved = () => { place(); makeStamps(); soon(); };
  const resize = () => {
    const box = canvas.getBoundingClientRect();
    wide = box.width; high = box.height; ratio = window.devicePixelRatio || 1;
    for (const one of [canvas, over]) { one.width = Math.round(wide * ratio); one.height = Math.round(high * ratio); }
    moved();
  };
  const zoomBy = (factor, x = wide / 2, y = high / 2) => {
    const to = Math.min(Math.max(zoom * factor, 1), 60), by = to / zoom;
    left = (left + wide / 2 - x) * by + x - wide / 2;
    top = (top + high / 2 - y) * by + y - high / 2;
    zoom = to;
    if (zoom === 1) left = top = 0;
    moved();
  };

  const picture = (i, side) => {
    const box = document.createElement("div");
    box.className = "view";
    const name = facts.pictures[i], kept = name && document.getElementById(name);
    if (kept) {
      const w = kept.getAttribute("width"), h = kept.getAttribute("height");
      const image = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      image.setAttribute("viewBox", `0 0 ${w} ${h}`);
      image.setAttribute("class", "pic");
      image.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "use")));
      image.firstChild.setAttribute("href", "#" + name);
      box.append(image);
    } else if (atlas) {
      const tile = document.createElement("canvas");
      tile.width = tile.height = side;
      tile.getContext("2d").drawImage(atlas, (i % ACROSS) * TILE, Math.floor(i / ACROSS) * TILE, TILE, TILE, 0, 0, side, side);
      box.append(tile);
    }
    return box.childNodes.length ? box : null;
  };
  const told = (i) => facts.colourings.map((one) => `${one.name}: ${one.labels[one.codes[i]]}`).join("; ");
  const show = (i) => {
    if (i === current) return;
    current = i;
    drawOver();
    tip.hidden = i < 0;
    if (i < 0) return;
    const title = document.createElement("b"), rest = document.createElement("span");
    title.textContent = names[i];
    rest.textContent = told(i);
    tip.replaceChildren(...[picture(i, 130), title, rest].filter(Boolean));
    const x = xs[i] + 14 + tip.offsetWidth > wide ? xs[i] - 14 - tip.offsetWidth : xs[i] + 14;
    tip.style.left = Math.min(Math.max(x, 0), wide - tip.offsetWidth) + "px";
    tip.style.top = Math.min(Math.max(ys[i] - tip.offsetHeight / 2, 0), Math.max(high - tip.offsetHeight, 0)) + "px";
  };
  const nearest = (x, y, reach) => {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      if (only >= 0 && colouring.codes[i] !== only) continue;
      const d = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  };
  const inside = (x, y, line) => {
    let found = false;
    for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
      const [a, b] = line[i], [c, d] = line[j];
      if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) found = !found;
    }
    return found;
  };
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const tool = () => document.querySelector("input[name=map-tool]:checked").value;

  const report = () => {
    const some = [...picked].sort((a, b) => a - b);
    $("picked").hidden = !some.length;
    $("count").textContent = some.length === 1 ? "1 image selected" : `${some.length} images selected`;
    $("list").replaceChildren(...some.slice(0, 60).map((i) => {
      const item = document.createElement("li"), name = document.createElement("span");
      name.textContent = names[i];
      item.append(...[picture(i, 64), name].filter(Boolean));
      return item;
    }));
    drawOver();
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    if (tool() === "move") grip = [event.clientX - left, event.clientY - top];
    else lasso = [at(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (grip) { left = event.clientX - grip[0]; top = event.clientY - grip[1]; place(); soon(); return; }
    if (lasso) { lasso.push(at(event)); drawOver(); return; }
    show(nearest(...at(event), 14));
  });
  const finish = (event) => {
    grip = null;
    if (!lasso) return;
    const line = lasso;
    lasso = null;
    const [xLow, xHigh] = [Math.min(...line.map((p) => p[0])), Math.max(...line.map((p) => p[0]))];
    if (line.length > 3 && xHigh - xLow > 4) {
      if (!event.shiftKey) picked = new Set();
      for (let i = 0; i < count; i++) {
        if ((only < 0 || colouring.codes[i] === only) && inside(xs[i], ys[i], line)) picked.add(i);
      }
    } else {
      show(nearest(...at(event), 18));
    }
    report();
  };
  canvas.addEventListener("pointerup", finish);
  canvas.addEventListener("pointercancel", () => { grip = lasso = null; drawOver(); });
  canvas.addEventListener("pointerleave", () => { if (!lasso && !grip) show(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 300), ...at(event));
  }, { passive: false });
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (STEPS[event.key]) {
      const [dx, dy] = STEPS[event.key], x = current < 0 ? wide / 2 : xs[current], y = current < 0 ? high / 2 : ys[current];
      let best = -1, least = Infinity;
      for (let i = 0; i < count; i++) {
        const along = (xs[i] - x) * dx + (ys[i] - y) * dy, across = Math.abs((xs[i] - x) * dy) + Math.abs((ys[i] - y) * dx);
        if (i !== current && (current < 0 || along > 0.5) && xs[i] >= 0 && ys[i] >= 0 && xs[i] <= wide && ys[i] <= high) {
          const cost = (current < 0 ? Math.abs(along) : along) + 2 * across;
          if (cost < least) { least = cost; best = i; }
        }
      }
      if (best >= 0) { show(best); $("live").textContent = `${names[best]}; ${told(best)}`; }
    } else if (event.key === " " && current >= 0) {
      if (!picked.delete(current)) picked.add(current);
      report();
    } else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "Escape") { picked = new Set(); show(-1); report(); }
    else return;
    event.preventDefault();
  });

  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  $("save").addEventListener("click", () => {
    const to = $("label").value;
    const lines = [...picked].sort((a, b) => a - b).map((i) => [names[i], to || labels[i]].map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["path," + cell(facts.column), ...lines, ""].join("\n")], { type: "text/csv" }));
    link.download = "selected.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  $("clear").addEventListener("click", () => { picked = new Set(); report(); });
  $("in").addEventListener("click", () => zoomBy(1.5));
  $("out").addEventListener("click", () => zoomBy(1 / 1.5));
  $("whole").addEventListener("click", () => { zoom = 1; left = top = 0; moved(); });
  const option = (select, text, value) => select.append(Object.assign(document.createElement("option"), { textContent: text, value }));
  facts.layouts.forEach((one, i) => option($("layout"), one.name, i));
  facts.colourings.forEach((one, i) => option($("colour"), one.name, i));
  option($("label"), "as it is now", "");
  facts.choices.forEach((name) => option($("label"), name, name));
  $("label-box").hidden = !facts.choices.length;
  const legend = () => {
    const counts = new Map();
    for (const code of colouring.codes) counts.set(code, (counts.get(code) || 0) + 1);
    $("legend").replaceChildren(...colouring.labels.map((label, code) => {
      const button = document.createElement("button"), stamp = document.createElement("canvas");
      stamp.width = stamp.height = 32;
      mark(stamp.getContext("2d"), code, 16, 16, 10, known);
      button.type = "button";
      button.setAttribute("aria-pressed", String(only === code));
      button.append(stamp, `${label} (${counts.get(code) || 0})`);
      button.addEventListener("click", () => { only = only === code ? -1 : code; legend(); soon(); });
      return button;
    }));
    $("note").textContent = layout.note;
  };
  const changed = () => { sequence = order(); moved(); legend(); };
  $("layout").addEventListener("change", (event) => { layout = facts.layouts[event.target.value]; show(-1); changed(); });
  $("colour").addEventListener("change", (event) => { colouring = facts.colourings[event.target.value]; only = -1; changed(); });
  document.querySelector("#map-box .tools").hidden = false;
  document.querySelectorAll("input[name=map-tool]").forEach((one) => one.addEventListener("change", () => {
    canvas.style.touchAction = tool() === "move" ? "none" : "pan-y";
    canvas.style.cursor = tool() === "move" ? "grab" : "crosshair";
  }));
  new ResizeObserver(resize).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { moved(); legend(); });
  resize();
  legend();
})();
