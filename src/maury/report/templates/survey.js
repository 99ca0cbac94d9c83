// A survey's diagrams, its table of stars, and the card of one.
(() => {
  const rows = maury.data.rows, n = rows.id.length;
  const numbers = Object.fromEntries(Object.entries(rows.numbers).map(([k, v]) => [k, maury.floats(v)]));
  const place = new Map(rows.index.map((row, i) => [row, i]));
  const card = document.getElementById("card");
  let chosen = -1;

  // Diagrams.
  const plots = maury.data.diagrams.map((d) => {
    const box = document.querySelector(`[data-plot="${d.name}"]`);
    const p = { ...d, box, canvas: box.querySelector("canvas"), read: document.querySelector(`[data-read="${d.name}"]`) };
    for (const key of ["px", "py", "counts"]) if (d[key]) p[key] = maury.floats(d[key]);
    if (d.colour) p.shade = maury.floats(d.colour.values);
    return p;
  });
  const parse = (text) => text.match(/[\d.]+/g).map(Number);
  const mix = (a, b, t) => `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * t)).slice(0, 3).join(",")})`;
  const powers = { "-3": "0.001", "-2": "0.01", "-1": "0.1", 0: "1", 1: "10", 2: "100", 3: "1000", 4: "10000" };
  const axisTicks = (axis, number) => {
    const [a, b] = axis.ends;
    if (!axis.log) { const t = maury.ticks(a, b, number); return t.map((v) => [v, maury.text(v, t.digits)]); }
    const out = [];
    for (let p = Math.floor(a); p <= Math.ceil(b); p++) for (const m of b - a < 1.5 ? [1, 2, 5] : [1]) {
      const v = p + Math.log10(m);
      if (v >= a && v <= b) out.push([v, m === 1 && powers[p] ? powers[p] : String(Number((m * 10 ** p).toPrecision(2)))]);
    }
    return out;
  };

  const draw = (p) => {
    const [c, width, height] = maury.context(p.canvas);
    if (!width || !height) return;
    const text = maury.colour("text"), soft = maury.colour("soft"), line = maury.colour("line"), blue = maury.colour("blue");
    const box = p.sky ? { left: 6, top: 6, right: 6, bottom: 6 } : { left: 56, top: 10, right: p.shade ? 62 : 12, bottom: 40 };
    const w = width - box.left - box.right, h = height - box.top - box.bottom;
    const ends = p.sky ? [[-2, 2], [-1, 1]] : [p.x.ends, p.y.ends];
    const px = (v) => { const t = (v - ends[0][0]) / (ends[0][1] - ends[0][0]); return box.left + (!p.sky && p.x.reverse ? 1 - t : t) * w; };
    const py = (v) => { const t = (v - ends[1][0]) / (ends[1][1] - ends[1][0]); return box.top + (!p.sky && p.y.reverse ? t : 1 - t) * h; };
    Object.assign(p, { toX: px, toY: py, inner: { ...box, w, h } });
    if (p.counts) {
      const [nx, ny] = p.cells, most = Math.max(...p.counts);
      const paper = parse(maury.colour("back")), ink = parse(text), accent = parse(blue);
      // From the page's colour over blue to the text's: equal steps for the eye, with or without colour vision.
      const ramp = (t) => (t < 0.6 ? mix(paper, accent, 0.12 + (t / 0.6) * 0.88) : mix(accent, ink, ((t - 0.6) / 0.4) * 0.8));
      const dx = (ends[0][1] - ends[0][0]) / nx, dy = (ends[1][1] - ends[1][0]) / ny;
      for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++) {
        const count = p.counts[j * nx + i];
        if (!count) continue;
        const a = px(ends[0][0] + i * dx), b = px(ends[0][0] + (i + 1) * dx), y = py(ends[1][0] + j * dy), z = py(ends[1][0] + (j + 1) * dy);
        c.fillStyle = ramp(Math.sqrt(count / most));
        c.fillRect(Math.min(a, b), Math.min(y, z), Math.abs(b - a) + 0.4, Math.abs(z - y) + 0.4);
      }
    }
    c.strokeStyle = line; c.fillStyle = soft; c.lineWidth = 1;
    if (p.sky) graticule(c, px, py);
    else {
      c.strokeRect(box.left, box.top, w, h);
      c.textAlign = "center"; c.textBaseline = "top";
      for (const [v, label] of axisTicks(p.x, Math.max(2, Math.floor(w / 80)))) { c.beginPath(); c.moveTo(px(v), box.top + h); c.lineTo(px(v), box.top + h + 4); c.stroke(); c.fillText(label, px(v), box.top + h + 6); }
      c.fillText(p.x.title, box.left + w / 2, height - 15);
      c.textAlign = "right"; c.textBaseline = "middle";
      for (const [v, label] of axisTicks(p.y, Math.max(2, Math.floor(h / 45)))) { c.beginPath(); c.moveTo(box.left - 4, py(v)); c.lineTo(box.left, py(v)); c.stroke(); c.fillText(label, box.left - 6, py(v)); }
      c.save(); c.translate(3, box.top + h / 2); c.rotate(-Math.PI / 2); c.textAlign = "center"; c.textBaseline = "top"; c.fillText(p.y.title, 0, 0); c.restore();
    }
    if (!p.px) return;
    const low = parse(maury.colour("orange")), high = parse(blue), middle = parse(maury.colour("grey"));
    const shade = (v) => {
      if (!p.shade || !Number.isFinite(v)) return blue;
      const t = Math.min(1, Math.max(0, (v - p.colour.ends[0]) / (p.colour.ends[1] - p.colour.ends[0])));
      return t < 0.5 ? mix(low, middle, 2 * t) : mix(middle, high, 2 * t - 1);
    };
    const size = n > 800 ? 2 : 3.2;
    for (let i = 0; i < p.px.length; i++) {
      const x = px(p.px[i]), y = py(p.py[i]);
      if (!Number.isFinite(x + y)) continue;
      c.fillStyle = c.strokeStyle = shade(p.shade && p.shade[i]);
      c.lineWidth = 1.3;
      const kind = rows.kinds[rows.kind[place.get(i)]][0];
      c.beginPath();
      if (kind === "flagged") { c.moveTo(x - size - 1, y); c.lineTo(x, y - size - 1); c.lineTo(x + size + 1, y); c.lineTo(x, y + size + 1); c.closePath(); c.stroke(); }
      else if (kind === "unusable") { c.moveTo(x - size, y - size); c.lineTo(x + size, y + size); c.moveTo(x + size, y - size); c.lineTo(x - size, y + size); c.stroke(); }
      else { c.arc(x, y, size, 0, 7); c.fill(); }
    }
    if (chosen >= 0) {
      const i = rows.index[chosen], x = px(p.px[i]), y = py(p.py[i]);
      if (Number.isFinite(x + y)) { c.strokeStyle = text; c.lineWidth = 2; c.beginPath(); c.arc(x, y, 9, 0, 7); c.stroke(); }
    }
    if (p.shade) {
      const x = width - 50, top = box.top + 16;
      for (let k = 0; k < h - 16; k++) { c.fillStyle = shade(p.colour.ends[1] - (k / (h - 16)) * (p.colour.ends[1] - p.colour.ends[0])); c.fillRect(x, top + k, 9, 1.5); }
      c.fillStyle = soft; c.textAlign = "left"; c.textBaseline = "middle";
      c.fillText(p.colour.title.split(" [d")[0], x - 6, box.top + 4);
      const t = maury.ticks(...p.colour.ends, 5);
      for (const v of t) c.fillText(maury.text(v, t.digits), x + 13, top + (1 - (v - p.colour.ends[0]) / (p.colour.ends[1] - p.colour.ends[0])) * (h - 16));
    }
  };
  const project = (ra, dec) => {
    const lat = dec * Math.PI / 180;
    let t = lat;
    for (let k = 0; k < 30; k++) t -= (2 * t + Math.sin(2 * t) - Math.PI * Math.sin(lat)) / Math.max(2 + 2 * Math.cos(2 * t), 1e-6);
    return [-2 / Math.PI * ((ra - 180) * Math.PI / 180) * Math.cos(t), Math.sin(t)];
  };
  const graticule = (c, px, py) => {
    const path = (points) => { c.beginPath(); points.forEach(([ra, dec], k) => { const [x, y] = project(ra, dec); if (k) c.lineTo(px(x), py(y)); else c.moveTo(px(x), py(y)); }); c.stroke(); };
    const steps = (a, b) => Array.from({ length: 61 }, (_, k) => a + (k / 60) * (b - a));
    for (let ra = 0; ra <= 360; ra += 60) path(steps(-90, 90).map((d) => [ra, d]));
    for (let dec = -60; dec <= 60; dec += 30) path(steps(0, 360).map((r) => [r, dec]));
    c.textAlign = "center"; c.textBaseline = "bottom";
    // A rim in the page's colour keeps the digits readable over dense cells.
    c.lineWidth = 3; c.lineJoin = "round"; c.strokeStyle = maury.colour("back"); c.fillStyle = maury.colour("text");
    const label = (words, x, y) => { c.strokeText(words, x, y); c.fillText(words, x, y); };
    for (let ra = 60; ra < 360; ra += 60) { const [x, y] = project(ra, 0); label(`${ra}\u00b0`, px(x), py(y) - 2); }
    for (const dec of [-60, -30, 30, 60]) { const [x, y] = project(180, dec); label(`${dec < 0 ? "\u2212" : "+"}${Math.abs(dec)}\u00b0`, px(x) + 18, py(y) - 2); }
    c.lineWidth = 1;
  };
  const paint = () => plots.forEach(draw);
  const nearest = (p, e) => {
    const r = p.canvas.getBoundingClientRect(), x = e.clientX - r.left, y = e.clientY - r.top;
    if (p.counts) {
      const ends = p.sky ? [[-2, 2], [-1, 1]] : [p.x.ends, p.y.ends];
      let u = (x - p.inner.left) / p.inner.w, v = 1 - (y - p.inner.top) / p.inner.h;
      if (!p.sky && p.x.reverse) u = 1 - u;
      if (!p.sky && p.y.reverse) v = 1 - v;
      const i = Math.floor(u * p.cells[0]), j = Math.floor(v * p.cells[1]);
      if (u < 0 || v < 0 || u >= 1 || v >= 1) return {};
      return { count: p.counts[j * p.cells[0] + i] };
    }
    let best = -1, least = 14 ** 2;
    for (let i = 0; i < p.px.length; i++) { const d = (p.toX(p.px[i]) - x) ** 2 + (p.toY(p.py[i]) - y) ** 2; if (d < least) { least = d; best = i; } }
    return { star: best < 0 ? -1 : place.get(best) };
  };
  for (const p of plots) {
    p.box.addEventListener("pointermove", (e) => {
      const found = nearest(p, e);
      p.read.textContent = found.count !== undefined ? `${found.count} stars here` : found.star >= 0 ? rows.id[found.star] : "";
    });
    p.box.addEventListener("click", (e) => { const found = nearest(p, e); if (found.star >= 0) open(found.star); });
  }

  // One star.
  const element = (name, text, attributes) => {
    const e = document.createElement(name);
    if (text !== undefined) e.textContent = text;
    for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
    return e;
  };
  const names = { snr: ["S/N", 0], khat: ["k-hat", 2], ess: ["effective draws", 0], rchi2_jitter: ["\u03c7\u00b2/n", 2], p_predictive: ["p of the checks", 4], p_novelty: ["p of novelty", 4], v_sini_ul95: ["v sin i below (95 %) [km/s]", 1], log_evidence: ["ln evidence", 1], seconds: ["seconds", 1], ra: ["right ascension", 5], dec: ["declination", 5] };
  const fact = (list, key, value) => { const box = element("div"); box.append(element("dt", key), element("dd", value)); list.append(box); };
  const open = (i) => {
    chosen = i;
    const [kind, title] = rows.kinds[rows.kind[i]];
    card.replaceChildren();
    card.hidden = false;
    card.className = kind;
    const shut = element("button", "close", { type: "button", style: "float:right" });
    shut.addEventListener("click", () => { card.hidden = true; chosen = -1; paint(); });
    const head = element("p");
    head.append(element("span", title, { class: "tone" }), ` (${rows.method[i]})`);
    const facts = element("dl", undefined, { class: "facts" });
    for (const [name, short, unit, digits] of rows.labels) {
      const [a, m, b] = ["p16", "p50", "p84"].map((q) => numbers[`${name}_${q}`][i]);
      if (Number.isFinite(m)) fact(facts, short + (unit ? ` [${unit}]` : ""), `${maury.text(m, digits)} +${maury.text(b - m, digits)} \u2212${maury.text(m - a, digits)}`);
    }
    for (const [key, [name, digits]] of Object.entries(names)) if (numbers[key] && Number.isFinite(numbers[key][i])) fact(facts, name, maury.text(numbers[key][i], digits));
    const flags = element("ul", undefined, { class: "plain" });
    for (const flag of rows.flags[i].split(",").filter(Boolean)) { const item = element("li"); item.append(element("code", flag), ` ${rows.meanings[flag]}`); flags.append(item); }
    const from = element("p", undefined, { class: "soft" });
    from.append(element("code", rows.file[i]), rows.row[i] ? ` [${rows.row[i]}]` : "");
    card.append(shut, element("h3", rows.id[i]), head, facts, flags, from);
    if (rows.link[i]) { const p = element("p"); p.append(element("a", "The star's own report", { href: rows.link[i] })); card.append(p); }
    card.scrollIntoView({ block: "nearest" });
    card.focus({ preventScroll: true });
    paint();
  };

  // The table: a page of rows at a time.
  const PAGE = 50;
  const body = document.querySelector("#table tbody"), head = document.querySelector("#table thead tr");
  const columns = [
    { name: "star", text: (i) => rows.id[i], key: (i) => rows.id[i] },
    { name: "verdict", text: (i) => rows.kinds[rows.kind[i]][1], key: (i) => rows.kind[i] },
    { name: "S/N", text: (i) => maury.text(numbers.snr[i], 0), key: (i) => numbers.snr[i] },
    ...rows.labels.filter(([name]) => name !== "jitter" && numbers[`${name}_p50`].some(Number.isFinite)).map(([name, short, , digits]) => ({
      name: short, key: (i) => numbers[`${name}_p50`][i],
      text: (i) => { const e = (numbers[`${name}_p84`][i] - numbers[`${name}_p16`][i]) / 2; return Number.isFinite(e) ? `${maury.text(numbers[`${name}_p50`][i], digits)} \u00b1 ${maury.text(e, digits)}` : "\u2013"; },
    })),
  ];
  let order = rows.id.map((_, i) => i), shown = order, page = 0, sorted = null, down = false;
  const fill = () => {
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    page = Math.min(Math.max(page, 0), last);
    body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const row = element("tr", undefined, { class: rows.kinds[rows.kind[i]][0] });
      columns.forEach((column, k) => {
        const cell = element(k ? "td" : "th", undefined, k ? { class: k === 1 ? "left" : "" } : { scope: "row" });
        if (!k) { const b = element("button", column.text(i) || "(no name)", { type: "button" }); b.addEventListener("click", () => open(i)); cell.append(b); }
        else if (k === 1) cell.append(element("span", column.text(i), { class: "tone" }), element("span", rows.flags[i].replaceAll(",", ", "), { class: "flags" }));
        else cell.textContent = column.text(i);
        row.append(cell);
      });
      return row;
    }));
    document.getElementById("found").textContent = `${shown.length} of ${n}`;
    document.getElementById("pages").textContent = `page ${page + 1} of ${last + 1}`;
    document.getElementById("back").disabled = page === 0;
    document.getElementById("next").disabled = page === last;
  };
  const search = document.getElementById("search"), kind = document.getElementById("kind");
  const texts = rows.id.map((id, i) => `${id} ${rows.file[i]} ${rows.flags[i]}`.toLowerCase());
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    const only = kind.selectedOptions[0].dataset.kind;
    shown = order.filter((i) => texts[i].includes(wanted) && (!only || rows.kinds[rows.kind[i]][0] === only));
    page = 0;
    fill();
  };
  columns.forEach((column, k) => {
    const cell = element("th", undefined, { scope: "col", class: k === 1 ? "left" : "" });
    const b = element("button", column.name, { type: "button", class: "sort" });
    b.addEventListener("click", () => {
      down = sorted === k && !down;
      sorted = k;
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      order = [...order].sort((a, b2) => {
        const x = column.key(a), y = column.key(b2);
        if (typeof x === "string") return sign * x.localeCompare(y);
        // What is not known stands last either way.
        if (!Number.isFinite(x) || !Number.isFinite(y)) return Number.isFinite(y) - Number.isFinite(x);
        return sign * (x - y);
      });
      filter();
    });
    cell.append(b);
    head.append(cell);
  });
  search.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  document.getElementById("back").addEventListener("click", () => { page--; fill(); });
  document.getElementById("next").addEventListener("click", () => { page++; fill(); });
  fill();
  maury.onDraw(paint);
  paint();
})();
