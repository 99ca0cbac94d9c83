// The page: files, settings, runs, comparison. All text from files and the server enters by textContent.
import { Plot } from "./plot.js";

const $ = (id) => document.getElementById(id);
const el = (tag, properties = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") Object.entries(value).forEach(([event, f]) => node.addEventListener(event, f));
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.includes("-") || name === "for") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
};

// Short names of labels, as the server tells them with models and results.
const NAMES = {};
const named = (name) => NAMES[name] || name;
const STEPS = ["reading", "flow", "refine", "weigh", "report"];
const SHOWN = 6;
// Labels that the table of files has columns for, as far as results have them.
const COLUMNS = ["teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini"];
const GRAVITY = { unusable: 0, flagged: 1, unverified: 2, verified: 3 };
const MARKS = { verified: "✓", flagged: "!", unverified: "?", unusable: "✕" };
const state = { config: null, ready: false, files: [], arriving: [], refused: [], notes: {}, sort: null, file: null, index: 0, regions: {}, chosen: null, shown: "", fitOf: "" };

// --- numbers -------------------------------------------------------------------------------------------------------------
const digits = (error) => (error > 0 ? Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(error)))) : 3);
const fixed = (value, n) => (Number.isFinite(value) ? value.toFixed(n).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212") : "\u2013");
const number = (text) => {
  const value = Number(String(text).trim().replace("\u2212", "-").replace(",", "."));
  return String(text).trim() === "" || !Number.isFinite(value) ? null : value;
};
const rows = (result) => {
  // Elements have a place of their own.
  const elements = new Set((result.abundances || []).map((a) => a.label));
  const out = Object.fromEntries(Object.entries(result.labels).filter(([name]) => !elements.has(name)));
  if (result.v_bary) out.v_bary = { ...result.v_bary, unit: "km/s" };
  if (result.jitter) out.jitter = result.jitter;
  return out;
};

// --- talking to the server ---------------------------------------------------------------------------------------------
class Failed extends Error {
  constructor(message, status, fields) { super(message); this.status = status; this.fields = fields || {}; }
}
const call = async (method, path, body, headers = {}) => {
  let response;
  try {
    response = await fetch(path, { method, body, headers, credentials: "same-origin" });
  } catch {
    throw new Failed("the server does not answer: is maury serve still running?", 0);
  }
  if (response.status === 204) return null;
  const text = await response.text();
  let data = null;
  try { data = JSON.parse(text); } catch { /* said below */ }
  if (!response.ok) throw new Failed(data?.error || `the server answered with status ${response.status}`, response.status, data?.fields);
  return data;
};
const say = (message) => {
  $("message").textContent = message || "";
  $("message").hidden = !message;
};

// --- what is kept while the page is loaded again -------------------------------------------------------------------------
const fields = () => [...document.querySelectorAll("#form select:not([data-prior]), #form > .field input, #form .pair input")];
const keep = () => {
  const form = Object.fromEntries(fields().map((input) => [input.id, input.value]));
  const priors = [...document.querySelectorAll("select[data-prior]")].filter((kind) => kind.value).map((kind) => ({
    name: kind.dataset.prior, kind: kind.value, values: [...document.querySelectorAll(`input[data-prior="${kind.dataset.prior}"]`)].map((i) => i.value),
  }));
  const { regions: kept, sort, refused } = state;
  try {
    sessionStorage.setItem("maury", JSON.stringify({ file: state.file?.id, index: state.index, chosen: state.chosen, regions: kept, sort, refused, form, priors }));
  } catch { /* a browser that keeps nothing */ }
};
const kept = () => {
  try { return JSON.parse(sessionStorage.getItem("maury")) || {}; } catch { return {}; }
};
const restore = ({ form = {}, priors = [] }) => {
  if (form.model && [...$("model").options].some((option) => option.value === form.model)) $("model").value = form.model;
  priorForm();
  for (const input of fields()) if (form[input.id] !== undefined && input.id !== "model") input.value = form[input.id];
  for (const { name, kind, values } of priors) {
    if (!$(`p-${name}`)) continue;
    $(`p-${name}`).value = kind;
    $(`p-${name}`).dispatchEvent(new Event("change"));
    document.querySelectorAll(`input[data-prior="${name}"]`).forEach((input, i) => { input.value = values[i] ?? ""; });
  }
};

// --- files -------------------------------------------------------------------------------------------------------------
const send = async (chosen) => {
  const list = [...chosen].map((file) => ({ file, name: file.name, state: "waits to be sent" }));
  if (!list.length) return;
  say("");
  state.arriving.push(...list);
  $("drop").classList.add("busy");
  layout();
  let first = true;
  for (const entry of list) {
    const { file } = entry;
    entry.state = "being sent";
    table();
    let made = null, reason = "";
    try {
      // Known before a byte is sent, where the server would cut the connection.
      if (file.size > state.config.max_upload) {
        throw new Failed(`larger than ${Math.floor(state.config.max_upload / 2 ** 20)} MB, which this server takes; maury infer on the command line has no such limit`, 413);
      }
      made = await call("POST", `/api/files?name=${encodeURIComponent(file.name)}`, file, { "Content-Type": "application/octet-stream" });
    } catch (error) {
      const said = error.status ? error.message : "could not be sent: a folder, a file that has changed, or no connection";
      reason = said.startsWith(`${file.name}: `) ? said.slice(file.name.length + 2) : said;
    }
    state.arriving = state.arriving.filter((other) => other !== entry);
    if (made) {
      // An answer that was on its way before does not know of it yet.
      made.since = performance.now();
      state.files.push(made);
      // The first is looked at; of the others the table tells.
      if (first || !state.file) await open(made.id);
      first = false;
      await run(made, 0);
    } else state.refused.push({ name: file.name, reason });
    layout();
  }
  $("drop").classList.toggle("busy", state.arriving.length > 0);
  layout();
};

const layout = () => {
  const any = state.files.length + state.arriving.length + state.refused.length;
  $("drop").classList.toggle("small", any > 0);
  $("drop-title").textContent = any ? "Drop more spectra" : "Drop spectra here";
  $("choose").classList.toggle("main", !any);
  $("list").hidden = !any;
  $("list").classList.toggle("one", any === 1);
  $("form").classList.toggle("one", state.files.length < 2);
  $("desk").hidden = !state.file;
  table();
  keep();
};

// What the table shows of each file: of its runs the last one that is done, or else the last.
const entries = () => [
  ...state.files.map((file) => {
    const last = file.runs.at(-1), done = file.runs.findLast((made) => made.state === "done"), note = state.notes[file.id];
    const shown = last && !active(last) && last.state !== "done" && !done ? last : done;
    const result = done?.result;
    return {
      file, name: file.name, snr: file.spectra[(done ?? last)?.index ?? 0]?.snr, result, state: !last ? (note ? "not run" : "waits") : last.state === "done" ? "done" : stateOf(last),
      wrong: note || (shown?.state === "failed" ? shown.error : "") || (!result && !note ? file.trouble : ""), last,
    };
  }),
  ...state.refused.map((one) => ({ refused: one, name: one.name, state: "refused", wrong: one.reason })),
  ...state.arriving.map((one) => ({ name: one.name, state: one.state, wrong: "" })),
];

const KEYS = {
  name: (e) => e.name.toLowerCase(), snr: (e) => e.snr, state: (e) => e.state, verdict: (e) => e.result && GRAVITY[e.result.verdict],
};
const sorted = (list) => {
  if (!state.sort) return list;
  const { key, down } = state.sort, value = KEYS[key] || ((e) => e.result && rows(e.result)[key]?.p50);
  return [...list].sort((a, b) => {
    const x = value(a), y = value(b);
    // What has no value stands last either way.
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return down ? -order : order;
  });
};

const valueOf = (result, name) => {
  const s = rows(result)[name];
  if (!s) return "";
  if (name in result.limits) return `< ${fixed(result.limits[name], 1)}`;
  const total = s.total ?? s.std, n = digits(total);
  return `${fixed(s.p50, n)} ± ${fixed(total, n)}`;
};

const table = () => {
  const list = entries(), done = list.filter((e) => e.result).length, busy = state.files.some((file) => file.runs.some(active));
  const columns = COLUMNS.filter((name) => list.some((e) => e.result && name in rows(e.result)));
  const heads = [["name", "file"], ["snr", "S/N"], ["state", "state"], ["verdict", "verdict"], ...columns.map((name) => [name, named(name)])];
  const units = (name) => list.find((e) => e.result && rows(e.result)[name]?.unit)?.result.labels[name]?.unit || "";
  const focus = document.activeElement?.closest("#files") ? [document.activeElement.dataset.key, document.activeElement.dataset.file] : [];
  $("tally").textContent = `${done} of ${list.length} done${state.refused.length ? `, ${state.refused.length} refused` : ""}`;
  $("zip").hidden = !done;
  $("cancel-all").hidden = !busy;
  $("files").tHead.replaceChildren(el("tr", {}, ...heads.map(([key, text]) => el("th", {
    scope: "col", className: ["name", "state", "verdict"].includes(key) ? "left" : "",
    ...(state.sort?.key === key ? { "aria-sort": state.sort.down ? "descending" : "ascending" } : {}),
  }, el("button", { type: "button", className: "sort", textContent: text, data: { key }, on: { click: () => sortBy(key) } }),
  ...(units(key) ? [el("small", { textContent: units(key) })] : []))), el("th", { scope: "col" }, el("span", { className: "hidden", textContent: "remove" }))));
  $("files").tBodies[0].replaceChildren(...sorted(list).map((e) => {
    const own = e.file && e.file.id === state.file?.id;
    const name = e.file ? el("button", { type: "button", textContent: e.name, "aria-pressed": String(own), data: { file: e.file.id }, on: { click: () => open(e.file.id) } }) : el("span", { textContent: e.name });
    const said = e.result?.said;
    const verdict = el("td", { className: `left free many said ${e.result?.verdict || ""}`, title: said ? `${said.sentence} ${said.advice}` : "" },
      ...(said ? [el("span", { ariaHidden: "true", textContent: `${MARKS[e.result.verdict]} ` }), said.title] : []),
      ...(said?.reasons.length ? [el("small", { title: said.reasons.map(([flag, text]) => `${flag}: ${text}`).join("\n"), textContent: said.reasons.map(([flag]) => flag).join(", ") })] : []));
    const wrong = e.wrong ? el("td", { className: "left free error", colSpan: e.result ? 1 : 1 + columns.length, textContent: e.wrong }) : null;
    return el("tr", { className: `file${own ? " chosen" : ""}` },
      el("th", { scope: "row" }, name), el("td", { className: "many", textContent: e.snr === undefined ? "" : Math.round(e.snr) }),
      el("td", { className: "left", textContent: e.state }),
      ...(wrong && !e.result ? [wrong] : [verdict, ...columns.map((label) => el("td", { className: "many", textContent: e.result ? valueOf(e.result, label) : "" }))]),
      el("td", {}, ...(e.last && active(e.last) ? [el("button", { type: "button", className: "quiet many", textContent: "cancel", "aria-label": `Cancel ${e.name}`, on: { click: () => cancel(e.last) } })] : []),
        ...(e.file || e.refused ? [el("button", { type: "button", className: "quiet", textContent: "×", "aria-label": `Remove ${e.name}`, title: "Remove the file and its results", on: { click: () => (e.file ? remove(e.file) : dismiss(e.refused)) } })] : [])));
  }));
  if (focus[0]) $("files").querySelector(`[data-key="${focus[0]}"]`)?.focus();
  if (focus[1]) $("files").querySelector(`[data-file="${focus[1]}"]`)?.focus();
};
const sortBy = (key) => {
  state.sort = state.sort?.key === key ? (state.sort.down ? null : { key, down: true }) : { key, down: false };
  table();
  keep();
};
const dismiss = (one) => {
  state.refused = state.refused.filter((other) => other !== one);
  layout();
};

const forget = (id) => {
  state.files = state.files.filter((file) => file.id !== id);
  if (state.file?.id === id) {
    state.file = null;
    if (state.files.length) open(state.files.at(-1).id);
  }
  layout();
};

const remove = async (file) => {
  try { await call("DELETE", `/api/files/${file.id}`); } catch (error) { if (error.status !== 404) say(error.message); }
  forget(file.id);
};

const open = async (id, before = {}) => {
  state.file = state.files.find((file) => file.id === id);
  state.chosen = before.chosen ?? null;
  state.index = before.index ?? state.file.runs.at(-1)?.index ?? 0;
  const many = state.file.spectra.length > 1;
  $("which").hidden = !many;
  $("index").replaceChildren(...state.file.spectra.map((s) => el("option", {
    value: s.index, textContent: `${s.index + 1}: ${s.id}, S/N ${Math.round(s.snr)}${s.mjd ? `, MJD ${s.mjd}` : ""}`,
  })));
  $("index").value = state.index;
  layout();
  show();
  await load();
  keep();
};

const key = () => `${state.file.id}/${state.index}`;
const regions = () => (state.regions[key()] ??= []);

const load = async () => {
  const file = state.file, index = state.index;
  const about = file.spectra.find((s) => s.index === index);
  $("about").textContent = [
    about.id, `S/N ${Math.round(about.snr)}`, `${about.used} of ${about.pixels} pixels usable`,
    `${about.low.toFixed(0)} to ${about.high.toFixed(0)} Å (vacuum, ${about.frame} frame)`, file.trouble,
  ].filter(Boolean).join(" · ");
  try {
    const data = await call("GET", `/api/files/${file.id}/spectra/${index}`);
    if (state.file !== file || state.index !== index) return;
    plot.setSpectrum(data.chips);
    state.fitOf = "";
    zoomButtons(data.chips);
    drawRegions();
    show();
  } catch (error) { gone(error, file.id); }
};

const gone = (error, id) => {
  if (error.status === 404) { forget(id); say("This file has been deleted, as it was not used for some time. Drop it again."); } else say(error.message);
};

// --- the plot ------------------------------------------------------------------------------------------------------------
const plot = new Plot($("plot"), $("canvas"), {
  onSelect: (low, high) => mask(low, high),
  onRead: (text) => { $("reading").textContent = text; },
  onView: () => { zoomState(); $("dense").hidden = !plot.dense(); },
});
let parts = [];
const zoomButtons = (chips) => {
  const names = chips.length === 3 ? ["blue chip", "green chip", "red chip"] : chips.map((_, i) => `chip ${i + 1}`);
  parts = [["whole", plot.whole], ...(chips.length > 1 && chips.length < 8 ? chips.map((c, i) => [names[i], [c.wavelength[0], c.wavelength.at(-1)]]) : [])];
  const button = (text, label, click) => el("button", { type: "button", textContent: text, "aria-label": label, title: label, on: { click } });
  $("zoom").replaceChildren(
    ...parts.map(([name, view]) => el("button", { type: "button", textContent: name, "aria-pressed": "false", on: { click: () => plot.show(...view) } })),
    button("\u2212", "Zoom out", () => plot.zoom(2)), button("+", "Zoom in", () => plot.zoom(0.5)),
    button("◀", "To shorter wavelengths", () => plot.pan(-0.5)), button("▶", "To longer wavelengths", () => plot.pan(0.5)),
  );
  zoomState();
};
const zoomState = () => parts.forEach(([, view], i) => {
  const same = view.every((edge, k) => Math.abs(edge - plot.view[k]) < 1e-6);
  $("zoom").children[i]?.setAttribute("aria-pressed", String(same));
});

const mask = (low, high) => {
  const at = (value) => Number(value.toFixed(2));
  regions().push([at(low), at(high)]);
  $("e-mask").textContent = "";
  drawRegions();
  keep();
};
const drawRegions = (problems = {}) => {
  plot.setRegions(regions());
  $("regions").replaceChildren(...regions().map(([low, high], i) => el("li", {},
    `${low.toFixed(2)} to ${high.toFixed(2)} Å `,
    el("button", {
      type: "button", className: "quiet", textContent: "remove", "aria-label": `Remove the region ${low.toFixed(2)} to ${high.toFixed(2)}`,
      on: { click: () => { regions().splice(i, 1); drawRegions(); keep(); ($("regions").querySelector("button") || $("from")).focus(); } },
    }),
    el("p", { className: "error", textContent: problems[i] || "" }),
  )));
};
$("mask").addEventListener("submit", (event) => {
  event.preventDefault();
  const low = number($("from").value), high = number($("to").value), about = state.file.spectra.find((s) => s.index === state.index);
  let problem = "";
  if (low === null || high === null) problem = "Two wavelengths in Å are wanted.";
  else if (!(low < high)) problem = "The second must be larger than the first.";
  else if (high < about.low || low > about.high) problem = `The spectrum covers ${about.low.toFixed(1)} to ${about.high.toFixed(1)} Å.`;
  for (const id of ["from", "to"]) $(id).setAttribute("aria-invalid", String(Boolean(problem)));
  $("e-mask").textContent = problem;
  if (problem) return;
  mask(low, high);
  $("from").value = $("to").value = "";
  $("from").focus();
});

// --- settings ------------------------------------------------------------------------------------------------------------
const priorRow = (label) => {
  const { name, unit, prior } = label, id = `p-${name}`;
  const numbers = el("div", { className: "numbers", hidden: true });
  const kind = el("select", { id, data: { prior: name } },
    el("option", { value: "", textContent: `model: ${prior.low} to ${prior.high}${unit && unit !== "dex" ? ` ${unit}` : ""}` }),
    el("option", { value: "normal", textContent: "measured: value ± error" }),
    el("option", { value: "range", textContent: "range: from … to" }));
  kind.addEventListener("change", () => {
    const input = (field, text) => el("input", {
      id: `p-${name}-${field}`, inputMode: "decimal", "aria-label": `${named(name)}: ${text}`, "aria-describedby": `e-${name}`,
      data: { prior: name, field },
    });
    const parts = { normal: [["mean", "value"], "±", ["sigma", "error"]], range: [["low", "from"], "to", ["high", "to"]] }[kind.value] || [];
    numbers.replaceChildren(...parts.map((part) => (typeof part === "string" ? el("span", { textContent: part }) : input(...part))));
    numbers.hidden = !parts.length;
    $(`e-${name}`).textContent = "";
  });
  return el("div", { className: "prior" }, el("label", { for: id, textContent: named(name), title: name }), kind, numbers,
    el("p", { className: "error", id: `e-${name}`, data: { field: `priors.${name}` } }));
};

const priorForm = () => {
  const model = state.config.models.find((m) => m.name === $("model").value);
  for (const option of $("labels").options) option.disabled = option.value !== "basic" && !model.elements;
  if ($("labels").selectedOptions[0].disabled) $("labels").value = "basic";
  left.clear();
  $("priors").replaceChildren(...model.labels.map(priorRow),
    ...(model.name === "auto" ? [el("p", { className: "note", textContent: "Labels whose range differs from model to model have the model's own priors." })] : []));
};

const reset = () => {
  $("form").reset();
  $("draws").value = state.config.draws;
  priorForm();
  errors({});
  keep();
};

// What is wrong with a prior or a number, by field: the server's own rules, known before it is asked.
const WRONG = "a number is wanted";
const wrongPrior = (name) => {
  const { low, high } = state.config.models.find((m) => m.name === $("model").value).labels.find((label) => label.name === name).prior;
  const span = high - low, wrong = {}, value = {};
  for (const input of document.querySelectorAll(`input[data-prior="${name}"]`)) {
    const { field } = input.dataset;
    value[field] = number(input.value);
    if (value[field] === null) wrong[field] = WRONG;
    else if (field !== "sigma" && !(value[field] >= low && value[field] <= high)) wrong[field] = `must lie in the model's range, ${low} to ${high}`;
  }
  if ("sigma" in value && !wrong.sigma) {
    if (!(value.sigma >= 1e-5 * span)) wrong.sigma = `must be at least ${Number((1e-5 * span).toPrecision(1))}`;
    else if (value.sigma > 1e3 * span) wrong.sigma = `must be at most ${1e3 * span}: the model's own prior is as flat`;
  }
  if ("high" in value && !wrong.low && !wrong.high && !(value.high > value.low)) wrong.high = "must be larger than the lower end";
  return Object.fromEntries(Object.entries(wrong).map(([field, message]) => [`priors.${name}.${field}`, message]));
};
const NUMBERS = { draws: [100, 20000], seed: [0, 2 ** 31 - 1] };
const wrongNumber = (field) => {
  const value = number($(field).value), [low, high] = NUMBERS[field];
  if (value === null) return { [field]: WRONG };
  return Number.isInteger(value) && value >= low && value <= high ? {} : { [field]: `must be a whole number, ${low} to ${high}` };
};
// A field is judged when it has been left, and again while what was wrong with it is mended.
const left = new Set();
const judge = (input, leaving) => {
  const { prior, field } = input.dataset;
  if (!prior && !(input.id in NUMBERS)) return;
  const key = prior ? `priors.${prior}.${field}` : input.id;
  if (leaving) left.add(key);
  const place = $(prior ? `e-${prior}` : `e-${input.id}`);
  if (!leaving && !place.textContent) return;
  const wrong = prior ? wrongPrior(prior) : wrongNumber(input.id);
  const told = Object.fromEntries(Object.entries(wrong).filter(([name]) => left.has(name)));
  place.textContent = [...new Set(Object.values(told))].join("; ");
  for (const other of prior ? document.querySelectorAll(`input[data-prior="${prior}"]`) : [input]) {
    const name = prior ? `priors.${prior}.${other.dataset.field}` : other.id;
    if (told[name]) other.setAttribute("aria-invalid", "true");
    else other.removeAttribute("aria-invalid");
  }
};

const errors = (fields) => {
  document.querySelectorAll("#form .error, #e-mask").forEach((p) => { p.textContent = ""; });
  document.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
  const rest = [], inRegions = {};
  for (const [field, message] of Object.entries(fields)) {
    const [top, name, part] = field.split(".");
    const place = [...document.querySelectorAll("[data-field]")].find((p) => field === p.dataset.field || field.startsWith(`${p.dataset.field}.`));
    if (top === "regions" && name !== undefined) inRegions[name] = message;
    else if (place) {
      // Of several fields with one fault it is said once.
      const said = place.textContent ? place.textContent.split("; ") : [];
      place.textContent = [...new Set([...said, message])].join("; ");
    }
    else rest.push(`${field}: ${message}`);
    const input = top === "priors" ? $(`p-${name}-${part}`) || $(`p-${name}`) : $(top);
    if (input?.matches?.("input, select")) input.setAttribute("aria-invalid", "true");
  }
  $("e-rest").textContent = rest.join("; ");
  if (state.file) drawRegions(inRegions);
  document.querySelector("[aria-invalid='true']")?.focus();
};

const wanted = () => {
  const priors = {}, wrong = {};
  for (const kind of document.querySelectorAll("select[data-prior]")) {
    if (!kind.value) continue;
    const name = kind.dataset.prior;
    priors[name] = { kind: kind.value };
    for (const input of document.querySelectorAll(`input[data-prior="${name}"]`)) priors[name][input.dataset.field] = number(input.value);
    Object.assign(wrong, wrongPrior(name));
  }
  for (const field of Object.keys(NUMBERS)) Object.assign(wrong, wrongNumber(field));
  Object.keys(wrong).forEach((name) => left.add(name));
  const body = {
    model: $("model").value, labels: $("labels").value, noise: $("noise").value,
    companion: $("companion").value, draws: number($("draws").value), seed: number($("seed").value), priors,
  };
  return { body, wrong };
};

// Run a spectrum of a file with the settings as they are; what keeps it from running is said beside it.
const run = async (file, index) => {
  const { body, wrong } = wanted(), shown = file === state.file;
  errors(wrong);
  delete state.notes[file.id];
  if (Object.keys(wrong).length) {
    state.notes[file.id] = "not run: a setting is wrong";
    table();
    return;
  }
  $("run").disabled = $("run-all").disabled = true;
  try {
    const made = await call("POST", "/api/runs", JSON.stringify({ ...body, upload: file.id, index, regions: state.regions[`${file.id}/${index}`] || [] }), { "Content-Type": "application/json" });
    file.runs.push(made);
    if (shown) state.chosen = made.id;
    poll(0);
  } catch (error) {
    if (error.status === 404) gone(error, file.id);
    else {
      state.notes[file.id] = `not run: ${error.message}`;
      if (Object.keys(error.fields || {}).length) errors(error.fields);
      else if (shown) $("e-rest").textContent = error.message;
    }
  } finally {
    $("run").disabled = $("run-all").disabled = false;
  }
  table();
  show();
};
const runAll = async () => {
  for (const file of [...state.files]) await run(file, file === state.file ? state.index : file.runs.at(-1)?.index ?? 0);
};

// --- runs ----------------------------------------------------------------------------------------------------------------
const describe = (made) => {
  const w = made.wanted, parts = [w.model];
  if (w.labels !== "basic") parts.push(w.labels === "cno" ? "with C, N, O" : "all elements");
  for (const [name, p] of Object.entries(w.priors)) {
    parts.push(`${named(name)} ${p.mean !== undefined ? `${p.mean} ± ${p.sigma}` : `${p.low} to ${p.high}`}`);
  }
  if (w.regions.length) parts.push(`without ${w.regions.map(([a, b]) => `${a.toFixed(1)}–${b.toFixed(1)} Å`).join(", ")}`);
  if (w.noise !== "auto") parts.push(`${w.noise} noise`);
  if (w.companion !== "no") parts.push(w.companion === "yes" ? "two stars" : "second star if needed");
  if (w.draws !== state.config.draws) parts.push(`${w.draws} draws`);
  if (w.seed) parts.push(`seed ${w.seed}`);
  if (state.file.spectra.length > 1) parts.unshift(`spectrum ${made.index + 1}`);
  return parts.join(" · ");
};

const stateOf = (made) => ({
  queued: made.ahead ? `waits for ${made.ahead} other${made.ahead > 1 ? "s" : ""}` : state.ready ? "waits" : "waits: the model is being loaded",
  running: made.stage || "starts", done: `done, ${made.seconds.toFixed(1)} s`, failed: "failed", cancelled: "cancelled",
}[made.state]);
const active = (made) => made.state === "queued" || made.state === "running";

const steps = (made) => {
  const seen = made.stages.map((s) => s.name);
  const rare = ["nested sampling", "companion"].filter((name) => seen.includes(name));
  const list = seen.every((name) => STEPS.includes(name) || rare.includes(name))
    ? STEPS.flatMap((name) => (name === "report" ? [...rare, name] : [name])) : seen;
  return el("ol", { className: "steps", "aria-label": "Stages" }, ...list.map((name) => el("li", {
    textContent: name, className: name === made.stage ? "now" : seen.includes(name) ? "past" : "", ...(name === made.stage ? { "aria-current": "step" } : {}),
  })));
};

const numbersOf = (result) => el("dl", { className: "numbers-list" }, ...Object.entries(rows(result)).map(([name, s]) => {
  // The total error first, which counts what the choice of the library does.
  const limit = name in result.limits, total = s.total ?? s.std, n = digits(total);
  const own = !limit && total > s.std ? [el("small", { className: "own", textContent: `\u00b1 ${fixed(s.std, digits(s.std))} statistical` })] : [];
  return el("div", {}, el("dt", { textContent: (named(name)) + (s.unit ? ` [${s.unit}]` : "") }),
    el("dd", { data: { label: name, p50: s.p50, std: s.std } }, ...(limit ? [`< ${fixed(result.limits[name], 1)} `, el("small", { textContent: "95 % limit" })]
      : [`${fixed(s.p50, n)} `, el("small", { textContent: `± ${fixed(total, n)}` }), ...own])));
}));

const elementsOf = (result) => (result.abundances?.length ? [
  el("h4", { textContent: "Elements, [X/Fe] in dex" }),
  el("dl", { className: "numbers-list elements" }, ...result.abundances.map((a) => {
    const n = digits(a.fe_std);
    return el("div", {}, el("dt", { textContent: a.element }), el("dd", {}, ...(a.measured
      ? [`${fixed(a.fe_p50, n)} `, el("small", { textContent: `± ${fixed(a.fe_std, n)}` })] : [`< ${fixed(a.fe_ul95, 2)} `, el("small", { className: "own", textContent: "not measured" })])));
  })),
] : []);

const flagsOf = (result) => {
  const bad = new Set(result.flag_bad);
  return [
    el("ul", { className: "flags" }, ...result.said.reasons.map(([flag, text]) => el("li", {},
      el("code", { className: bad.has(flag) ? "bad" : "warn", textContent: flag, title: `maury explain ${flag}` }), ` ${text}`))),
    el("p", { className: "note" }, `${result.method}; k-hat ${fixed(result.khat, 2)}; ${Math.round(result.ess)} effective of ${result.draws} draws; χ²/n ${fixed(result.rchi2_jitter, 2)}; `,
      result.said.reasons.length ? `maury explain ${result.said.reasons[0][0]} says more` : "no flags"),
  ];
};

const card = (made) => {
  const chosen = made.id === state.chosen, done = made.state === "done";
  const said = stateOf(made);
  const head = el("div", { className: "head" }, el("h3", { textContent: `Run ${made.number}` }), el("p", { className: "soft", textContent: said }),
    ...(active(made) ? [el("button", { type: "button", className: "quiet", textContent: "Cancel", "aria-label": `Cancel run ${made.number}`, on: { click: () => cancel(made) } })] : []),
    ...(done && !chosen ? [el("button", { type: "button", className: "quiet", textContent: "Show", "aria-label": `Show run ${made.number}`, on: { click: () => { state.chosen = made.id; show(); } } })] : []));
  const node = el("li", { className: `run${chosen ? " chosen" : ""}`, data: { state: made.state, run: made.number } }, head, el("p", { className: "what", textContent: describe(made) }));
  if (made.state === "running") node.append(steps(made));
  if (made.error && made.state !== "done") node.append(el("p", { className: "error", textContent: made.error }));
  if (done && chosen) {
    const link = (path, text) => el("a", { href: `/api/runs/${made.id}/${path}`, textContent: text, download: "" });
    const { sentence, advice } = made.result.said;
    node.append(el("p", { className: `said ${made.result.verdict}` }, el("span", { ariaHidden: "true", textContent: `${MARKS[made.result.verdict]} ` }), el("strong", { textContent: sentence }), advice ? ` ${advice}` : ""),
      numbersOf(made.result), ...elementsOf(made.result), ...flagsOf(made.result), el("p", { className: "bar" },
      el("span", { className: "soft", textContent: "Download" }), link("draws", "draws (netCDF)"), link("numbers", "numbers (JSON)"), link("report?download=true", "report (HTML)")));
  }
  return node;
};

const show = () => {
  if (!state.file) return;
  const runs = state.file.runs;
  for (const made of runs) Object.assign(NAMES, made.result?.names);
  const here = runs.find((made) => made.id === state.chosen);
  if (!here) state.chosen = runs.findLast((made) => made.state === "done")?.id ?? null;
  $("no-runs").hidden = runs.length > 0;
  // What did not change keeps its nodes, and with them the focus.
  const cards = new Map([...$("runs").children].map((node) => [node.dataset.key, node]));
  $("runs").replaceChildren(...[...runs].reverse().map((made) => {
    const now = JSON.stringify([made.id, made.state, made.stage, made.ahead, made.id === state.chosen, state.ready]);
    const node = cards.get(now) || card(made);
    node.dataset.key = now;
    return node;
  }));
  const doing = runs.findLast(active) || runs.at(-1);
  $("progress").textContent = doing ? `Run ${doing.number}: ${doing.state === "running" ? doing.stage : doing.state}` : "";
  compare();
  report();
  keep();
};

const report = async () => {
  const made = state.file.runs.find((r) => r.id === state.chosen && r.state === "done");
  $("report").hidden = !made;
  $("legend-model").hidden = !made || made.index !== state.index;
  if (!made) { state.shown = ""; state.fitOf = ""; panels([]); plot.setModel(null); return; }
  if (state.shown !== made.id) {
    state.shown = made.id;
    $("frame").src = `/api/runs/${made.id}/report?still=true`;
    $("open").href = `/api/runs/${made.id}/report`;
    $("report-title").textContent = `Report of run ${made.number}`;
  }
  $("model-of").textContent = made.number;
  const want = `${made.id}/${key()}`;
  if (state.fitOf === want) return;
  state.fitOf = want;
  if (made.index !== state.index) { plot.setModel(null); panels([]); return; }
  try {
    const fit = await call("GET", `/api/runs/${made.id}/fit`);
    if (state.fitOf !== want) return;
    plot.setModel(fit);
    panels(fit.panels);
  } catch { /* the numbers are there all the same */ }
};

// The windows that tell most, as the report draws them.
const panels = (list) => {
  plot.setWindows(list.map((panel) => [panel.low, panel.high]));
  $("windows-of").hidden = $("legend-window").hidden = !list.length;
  $("dense").hidden = !plot.dense();
  $("windows").replaceChildren(...list.map((panel, i) => {
    const picture = document.importNode(new DOMParser().parseFromString(panel.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '), "image/svg+xml").documentElement, true);
    const look = () => { plot.show(panel.low, panel.high); $("plot").scrollIntoView({ block: "nearest" }); };
    return el("figure", {}, picture, el("figcaption", {},
      el("button", { type: "button", className: "number", textContent: i + 1, "aria-label": `Show window ${i + 1} above`, on: { click: look } }), ` ${panel.title}`));
  }));
};
// The report is as high as it is long: nothing scrolls inside the page.
const fit = () => {
  const inside = $("frame").contentDocument?.documentElement;
  if (inside) $("frame").style.height = `${inside.querySelector("body").scrollHeight + 4}px`;
};
$("frame").addEventListener("load", fit);
addEventListener("resize", fit);

const compare = () => {
  const done = state.file.runs.filter((made) => made.state === "done").slice(-SHOWN);
  $("compare").hidden = done.length < 2;
  if (done.length < 2) return;
  const before = $("reference").value;
  $("reference").replaceChildren(...done.map((made) => el("option", { value: made.id, textContent: `run ${made.number}` })));
  $("reference").value = done.some((made) => made.id === before) ? before : done[0].id;
  const reference = done.find((made) => made.id === $("reference").value), base = rows(reference.result);
  const names = [...new Set(done.flatMap((made) => Object.keys(rows(made.result))))];
  const cell = (made, name) => {
    const s = rows(made.result)[name], r = base[name];
    if (!s) return el("td", { textContent: "\u2013" });
    const n = digits(s.std), limit = made.result.limits[name];
    const out = el("td", { data: { label: name, run: made.number } }, limit === undefined ? `${fixed(s.p50, n)} ± ${fixed(s.std, n)}` : `< ${fixed(limit, 1)}`);
    if (r && made !== reference && limit === undefined) {
      const moved = (s.p50 - r.p50) / r.std;
      out.append(el("small", { className: Math.abs(moved) > 2 ? "far" : "", textContent: `${moved > 0.05 ? "+" : ""}${fixed(moved, 1)} σ` }));
    }
    return out;
  };
  $("table").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col", textContent: "label" }), ...done.map((made) => el("th", { scope: "col" }, `run ${made.number}`, el("small", { textContent: describe(made) }))))),
    el("tbody", {}, ...names.map((name) => el("tr", {}, el("th", { scope: "row", textContent: named(name) }), ...done.map((made) => cell(made, name)))),
      el("tr", {}, el("th", { scope: "row", textContent: "ln Z" }), ...done.map((made) => el("td", { textContent: fixed(made.result.log_evidence, 1) })))));
};

const cancel = async (made) => {
  try { Object.assign(made, await call("POST", `/api/runs/${made.id}/cancel`)); } catch (error) { say(error.message); }
  show();
  poll(0);
};

// --- what is new ---------------------------------------------------------------------------------------------------------
let timer = 0;
const poll = (wait) => {
  clearTimeout(timer);
  timer = setTimeout(ask, wait);
};
const ask = async () => {
  const began = performance.now();
  try {
    const now = await call("GET", "/api/files");
    state.ready = now.ready;
    $("ready").textContent = now.ready ? "model ready" : "the model is being loaded …";
    const known = new Map(now.files.map((file) => [file.id, file]));
    for (const file of [...state.files]) {
      if (!known.has(file.id)) {
        if (file.since > began) continue;
        forget(file.id); say(`${file.name} has been deleted, as it was not used for some time. Drop it again.`);
      } else if (!(file.since > began)) file.runs = known.get(file.id).runs; // The rest of a file does not change.
    }
    table();
    show();
  } catch (error) {
    $("ready").textContent = "no connection";
    if (state.files.some((file) => file.runs.some(active))) say(error.message);
  }
  poll(state.files.some((file) => file.runs.some(active)) ? 300 : state.ready ? 15000 : 1000);
};

const start = async () => {
  try {
    state.config = await call("GET", "/api/config");
    state.files = (await call("GET", "/api/files")).files;
  } catch (error) { say(error.message); return; }
  $("model").replaceChildren(...state.config.models.map((m) => el("option", { value: m.name, textContent: m.name === "auto" ? "auto: the evidence chooses" : m.name })));
  const minutes = Math.round(state.config.keep / 60);
  $("kept").textContent = `, and are deleted ${minutes >= 1 ? `${minutes} minute${minutes > 1 ? "s" : ""}` : "soon"} after their last use`;
  $("foot").textContent = `maury ${state.config.version}`;
  $("draws").value = state.config.draws;
  for (const model of state.config.models) for (const label of model.labels) NAMES[label.name] = label.short;
  const before = kept();
  Object.assign(state, { regions: before.regions || {}, sort: before.sort || null, refused: before.refused || [] });
  restore(before);
  for (const file of state.files) for (const made of file.runs) Object.assign(NAMES, made.result?.names);
  if (state.files.length) {
    const file = state.files.find((one) => one.id === before.file) || state.files.at(-1);
    await open(file.id, before.file === file.id ? before : {});
  }
  layout();
  poll(0);
  document.body.dataset.started = "yes";
};

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { send($("file").files); $("file").value = ""; });
$("index").addEventListener("change", () => { state.index = Number($("index").value); keep(); load(); });
$("model").addEventListener("change", priorForm);
$("form").addEventListener("change", keep);
$("form").addEventListener("focusout", (event) => { if (event.target.matches("input")) judge(event.target, true); });
$("form").addEventListener("input", (event) => { if (event.target.matches("input")) judge(event.target, false); });
$("clear").addEventListener("click", reset);
$("reference").addEventListener("change", compare);
$("form").addEventListener("submit", (event) => { event.preventDefault(); run(state.file, state.index); });
$("run-all").addEventListener("click", runAll);
$("cancel-all").addEventListener("click", async () => {
  try { await call("POST", "/api/cancel"); } catch (error) { say(error.message); }
  poll(0);
});
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  send(event.dataTransfer.files);
});
// A page that is closed need not have its runs finished.
addEventListener("pagehide", () => { fetch("/api/leave", { method: "POST", keepalive: true }).catch(() => {}); });
addEventListener("pageshow", (event) => { if (event.persisted) poll(0); });
start();
