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

const NAMES = {
  teff: "Teff", logg: "log g", m_h: "[M/H]", alpha_m: "[α/M]", v_rad: "v rad", v_sini: "v sin i", jitter: "jitter", v_bary: "v bary",
  teff_2: "Teff (2)", logg_2: "log g (2)", v_rad_2: "v rad (2)", v_sini_2: "v sin i (2)", flux_ratio: "F₂/F₁",
};
const STEPS = ["reading", "flow", "refine", "weigh", "report"];
const SHOWN = 6;
const state = { config: null, ready: false, files: [], file: null, index: 0, regions: {}, chosen: null, shown: "", fitOf: "" };

// --- numbers -------------------------------------------------------------------------------------------------------------
const digits = (error) => (error > 0 ? Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(error)))) : 3);
const fixed = (value, n) => (Number.isFinite(value) ? value.toFixed(n).replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212") : "\u2013");
const number = (text) => {
  const value = Number(String(text).trim().replace("\u2212", "-").replace(",", "."));
  return String(text).trim() === "" || !Number.isFinite(value) ? null : value;
};
const rows = (result) => {
  const out = { ...result.labels };
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

// --- files -------------------------------------------------------------------------------------------------------------
const send = async (chosen) => {
  const list = [...chosen];
  if (!list.length) return;
  say("");
  $("drop").classList.add("busy");
  const problems = [];
  for (const [i, file] of list.entries()) {
    $("drop-title").textContent = `Sending ${file.name}${list.length > 1 ? ` (${i + 1} of ${list.length})` : ""}`;
    try {
      // Known before a byte is sent, where the server would cut the connection.
      if (file.size > state.config.max_upload) {
        throw new Failed(`${file.name}: larger than ${Math.floor(state.config.max_upload / 2 ** 20)} MB, which this server takes; maury infer on the command line has no such limit`, 413);
      }
      const kept = await call("POST", `/api/files?name=${encodeURIComponent(file.name)}`, file, { "Content-Type": "application/octet-stream" });
      state.files.push(kept);
      await open(kept.id);
      if (kept.spectra.length === 1) await run();
    } catch (error) {
      problems.push(error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`);
    }
  }
  $("drop").classList.remove("busy");
  say(problems.join("\n"));
  layout();
};

const layout = () => {
  const any = state.files.length > 0;
  $("drop").classList.toggle("small", any);
  $("drop-title").textContent = any ? "Drop another spectrum" : "Drop a spectrum here";
  $("choose").classList.toggle("main", !any);
  $("files").hidden = !any;
  $("desk").hidden = !state.file;
  $("files").replaceChildren(...state.files.map((file) => el("span", { className: "file" },
    el("button", { type: "button", textContent: file.name, "aria-pressed": file.id === state.file?.id, on: { click: () => open(file.id) } }),
    el("button", { type: "button", textContent: "×", "aria-label": `Remove ${file.name}`, title: "Remove the file and its results", on: { click: () => remove(file) } }),
  )));
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

const open = async (id) => {
  state.file = state.files.find((file) => file.id === id);
  state.chosen = null;
  state.index = state.file.runs.at(-1)?.index ?? 0;
  const many = state.file.spectra.length > 1;
  $("which").hidden = !many;
  $("index").replaceChildren(...state.file.spectra.map((s) => el("option", {
    value: s.index, textContent: `${s.index + 1}: ${s.id}, S/N ${Math.round(s.snr)}${s.mjd ? `, MJD ${s.mjd}` : ""}`,
  })));
  $("index").value = state.index;
  layout();
  show();
  await load();
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
  onView: () => zoomState(),
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
};
const drawRegions = (problems = {}) => {
  plot.setRegions(regions());
  $("regions").replaceChildren(...regions().map(([low, high], i) => el("li", {},
    `${low.toFixed(2)} to ${high.toFixed(2)} Å `,
    el("button", {
      type: "button", className: "quiet", textContent: "remove", "aria-label": `Remove the region ${low.toFixed(2)} to ${high.toFixed(2)}`,
      on: { click: () => { regions().splice(i, 1); drawRegions(); ($("regions").querySelector("button") || $("from")).focus(); } },
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
      id: `p-${name}-${field}`, inputMode: "decimal", "aria-label": `${NAMES[name] || name}: ${text}`, "aria-describedby": `e-${name}`,
      data: { prior: name, field },
    });
    const parts = { normal: [["mean", "value"], "±", ["sigma", "error"]], range: [["low", "from"], "to", ["high", "to"]] }[kind.value] || [];
    numbers.replaceChildren(...parts.map((part) => (typeof part === "string" ? el("span", { textContent: part }) : input(...part))));
    numbers.hidden = !parts.length;
    $(`e-${name}`).textContent = "";
  });
  return el("div", { className: "prior" }, el("label", { for: id, textContent: NAMES[name] || name, title: name }), kind, numbers,
    el("p", { className: "error", id: `e-${name}`, data: { field: `priors.${name}` } }));
};

const priorForm = () => {
  const model = state.config.models.find((m) => m.name === $("model").value);
  $("priors").replaceChildren(...model.labels.map(priorRow),
    ...(model.name === "auto" ? [el("p", { className: "note", textContent: "Labels whose range differs from model to model have the model's own priors." })] : []));
};

const reset = () => {
  $("form").reset();
  priorForm();
  errors({});
};

const errors = (fields) => {
  document.querySelectorAll("#form .error, #e-mask").forEach((p) => { p.textContent = ""; });
  document.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
  const rest = [], inRegions = {};
  for (const [field, message] of Object.entries(fields)) {
    const [top, name, part] = field.split(".");
    const place = [...document.querySelectorAll("[data-field]")].find((p) => field === p.dataset.field || field.startsWith(`${p.dataset.field}.`));
    if (top === "regions" && name !== undefined) inRegions[name] = message;
    else if (place) place.textContent = place.textContent ? `${place.textContent}; ${message}` : message;
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
    for (const input of document.querySelectorAll(`input[data-prior="${name}"]`)) {
      const value = number(input.value);
      if (value === null) wrong[`priors.${name}.${input.dataset.field}`] = "a number is wanted";
      priors[name][input.dataset.field] = value;
    }
  }
  for (const field of ["draws", "seed"]) if (number($(field).value) === null) wrong[field] = "a number is wanted";
  const body = {
    upload: state.file.id, index: state.index, model: $("model").value, noise: $("noise").value,
    companion: $("companion").value, draws: number($("draws").value), seed: number($("seed").value), priors, regions: regions(),
  };
  return { body, wrong };
};

const run = async () => {
  const { body, wrong } = wanted();
  errors(wrong);
  if (Object.keys(wrong).length) return;
  $("run").disabled = true;
  try {
    const made = await call("POST", "/api/runs", JSON.stringify(body), { "Content-Type": "application/json" });
    state.file.runs.push(made);
    state.chosen = made.id;
    show();
    poll(0);
  } catch (error) {
    if (Object.keys(error.fields || {}).length) errors(error.fields);
    else if (error.status === 404) gone(error, state.file.id);
    else $("e-rest").textContent = error.message;
  } finally {
    $("run").disabled = false;
  }
};

// --- runs ----------------------------------------------------------------------------------------------------------------
const describe = (made) => {
  const w = made.wanted, parts = [w.model];
  for (const [name, p] of Object.entries(w.priors)) {
    parts.push(`${NAMES[name] || name} ${p.mean !== undefined ? `${p.mean} ± ${p.sigma}` : `${p.low} to ${p.high}`}`);
  }
  if (w.regions.length) parts.push(`without ${w.regions.map(([a, b]) => `${a.toFixed(1)}–${b.toFixed(1)} Å`).join(", ")}`);
  if (w.noise !== "auto") parts.push(`${w.noise} noise`);
  if (w.companion !== "no") parts.push(w.companion === "yes" ? "two stars" : "second star if needed");
  if (w.draws !== 1000) parts.push(`${w.draws} draws`);
  if (w.seed) parts.push(`seed ${w.seed}`);
  if (state.file.spectra.length > 1) parts.unshift(`spectrum ${made.index + 1}`);
  return parts.join(" · ");
};

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
  const total = s.total ?? s.std, n = digits(total);
  const own = total > s.std ? [el("small", { className: "own", textContent: `\u00b1 ${fixed(s.std, digits(s.std))} statistical` })] : [];
  return el("div", {}, el("dt", { textContent: (NAMES[name] || name) + (s.unit ? ` [${s.unit}]` : "") }),
    el("dd", { data: { label: name, p50: s.p50, std: s.std } }, ...(name in result.limits ? [`< ${fixed(result.limits[name], 1)}`]
      : [`${fixed(s.p50, n)} `, el("small", { textContent: `± ${fixed(total, n)}` }), ...own])));
}));

const flagsOf = (result) => {
  const flag = (kind) => (name) => el("span", { className: kind, textContent: name });
  const all = [...result.flag_bad.map(flag("bad")), ...result.flag_warn.map(flag("warn"))];
  const parts = all.flatMap((node, i) => (i ? [", ", node] : [node]));
  return el("p", { className: "flags" },
    `${result.method}; k-hat ${fixed(result.khat, 2)}; ${Math.round(result.ess)} effective of ${result.draws} draws; χ²/n ${fixed(result.rchi2_jitter, 2)}; `,
    ...(parts.length ? ["flags: ", ...parts] : ["no flags"]));
};

const card = (made) => {
  const chosen = made.id === state.chosen, done = made.state === "done";
  const said = {
    queued: made.ahead ? `waits for ${made.ahead} other${made.ahead > 1 ? "s" : ""}` : state.ready ? "waits" : "waits: the model is being loaded",
    running: made.stage || "starts", done: `${made.seconds.toFixed(1)} s`, failed: "failed", cancelled: "cancelled",
  }[made.state];
  const head = el("div", { className: "head" }, el("h3", { textContent: `Run ${made.number}` }), el("p", { className: "soft", textContent: said }),
    ...(active(made) ? [el("button", { type: "button", className: "quiet", textContent: "Cancel", "aria-label": `Cancel run ${made.number}`, on: { click: () => cancel(made) } })] : []),
    ...(done && !chosen ? [el("button", { type: "button", className: "quiet", textContent: "Show", "aria-label": `Show run ${made.number}`, on: { click: () => { state.chosen = made.id; show(); } } })] : []));
  const node = el("li", { className: `run${chosen ? " chosen" : ""}`, data: { state: made.state, run: made.number } }, head, el("p", { className: "what", textContent: describe(made) }));
  if (made.state === "running") node.append(steps(made));
  if (made.error && made.state !== "done") node.append(el("p", { className: "error", textContent: made.error }));
  if (done && chosen) {
    const link = (path, text) => el("a", { href: `/api/runs/${made.id}/${path}`, textContent: text, download: "" });
    node.append(el("p", { className: `said ${made.result.verdict}`, textContent: made.result.said }), numbersOf(made.result), flagsOf(made.result), el("p", { className: "bar" },
      el("span", { className: "soft", textContent: "Download" }), link("draws", "draws (netCDF)"), link("numbers", "numbers (JSON)"), link("report?download=true", "report (HTML)")));
  }
  return node;
};

const show = () => {
  if (!state.file) return;
  const runs = state.file.runs;
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
};

const report = async () => {
  const made = state.file.runs.find((r) => r.id === state.chosen && r.state === "done");
  $("report").hidden = !made;
  $("legend-model").hidden = !made || made.index !== state.index;
  if (!made) { state.shown = ""; return; }
  if (state.shown !== made.id) {
    state.shown = made.id;
    $("frame").src = `/api/runs/${made.id}/report`;
    $("open").href = `/api/runs/${made.id}/report`;
    $("report-title").textContent = `Report of run ${made.number}`;
  }
  $("model-of").textContent = made.number;
  const want = `${made.id}/${key()}`;
  if (state.fitOf === want) return;
  state.fitOf = want;
  if (made.index !== state.index) { plot.setModel(null); return; }
  try {
    const fit = await call("GET", `/api/runs/${made.id}/fit`);
    if (state.fitOf === want) plot.setModel(fit);
  } catch { /* the numbers are there all the same */ }
};

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
    const n = digits(s.std), out = el("td", { data: { label: name, run: made.number } }, `${fixed(s.p50, n)} ± ${fixed(s.std, n)}`);
    if (r && made !== reference) {
      const moved = (s.p50 - r.p50) / r.std;
      out.append(el("small", { className: Math.abs(moved) > 2 ? "far" : "", textContent: `${moved > 0.05 ? "+" : ""}${fixed(moved, 1)} σ` }));
    }
    return out;
  };
  $("table").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col", textContent: "label" }), ...done.map((made) => el("th", { scope: "col" }, `run ${made.number}`, el("small", { textContent: describe(made) }))))),
    el("tbody", {}, ...names.map((name) => el("tr", {}, el("th", { scope: "row", textContent: NAMES[name] || name }), ...done.map((made) => cell(made, name)))),
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
  try {
    const now = await call("GET", "/api/files");
    state.ready = now.ready;
    $("ready").textContent = now.ready ? "model ready" : "the model is being loaded …";
    const known = new Map(now.files.map((file) => [file.id, file]));
    for (const file of [...state.files]) {
      if (!known.has(file.id)) { forget(file.id); say(`${file.name} has been deleted, as it was not used for some time. Drop it again.`); }
      // The rest of a file does not change.
      else file.runs = known.get(file.id).runs;
    }
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
  $("kept").textContent = `, and is deleted ${minutes >= 1 ? `${minutes} minute${minutes > 1 ? "s" : ""}` : "soon"} after its last use`;
  $("foot").textContent = `maury ${state.config.version}`;
  priorForm();
  if (state.files.length) await open(state.files.at(-1).id);
  layout();
  poll(0);
  document.body.dataset.started = "yes";
};

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { send($("file").files); $("file").value = ""; });
$("index").addEventListener("change", () => { state.index = Number($("index").value); load(); });
$("model").addEventListener("change", priorForm);
$("clear").addEventListener("click", reset);
$("reference").addEventListener("change", compare);
$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
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
