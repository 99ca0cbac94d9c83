// The spectrum: data, model and residual on a canvas; zoom, reading and lines by mouse, finger and keyboard.
(() => {
  const d = maury.data.spectrum;
  const wave = maury.floats(d.wavelength), flux = maury.floats(d.flux), model = maury.floats(d.model);
  const level = maury.floats(d.continuum), pull = maury.floats(d.pull), state = maury.bytes(d.state);
  const USED = 0, MASKED = 1;
  const box = document.getElementById("spectrum");
  const canvas = document.getElementById("spectrum-canvas"), over = document.getElementById("spectrum-cursor");
  const readout = document.getElementById("readout");
  const whole = [wave[d.chips[0][0]], wave[d.chips[d.chips.length - 1][1] - 1]];
  const least = 2;
  let view = whole.slice(), cursor = -1, drag = null, asFile = false;
  const LEFT = 52, RIGHT = 10, TOP = 34, GAP = 12, BOTTOM = 34;

  const find = (x) => {
    let a = 0, b = wave.length - 1;
    while (a < b) { const m = (a + b) >> 1; if (wave[m] < x) a = m + 1; else b = m; }
    return a > 0 && x - wave[a - 1] < wave[a] - x ? a - 1 : a;
  };
  const value = (array, i) => (asFile ? array[i] : array[i] / level[i]);
  const quantile = (values, q) => values[Math.min(values.length - 1, Math.max(0, Math.round(q * (values.length - 1))))];

  const ranges = (from, to) => {
    const all = [], pulls = [];
    for (let i = from; i <= to; i++) {
      if (state[i] !== USED) continue;
      all.push(value(flux, i), value(model, i));
      pulls.push(Math.abs(pull[i]));
    }
    if (!all.length) return [0, 1.2, 5];
    all.sort((a, b) => a - b);
    pulls.sort((a, b) => a - b);
    const low = quantile(all, 0.001), high = quantile(all, 0.999), pad = 0.08 * (high - low || 1);
    return [low - pad, high + pad, Math.min(12, Math.max(4, 1.25 * quantile(pulls, 0.998)))];
  };

  // Lines that are marked: the strong ones, those of an element, or none.
  const marks = document.getElementById("marks");
  const marked = () => {
    if (marks.value === "strong") return d.lines;
    return (d.elements[marks.value] || []).map((observed) => ({ species: marks.value, observed, faint: false })).sort((a, b) => a.observed - b.observed);
  };

  // Draw a part of the spectrum on any canvas; returns the map from wavelength to place.
  const draw = (target, [x0, x1], scale) => {
    const [c, width, height] = maury.context(target, scale);
    if (!width || !height) return null;
    const plotWidth = width - LEFT - RIGHT, plotHeight = height - TOP - GAP - BOTTOM;
    const upper = 0.72 * plotHeight, lower = plotHeight - upper, base = TOP + upper + GAP;
    const from = Math.max(0, find(x0) - 1), to = Math.min(wave.length - 1, find(x1) + 1);
    const [y0, y1, most] = ranges(from, to);
    const px = (w) => LEFT + ((w - x0) / (x1 - x0)) * plotWidth;
    const py = (v) => TOP + (1 - (v - y0) / (y1 - y0)) * upper;
    const pr = (v) => base + (0.5 - v / (2 * most)) * lower;
    const text = maury.colour("text"), soft = maury.colour("soft"), line = maury.colour("line");

    // Pixels out of use.
    c.save();
    c.beginPath(); c.rect(LEFT, TOP, plotWidth, base + lower - TOP); c.clip();
    c.fillStyle = c.strokeStyle = maury.colour("mask");
    for (const [start, stop] of d.chips) {
      for (let i = Math.max(start, from); i < Math.min(stop, to + 1); i++) {
        if (state[i] === USED) continue;
        const kind = state[i];
        let j = i;
        while (j + 1 < Math.min(stop, to + 1) && state[j + 1] === kind) j++;
        const half = 0.5 * (wave[Math.min(i + 1, wave.length - 1)] - wave[i]);
        const a = px(wave[i] - half), b = Math.max(px(wave[j] + half), a + 0.7);
        if (kind === MASKED) {
          c.globalAlpha = 0.75;
          c.fillRect(a, TOP, b - a, base + lower - TOP);
        } else {
          c.globalAlpha = 0.9;
          c.save();
          c.beginPath(); c.rect(a, TOP, b - a, base + lower - TOP); c.clip();
          c.beginPath();
          for (let s = a - (base + lower - TOP); s < b; s += 7) { c.moveTo(s, base + lower); c.lineTo(s + base + lower - TOP, TOP); }
          c.stroke();
          c.restore();
        }
        c.globalAlpha = 1;
        i = j;
      }
    }
    c.restore();

    const dense = (to - from) / plotWidth > 3;

    // Axes.
    c.strokeStyle = line; c.fillStyle = soft; c.lineWidth = 1;
    c.textAlign = "center"; c.textBaseline = "top";
    const xs = maury.ticks(x0, x1, Math.max(2, Math.floor(plotWidth / 70)));
    for (const t of xs) {
      c.beginPath(); c.moveTo(px(t), base + lower); c.lineTo(px(t), base + lower + 4); c.stroke();
      c.fillText(maury.text(t, xs.digits), px(t), base + lower + 6);
    }
    c.textAlign = "right"; c.textBaseline = "middle";
    const ys = maury.ticks(y0, y1, 6);
    for (const t of ys) {
      c.beginPath(); c.moveTo(LEFT, py(t)); c.lineTo(LEFT + plotWidth, py(t)); c.globalAlpha = 0.6; c.stroke(); c.globalAlpha = 1;
      c.fillText(maury.text(t, ys.digits), LEFT - 6, py(t));
    }
    for (const t of [-Math.floor(most / 2), 0, Math.floor(most / 2)]) c.fillText(maury.text(t, 0), LEFT - 6, pr(t));
    c.strokeRect(LEFT, TOP, plotWidth, upper);
    c.strokeRect(LEFT, base, plotWidth, lower);
    c.save();
    c.textAlign = "center"; c.textBaseline = "top"; c.fillStyle = soft;
    c.fillText("vacuum wavelength [\u00c5]", LEFT + plotWidth / 2, height - 14);
    c.translate(4, TOP + upper / 2); c.rotate(-Math.PI / 2);
    c.fillText(asFile ? "flux over its median" : "flux over continuum", 0, 0);
    c.restore();
    c.save();
    c.fillStyle = soft; c.textAlign = "center"; c.textBaseline = "top";
    c.translate(4, base + lower / 2); c.rotate(-Math.PI / 2);
    c.fillText("residual [\u03c3]", 0, 0);
    c.restore();

    // Curves: a pen that lifts at chip ends and where a pixel is not of its kind.
    const curve = (place, style, thick, wanted, alpha) => {
      c.strokeStyle = style; c.lineWidth = thick; c.globalAlpha = alpha || 1; c.lineJoin = "round";
      c.beginPath();
      for (const [start, stop] of d.chips) {
        let down = false;
        for (let i = Math.max(start, from); i < Math.min(stop, to + 1); i++) {
          const y = wanted(i) ? place(i) : NaN;
          if (!Number.isFinite(y)) { down = false; continue; }
          if (down) c.lineTo(px(wave[i]), y); else c.moveTo(px(wave[i]), y);
          down = true;
        }
      }
      c.stroke();
      c.globalAlpha = 1;
    };
    const used = (i) => state[i] === USED;
    c.save();
    c.beginPath(); c.rect(LEFT, TOP, plotWidth, upper); c.clip();
    curve((i) => py(value(flux, i)), soft, 0.7, (i) => !used(i), 0.6);
    curve((i) => py(value(flux, i)), text, dense ? 0.7 : 1.2, used);
    // With many pixels to a point of the screen it would hide the data.
    if (!dense) curve((i) => py(value(model, i)), maury.colour("orange"), 1.7, used, 0.95);
    c.restore();
    c.save();
    c.beginPath(); c.rect(LEFT, base, plotWidth, lower); c.clip();
    c.fillStyle = maury.colour("blue"); c.globalAlpha = 0.18;
    c.fillRect(LEFT, pr(1), plotWidth, pr(-1) - pr(1));
    c.globalAlpha = 1;
    curve((i) => pr(Math.max(-most, Math.min(most, pull[i]))), maury.colour("blue"), dense ? 0.6 : 1.1, used);
    c.restore();

    // Windows that have pictures of their own.
    if (dense) {
      c.save();
      c.textAlign = "center"; c.textBaseline = "bottom"; c.font = "bold 12px system-ui, sans-serif";
      d.windows.forEach(([low, high], k) => {
        const a = px(low), b = px(high);
        if (b < LEFT || a > LEFT + plotWidth) return;
        c.fillStyle = c.strokeStyle = maury.colour("orange");
        c.globalAlpha = 0.22; c.fillRect(a, TOP, b - a, base + lower - TOP); c.globalAlpha = 1;
        c.lineWidth = 1; c.strokeRect(a, TOP, b - a, base + lower - TOP);
        c.fillStyle = maury.colour("back");
        c.globalAlpha = 0.85; c.fillRect((a + b) / 2 - 6, TOP + upper - 19, 12, 16); c.globalAlpha = 1;
        c.fillStyle = text;
        c.fillText(String(k + 1), (a + b) / 2, TOP + upper - 4);
      });
      c.restore();
    }

    // Lines: a mark each, and its name where there is room.
    const lines = marked();
    if (lines.length) {
      c.fillStyle = c.strokeStyle = soft; c.textBaseline = "bottom"; c.textAlign = "center"; c.lineWidth = 1;
      const free = [-1e9, -1e9];
      for (const l of lines) {
        const x = px(l.observed);
        if (x < LEFT || x > LEFT + plotWidth) continue;
        const name = l.species.replace("Brackett", "Br");
        const wide = c.measureText(name).width / 2 + 3;
        const row = free.findIndex((end) => x - wide > end);
        c.setLineDash(l.faint ? [2, 3] : []);
        c.beginPath(); c.moveTo(x, TOP - 1);
        c.lineTo(x, dense ? TOP + 7 : TOP + upper); c.globalAlpha = dense ? 0.9 : 0.55; c.stroke();
        c.globalAlpha = 1;
        if (row >= 0) { c.fillText(name, x, TOP - 3 - 14 * row); free[row] = x + wide; }
      }
      c.setLineDash([]);
    }
    return { px, plotWidth, base, lower, py, pr, dense };
  };

  let map = null;
  const paint = () => {
    map = draw(canvas, view);
    if (map) document.getElementById("dense").hidden = !map.dense;
    point();
  };

  const nearestLine = (w) => {
    let best = null;
    for (const l of d.lines) if (Math.abs(l.observed - w) < 1.5 && (!best || Math.abs(l.observed - w) < Math.abs(best.observed - w))) best = l;
    return best;
  };
  const say = () => {
    if (cursor < 0) { readout.textContent = "Point at the spectrum, or give it the focus, to read it."; return; }
    const i = cursor, rest = wave[i] / d.doppler, l = nearestLine(wave[i]);
    const what = state[i] === USED ? `model ${maury.text(value(model, i), 3)}, residual ${maury.text(pull[i], 1)} \u03c3` : state[i] === MASKED ? "masked in the file" : "outside the model";
    readout.textContent = `${maury.text(wave[i], 2)} \u00c5 (at rest ${maury.text(rest, 2)}): flux ${maury.text(value(flux, i), 3)}, ${what}` + (l ? `; ${l.species} ${l.rest.toFixed(1)}` : "");
  };
  const point = () => {
    const [c, , height] = maury.context(over);
    say();
    if (!map) return;
    if (drag && drag.to !== undefined) {
      c.fillStyle = maury.colour("blue"); c.globalAlpha = 0.2;
      c.fillRect(Math.min(drag.from, drag.to), TOP, Math.abs(drag.to - drag.from), height - TOP - BOTTOM);
      c.globalAlpha = 1;
    }
    if (cursor < 0 || wave[cursor] < view[0] || wave[cursor] > view[1]) return;
    const x = map.px(wave[cursor]);
    c.strokeStyle = maury.colour("grey");
    c.beginPath(); c.moveTo(x, TOP); c.lineTo(x, height - BOTTOM); c.stroke();
    const dot = (y, style) => { if (Number.isFinite(y)) { c.fillStyle = style; c.beginPath(); c.arc(x, y, 3.5, 0, 7); c.fill(); } };
    dot(map.py(value(flux, cursor)), maury.colour("text"));
    if (state[cursor] === USED) { dot(map.py(value(model, cursor)), maury.colour("orange")); dot(map.pr(pull[cursor]), maury.colour("blue")); }
  };

  const buttons = [...document.querySelectorAll("[data-view]")];
  const show = (x0, x1) => {
    const span = Math.min(whole[1] - whole[0], Math.max(least, x1 - x0));
    let a = (x0 + x1 - span) / 2;
    a = Math.min(Math.max(a, whole[0]), whole[1] - span);
    view = [a, a + span];
    for (const b of buttons) {
      const [p, q] = ends(b.dataset.view);
      b.setAttribute("aria-pressed", String(Math.abs(p - view[0]) < 0.01 && Math.abs(q - view[1]) < 0.01));
    }
    box.dataset.from = view[0].toFixed(2);
    box.dataset.to = view[1].toFixed(2);
    paint();
  };
  const ends = (name) => (name === "all" ? whole : [wave[d.chips[name][0]], wave[d.chips[name][1] - 1]]);
  const zoom = (factor) => {
    const inside = cursor >= 0 && wave[cursor] > view[0] && wave[cursor] < view[1];
    const centre = inside ? wave[cursor] : (view[0] + view[1]) / 2;
    show(centre - (centre - view[0]) * factor, centre + (view[1] - centre) * factor);
  };
  const move = (share) => { const s = share * (view[1] - view[0]); show(view[0] + s, view[1] + s); };
  const goTo = (w) => { cursor = find(w); show(w - 12, w + 12); };
  const moves = { "+": () => zoom(0.5), "-": () => zoom(2), left: () => move(-0.4), right: () => move(0.4) };

  for (const b of buttons) b.addEventListener("click", () => show(...ends(b.dataset.view)));
  for (const b of document.querySelectorAll("[data-window]")) {
    b.addEventListener("click", () => { cursor = -1; show(...d.windows[b.dataset.window]); box.scrollIntoView({ block: "center" }); });
  }
  for (const b of document.querySelectorAll("[data-move]")) b.addEventListener("click", () => moves[b.dataset.move]());
  document.getElementById("goto").addEventListener("change", (e) => { if (e.target.value) goTo(Number(e.target.value)); });
  marks.addEventListener("change", paint);
  for (const b of document.querySelectorAll("[data-element]")) {
    b.addEventListener("click", () => {
      marks.value = b.dataset.element;
      goTo(d.elements[b.dataset.element][0]);
      box.scrollIntoView({ block: "center" });
    });
  }
  document.getElementById("units").addEventListener("change", (e) => { asFile = e.target.checked; paint(); });

  const place = (e) => e.clientX - box.getBoundingClientRect().left - box.clientLeft;
  const at = (x) => view[0] + ((x - LEFT) / map.plotWidth) * (view[1] - view[0]);
  box.addEventListener("pointerdown", (e) => { if (e.button === 0) { drag = { from: place(e) }; box.setPointerCapture(e.pointerId); } });
  box.addEventListener("pointermove", (e) => {
    if (!map) return;
    if (drag) drag.to = place(e);
    cursor = find(at(place(e)));
    point();
  });
  box.addEventListener("pointerup", () => {
    const done = drag;
    drag = null;
    if (done && done.to !== undefined && Math.abs(done.to - done.from) > 6) show(...[at(done.from), at(done.to)].sort((a, b) => a - b));
    else point();
  });
  box.addEventListener("pointercancel", () => { drag = null; point(); });
  box.addEventListener("pointerleave", () => { if (!drag && document.activeElement !== box) { cursor = -1; point(); } });
  box.addEventListener("dblclick", () => show(...whole));
  box.addEventListener("focus", () => { if (cursor < 0) { cursor = find((view[0] + view[1]) / 2); point(); } });
  const step = (sign, fast) => {
    const pixels = Math.max(1, Math.round((find(view[1]) - find(view[0])) / (fast ? 12 : 200)));
    cursor = Math.min(wave.length - 1, Math.max(0, cursor + sign * pixels));
    if (wave[cursor] < view[0]) move(-0.4);
    else if (wave[cursor] > view[1]) move(0.4);
    else point();
  };
  const neighbour = (sign) => {
    const here = cursor < 0 ? view[0] : wave[cursor];
    const ahead = d.lines.filter((l) => sign * (l.observed - here) > 0.3);
    if (ahead.length) goTo((sign > 0 ? ahead[0] : ahead[ahead.length - 1]).observed);
  };
  box.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const keys = {
      ArrowLeft: () => step(-1, e.shiftKey), ArrowRight: () => step(1, e.shiftKey), "+": moves["+"], "=": moves["+"],
      "-": moves["-"], n: () => neighbour(1), p: () => neighbour(-1), 0: () => show(...whole), Home: () => show(...whole),
    };
    const chip = Number(e.key) - 1;
    if (chip >= 0 && chip < d.chips.length) keys[e.key] = () => show(...ends(chip));
    if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
  });

  // On paper each chip has a picture of its own.
  const paper = document.getElementById("paper");
  addEventListener("beforeprint", () => {
    paper.replaceChildren(...d.chips.map((_, k) => {
      const picture = document.createElement("canvas");
      picture.style.cssText = "display:block;width:18cm;height:9cm";
      return picture;
    }));
    paper.style.display = "block";
    d.chips.forEach((_, k) => draw(paper.children[k], ends(k), 2.5));
  });
  addEventListener("afterprint", () => { paper.style.display = ""; paper.replaceChildren(); });
  maury.onDraw(paint);
  show(...whole);
})();
