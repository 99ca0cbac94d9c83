"use strict";
// Shared by all pages: data, colours, ticks, and the switch between light and dark.
const maury = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);

  // A custom property may hold light-dark(): only a property of an element resolves it.
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  const listeners = [];
  const redraw = () => listeners.forEach((draw) => draw());
  const onDraw = (draw) => { listeners.push(draw); };
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  const words = { auto: "as the system", light: "light", dark: "dark" };
  const setTheme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    button.querySelector("span").textContent = name;
    button.setAttribute("aria-label", `Colours: ${words[name]}`);
    redraw();
  };
  let theme = "auto";
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    setTheme(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(redraw);
  });
  // Paper is white.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    redraw();
  });
  addEventListener("afterprint", () => setTheme(theme));

  const ticks = (low, high, number) => {
    const span = high - low;
    if (!(span > 0)) return [];
    const rough = span / Math.max(1, number);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => span / s <= number) || 10 * power;
    const out = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * span; k++) out.push(k * step);
    out.digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return out;
  };
  const text = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "\u2212") : "\u2013");

  // A canvas as sharp as the screen, in CSS pixels.
  const context = (canvas, scale) => {
    const ratio = scale || Math.min(3, devicePixelRatio || 1);
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = "12px system-ui, sans-serif";
    return [c, width, height];
  };
  return { data, bytes, floats, colour, onDraw, redraw, ticks, text, context };
})();
