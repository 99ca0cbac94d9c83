// A spectrum on a canvas: look at parts of it, and drag over a region to mask it.

const MARGIN = { left: 58, right: 10, top: 22, bottom: 44 };
const DRAG = 4;
// Pixels to a point of the screen above which a model would hide the data.
const DENSE = 3;

const ticks = (low, high, number) => {
  const rough = (high - low) / Math.max(1, number);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => (high - low) / s <= number) || 10 * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push([k * step, (k * step).toFixed(digits)]);
  return out;
};

const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(q * (sorted.length - 1))))];

export class Plot {
  // box: the element around the canvas; onSelect(low, high): a region was dragged over; onRead(text): what is under the pointer.
  constructor(box, canvas, { onSelect, onRead, onView }) {
    Object.assign(this, { box, canvas, onSelect, onRead, onView });
    this.chips = [];
    this.regions = [];
    this.windows = [];
    this.model = null;
    this.drag = null;
    this.probe = document.createElement("span");
    this.probe.hidden = true;
    box.append(this.probe);
    new ResizeObserver(() => this.later()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.later());
    box.addEventListener("pointerdown", (event) => this.down(event));
    box.addEventListener("pointermove", (event) => this.move(event));
    box.addEventListener("pointerup", (event) => this.up(event));
    box.addEventListener("pointercancel", () => this.forget());
    box.addEventListener("pointerleave", () => { if (!this.drag) this.onRead(""); });
    box.addEventListener("keydown", (event) => this.key(event));
  }

  colour(name) {
    // A custom property may hold light-dark(): only a property of an element resolves it.
    this.probe.style.color = `var(--${name})`;
    return getComputedStyle(this.probe).color;
  }

  setSpectrum(chips) {
    this.chips = chips.filter((chip) => chip.wavelength.length);
    this.model = null;
    const first = this.chips[0], last = this.chips.at(-1);
    this.whole = first ? [first.wavelength[0], last.wavelength.at(-1)] : [0, 1];
    this.show(...this.whole);
  }

  setModel(model) { this.model = model; this.later(); }
  setWindows(windows) { this.windows = windows; this.later(); }
  setRegions(regions) { this.regions = regions; this.later(); }

  show(low, high) {
    const [start, end] = this.whole;
    const width = Math.min(Math.max(high - low, (end - start) / 2000), end - start);
    const from = Math.min(Math.max(low, start), end - width);
    this.view = [from, from + width];
    this.later();
    this.onView();
  }

  // Whether more pixels are in view than the screen can show one by one.
  dense() {
    if (!this.view) return false;
    const inside = (w) => w >= this.view[0] && w <= this.view[1];
    const n = this.chips.reduce((sum, chip) => sum + chip.wavelength.filter(inside).length, 0);
    return n / Math.max(1, this.box.clientWidth - MARGIN.left - MARGIN.right) > DENSE;
  }

  zoom(factor) {
    const middle = (this.view[0] + this.view[1]) / 2, half = ((this.view[1] - this.view[0]) / 2) * factor;
    this.show(middle - half, middle + half);
  }

  pan(share) {
    const step = share * (this.view[1] - this.view[0]);
    this.show(this.view[0] + step, this.view[1] + step);
  }

  key(event) {
    const action = {
      ArrowLeft: () => this.pan(-0.25), ArrowRight: () => this.pan(0.25), "+": () => this.zoom(0.5), "=": () => this.zoom(0.5),
      "-": () => this.zoom(2), 0: () => this.show(...this.whole), Escape: () => this.forget(),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  at(event) {
    const frame = this.box.getBoundingClientRect();
    const share = (event.clientX - frame.left - MARGIN.left) / (frame.width - MARGIN.left - MARGIN.right);
    return this.view[0] + Math.min(1, Math.max(0, share)) * (this.view[1] - this.view[0]);
  }

  down(event) {
    if (event.button !== 0 || !this.chips.length) return;
    this.box.setPointerCapture(event.pointerId);
    this.drag = { x: event.clientX, from: this.at(event), to: this.at(event) };
  }

  move(event) {
    if (!this.chips.length) return;
    const here = this.at(event);
    if (this.drag) {
      this.drag.to = here;
      const [low, high] = [this.drag.from, here].sort((a, b) => a - b);
      this.onRead(`mask ${low.toFixed(2)} to ${high.toFixed(2)} Å`);
      this.later();
      return;
    }
    const chip = this.chips.find((c) => here >= c.wavelength[0] && here <= c.wavelength.at(-1));
    if (!chip) { this.onRead(`${here.toFixed(2)} Å: between the chips`); return; }
    let i = chip.wavelength.findIndex((w) => w >= here);
    if (i > 0 && here - chip.wavelength[i - 1] < chip.wavelength[i] - here) i -= 1;
    this.onRead(`${chip.wavelength[i].toFixed(2)} Å: flux ${chip.flux[i].toFixed(3)}${chip.good[i] ? "" : " (not used)"}`);
  }

  up(event) {
    const drag = this.drag;
    this.forget();
    if (!drag || Math.abs(event.clientX - drag.x) < DRAG) return;
    const [low, high] = [drag.from, this.at(event)].sort((a, b) => a - b);
    this.onSelect(low, high);
  }

  forget() { this.drag = null; this.later(); }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
  }

  range() {
    const values = [];
    for (const chip of this.chips) {
      chip.wavelength.forEach((w, i) => { if (chip.good[i] && w >= this.view[0] && w <= this.view[1]) values.push(chip.flux[i]); });
    }
    if (!values.length) return [0, 1.5];
    values.sort((a, b) => a - b);
    const low = quantile(values, 0.002), high = quantile(values, 0.998), pad = 0.08 * (high - low) || 0.1;
    return [low - pad, high + pad];
  }

  draw() {
    const ratio = devicePixelRatio || 1, width = this.box.clientWidth, height = this.box.clientHeight;
    if (!width || !this.view) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const c = this.canvas.getContext("2d");
    c.scale(ratio, ratio);
    c.font = "12px system-ui, sans-serif";
    const [low, high] = this.view, [bottom, top] = this.range();
    const right = width - MARGIN.right, floor = height - MARGIN.bottom;
    const x = (w) => MARGIN.left + ((w - low) / (high - low)) * (right - MARGIN.left);
    const y = (f) => floor - ((f - bottom) / (top - bottom)) * (floor - MARGIN.top);
    const line = this.colour("line"), soft = this.colour("soft");

    c.lineWidth = 1;
    c.fillStyle = soft;
    c.strokeStyle = line;
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const [value, text] of ticks(bottom, top, 5)) {
      c.beginPath(); c.moveTo(MARGIN.left, y(value)); c.lineTo(right, y(value)); c.stroke();
      c.fillText(text, MARGIN.left - 6, y(value));
    }
    c.textBaseline = "top";
    c.textAlign = "center";
    for (const [value, text] of ticks(low, high, Math.max(4, width / 110))) {
      c.beginPath(); c.moveTo(x(value), floor); c.lineTo(x(value), floor + 5); c.stroke();
      const half = c.measureText(text).width / 2;
      c.fillText(text, Math.min(Math.max(x(value), half + 2), width - half - 2), floor + 8);
    }

    c.textBaseline = "bottom";
    c.fillText("vacuum wavelength [Å]", (MARGIN.left + right) / 2, height - 3);
    c.save();
    c.translate(4, (MARGIN.top + floor) / 2);
    c.rotate(-Math.PI / 2);
    c.textBaseline = "top";
    c.fillText("flux over its median", 0, 0);
    c.restore();

    c.save();
    c.beginPath(); c.rect(MARGIN.left, MARGIN.top, right - MARGIN.left, floor - MARGIN.top); c.clip();
    const dense = this.dense();
    this.band(c, x, floor, this.regions, 0.22);
    for (const chip of this.chips) {
      this.curve(c, x, y, chip.wavelength, chip.flux, null, this.colour("pale"), dense ? 0.4 : 0.8);
      this.curve(c, x, y, chip.wavelength, chip.flux, chip.good, this.colour("text"), dense ? 0.7 : 1.1);
    }
    if (this.model && !dense) this.curve(c, x, y, this.model.wavelength, this.model.flux, null, this.colour("orange"), 1.6, true);
    if (this.drag) this.band(c, x, floor, [[this.drag.from, this.drag.to]], 0.35);
    c.restore();
    if (dense) this.numbered(c, x, floor);
    c.strokeStyle = line;
    c.strokeRect(MARGIN.left + 0.5, MARGIN.top + 0.5, right - MARGIN.left - 1, floor - MARGIN.top - 1);
  }

  numbered(c, x, floor) {
    const orange = this.colour("orange"), text = this.colour("text");
    c.font = "bold 12px system-ui, sans-serif";
    c.textAlign = "center";
    c.textBaseline = "bottom";
    let taken = -Infinity;
    this.windows.forEach(([from, to], k) => {
      if (to < this.view[0] || from > this.view[1]) return;
      c.globalAlpha = 0.22;
      c.fillStyle = orange;
      c.fillRect(x(from), MARGIN.top, x(to) - x(from), floor - MARGIN.top);
      c.globalAlpha = 1;
      c.strokeStyle = orange;
      c.strokeRect(x(from), MARGIN.top - 1, x(to) - x(from), floor - MARGIN.top + 2);
      c.fillStyle = text;
      const middle = (x(from) + x(to)) / 2;
      if (middle < taken + 12) return;
      taken = middle;
      c.fillText(String(k + 1), (x(from) + x(to)) / 2, MARGIN.top - 4);
    });
  }

  band(c, x, floor, regions, alpha) {
    const blue = this.colour("blue");
    for (const [from, to] of regions) {
      const a = Math.min(x(from), x(to)), b = Math.max(x(from), x(to), a + 1.5);
      c.globalAlpha = alpha;
      c.fillStyle = blue;
      c.fillRect(a, MARGIN.top, b - a, floor - MARGIN.top);
      c.globalAlpha = 1;
      c.strokeStyle = blue;
      c.strokeRect(a + 0.5, MARGIN.top - 1, b - a, floor - MARGIN.top + 2);
    }
  }

  curve(c, x, y, wavelength, flux, good, colour, thick, gaps = false) {
    const [low, high] = this.view;
    c.strokeStyle = colour;
    c.lineWidth = thick;
    c.lineJoin = "round";
    c.beginPath();
    let pen = false;
    const n = wavelength.length;
    for (let i = 0; i < n; i++) {
      // One pixel beyond each edge, so that the line reaches it.
      if ((i + 1 < n && wavelength[i + 1] < low) || (i > 0 && wavelength[i - 1] > high)) { pen = false; continue; }
      if (good && !good[i]) { pen = false; continue; }
      if (gaps && pen && wavelength[i] - wavelength[i - 1] > 3) pen = false;
      if (pen) c.lineTo(x(wavelength[i]), y(flux[i]));
      else c.moveTo(x(wavelength[i]), y(flux[i]));
      pen = true;
    }
    c.stroke();
  }
}
