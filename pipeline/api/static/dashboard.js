// The dashboard: what the app tells by server-sent events is shown, nothing is kept. Text is always set as text.

const STALE_S = 8;
const PAGE = 50;
const POINTS = 600;
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
// The Swedish way of writing a time is ISO 8601's, in the zone of who looks.
const stamp = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
const hours = new Intl.DateTimeFormat("sv-SE", { timeStyle: "medium" });

function el(tag, attributes = {}, ...children) {
  const it = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) it.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) it.setAttribute(name, value === true ? "" : value);
  }
  it.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return it;
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function table(columns, rows, { label, cards = false } = {}) {
  return el("table", { class: cards && "cards", "aria-label": label },
    el("thead", {}, el("tr", {}, ...columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, at) =>
      el("td", { class: columns[at][1], "data-name": cards && columns[at][0] }, cell ?? "–"))))));
}

const clock = (seconds) => hours.format(new Date(seconds * 1000));
const moment = (text) => (text ? stamp.format(new Date(text)) : "–");
function span(seconds) {
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${number.format(seconds)} s`;
  return seconds < 7200 ? `${whole.format(seconds / 60)} min` : `${whole.format(seconds / 3600)} h`;
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.detail ?? `the app answers ${answer.status}`);
  return said;
}

// --- charts

class Chart {
  constructor(id, series, bars = false) {
    Object.assign(this, { box: $(id), series, bars, data: [[], ...series.map(() => [])] });
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  size() {
    return { width: Math.max(120, this.box.clientWidth), height: this.box.clientHeight };
  }

  draw() {
    this.plot?.destroy();
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high ?? 1)] } },
      axes: [
        { ...axis, size: 28, space: 80, values: (_, ticks) => ticks.map((tick) => (tick % 60 ? clock(tick) : clock(tick).slice(0, 5))) },
        { ...axis, size: 48, values: (_, ticks) => ticks.map((tick) => short.format(tick)) },
      ],
      series: [{}, ...this.series.map(({ variable }) => ({
        stroke: colour(variable), width: 1.6, points: { show: false },
        ...(this.bars && { fill: colour(variable), paths: uPlot.paths.bars({ size: [0.7, 40] }) }),
      }))],
    }, this.data, this.box);
  }

  show(data, words) {
    this.data = data;
    if (this.plot) this.plot.setData(data);
    else this.draw();
    this.box.setAttribute("aria-label", words);
  }
}

const charts = {
  rates: new Chart("chart-rates", [{ variable: "--accent" }, { variable: "--second" }]),
  lag: new Chart("chart-lag", [{ variable: "--accent" }]),
  revenue: new Chart("chart-revenue", [{ variable: "--accent" }], true),
};
let past = [[], [], [], []];

function drawHistory() {
  const [at, came, went, lag] = past;
  const last = (column, form) => (column.length && column.at(-1) !== null ? form.format(column.at(-1)) : "unknown");
  charts.rates.show([at, came, went], `Orders per second: ${last(came, number)} in, ${last(went, number)} out`);
  charts.lag.show([at, lag], `Lag: ${last(lag, whole)} records`);
}

// --- live

let look = null;
let heardAt = null;
let lookedAt = null;

function showLook(said) {
  look = said;
  heardAt = lookedAt = Date.now();
  const { broker, point, latency, letters, groups } = said;
  if (point && point[0] !== past[0].at(-1)) {
    past.forEach((column, at) => { column.push(point[at]); column.splice(0, column.length - POINTS); });
    drawHistory();
  }
  put("rate-in", point ? number.format(point[1]) : "–");
  put("rate-out", point?.[2] != null ? number.format(point[2]) : "–");
  const mine = groups.find(({ group }) => group === said.group);
  document.querySelectorAll(".group").forEach((it) => { it.textContent = said.group; });
  put("lag", mine?.lag != null ? whole.format(mine.lag) : "–");
  put("lag-behind", mine ? `records${mine.lag && behind(mine) >= 1 ? `, ${span(behind(mine))} behind` : ""}` : "no such group yet");
  put("latency", latency ? span(latency.p50 / 1000) : "–");
  put("latency-more", latency ? `${latency.kind === "measured" ? "median" : "at most"}, 95 % within ${span(latency.p95 / 1000)}` : "nothing in the last minute");
  put("due", letters.problem ? "–" : whole.format(letters.due));
  put("due-more", letters.problem ? "" : `${whole.format(letters.redriven)} redriven`);
  put("nav-due", whole.format(letters.due));
  $("nav-due").hidden = Boolean(letters.problem) || letters.due === 0;
  showRevenue(said.revenue, said.skipped);
  $("empty").hidden = Boolean(said.orders.length || broker.away_since || said.seen_at === null || groups.some(({ lag }) => lag));
  showOrders(said.orders);
  showTrouble(said);
  showGroups(groups);
  showReasons(letters.by_reason);
  showState();
  if (waitingForLetters) loadLetters();
}

const behind = (group) => Math.max(0, ...group.partitions.map(({ behind_s: s }) => s ?? 0));

function showRevenue(minutes, skipped) {
  const now = Math.floor(look.at / 60) * 60;
  const amounts = new Map(minutes.map(([minute, amount]) => [minute, Number(amount)]));
  const axis = amounts.size ? Array.from({ length: 30 }, (_, back) => now - (29 - back) * 60) : [];
  const values = axis.map((minute) => amounts.get(minute) ?? 0);
  const sum = amounts.get(now - 60) ?? 0;
  put("revenue", sum < 100000 ? money.format(sum) : short.format(sum));
  put("revenue-more", skipped ? "at least: more passes than is looked at" : "");
  charts.revenue.show([axis, values], `Revenue per minute: ${money.format(sum)} in the last whole minute`);
}

function showOrders(orders) {
  const rows = orders.toReversed().map(({ at, order_id: id, customer_id: customer, amount }) =>
    [clock(at), el("span", { class: "mono" }, id), customer, amount === null ? "–" : money.format(amount)]);
  $("orders").replaceChildren(rows.length
    ? table([["Written"], ["Order", "text"], ["Customer", "text"], ["Amount", "number"]], rows, { label: "Latest orders" })
    : el("p", { class: "none" }, "No order in the last quarter of an hour."));
}

function showTrouble({ letters, failures, groups }) {
  const retries = new Map();
  for (const { partitions } of groups) {
    for (const { topic, lag } of partitions) if (lag && /\.retry-/.test(topic)) retries.set(topic, (retries.get(topic) ?? 0) + lag);
  }
  const failed = Object.entries(failures ?? {}).filter(([, count]) => count);
  const counted = (entries, label) => table([[label, "text"], ["Count", "number"]], entries.map(([name, count]) => [name, whole.format(count)]), { label });
  const reasons = Object.entries(letters.by_reason);
  $("trouble").replaceChildren(...[
    letters.problem ? el("p", { class: "problem" }, `Dead letters: ${letters.problem}`) : null,
    el("div", { class: "card" }, reasons.length ? counted(reasons, "Dead letters due, by reason") : "No dead letter is due."),
    el("div", { class: "card" }, retries.size ? counted([...retries], "Waiting in retry topics") : "Nothing waits in retry topics."),
    failures === null ? null : el("div", { class: "card" }, failed.length ? counted(failed, "Failures here, by class") : "No failure in this process's worker."),
  ].filter(Boolean));
}

const opened = new Set();
function showGroups(groups) {
  $("groups").replaceChildren(...(groups.length ? groups.map(groupCard) : [el("p", { class: "none" }, "No consumer groups yet.")]));
}

function groupCard({ group, state, protocol, assignor, lag, partitions, members, problem }) {
  const facts = `${state}, ${protocol}${assignor ? ` (${assignor})` : ""}, ${members.length} member${members.length === 1 ? "" : "s"}, `
    + `lag ${lag === null ? "unknown" : whole.format(lag)}${lag ? `, ${span(behind({ partitions }))} behind` : ""}`;
  const part = (name, content) => el("details", { open: opened.has(group + name), ontoggle: (event) => {
    if (event.target.open) opened.add(group + name); else opened.delete(group + name);
  } }, el("summary", {}, name, el("span", { class: "visually-hidden" }, ` of ${group}`)), content);
  const assigned = ({ assigned: places }) => Object.entries(Object.groupBy(places, ({ topic }) => topic))
    .map(([topic, each]) => `${topic} [${each.map(({ partition }) => partition).join(" ")}]`).join(", ") || "nothing";
  return el("div", { class: "card" }, el("h4", {}, group), el("p", { class: "facts" }, facts),
    problem ? el("p", { class: "problem" }, problem) : null,
    members.length ? part("Members and assignment", table([["Member", "text"], ["Client", "text"], ["Host", "text"], ["Assigned", "text"]],
      members.map((member) => [member.instance ?? member.id, member.client, member.host, assigned(member)]), { cards: true, label: `Members of ${group}` })) : null,
    partitions.length ? part("Partitions", table([["Topic", "text"], ["Partition", "number"], ["Committed", "number"], ["End", "number"], ["Lag", "number"], ["Behind", "number"]],
      partitions.map((it) => [it.topic, it.partition, it.committed, it.end, it.lag, it.behind_s === null ? "–" : span(it.behind_s)]), { cards: true, label: `Partitions of ${group}` })) : null);
}

function showState() {
  const stale = heardAt !== null && Date.now() - heardAt > STALE_S * 1000;
  // A look that takes so long is one that the broker does not answer.
  const slow = lookedAt !== null && Date.now() - lookedAt > STALE_S * 1000;
  const away = look?.broker.away_since ?? (slow ? lookedAt / 1000 : null);
  const state = heardAt === null ? "waiting" : stale ? "stale" : away ? "away" : "live";
  $("pulse").dataset.state = state;
  put("pulse", { waiting: "connecting", stale: "no word of the app", away: "broker away", live: look?.redrive ? `redrive: ${look.redrive}` : "live" }[state]);
  const of = look?.seen_at ? ` What is shown is of ${clock(look.seen_at)}.` : "";
  const words = stale ? `The app has said nothing since ${clock(heardAt / 1000)}.${of}`
    : away ? `The broker at ${look.broker.where} has not answered since ${clock(away)}.${of} ${look.broker.why ?? ""}` : "";
  put("banner", words);
  $("banner").hidden = !words;
}

const events = new EventSource("/dashboard/events");
events.addEventListener("history", ({ data }) => { past = JSON.parse(data); drawHistory(); });
events.addEventListener("look", ({ data }) => { const said = JSON.parse(data); if (said.at) showLook(said); });
events.addEventListener("alive", () => { heardAt = Date.now(); });
events.addEventListener("error", () => { heardAt ??= Date.now(); });
setInterval(showState, 1000);

// --- dead letters

let offset = 0;
let total = 0;
let shown = 0;
let waitingForLetters = false;
const chosen = new Set();

function filters() {
  const values = Object.fromEntries(new FormData($("filters")));
  if (values.since) values.since = new Date(values.since).toISOString();
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value));
}

function showReasons(reasons) {
  const select = $("filters").elements.reason;
  const known = new Set([...select.options].map(({ value }) => value));
  for (const reason of Object.keys(reasons)) if (!known.has(reason)) select.append(el("option", { value: reason }, reason));
}

async function loadLetters() {
  waitingForLetters = false;
  const request = ++shown;
  try {
    const found = await ask(`/dashboard/letters?${new URLSearchParams({ ...filters(), offset, limit: PAGE })}`);
    if (request !== shown) return;
    total = found.total;
    if (offset && offset >= total) { offset = Math.max(0, Math.floor((total - 1) / PAGE) * PAGE); loadLetters(); return; }
    drawLetters(found.rows);
    put("letters-said", "");
  } catch (error) {
    put("letters-said", error.message);
    waitingForLetters = true;
  }
}

function drawLetters(rows) {
  const choice = (id) => el("input", { type: "checkbox", "aria-label": `Choose letter ${id}`, checked: chosen.has(id), onchange: ({ target }) => {
    if (target.checked) chosen.add(id); else chosen.delete(id);
    showChoice();
  } });
  const cells = rows.map((it) => [
    it.state === "due" ? choice(it.id) : "redriven",
    el("button", { type: "button", class: "link mono", onclick: () => openLetter(it.id) }, el("span", { class: "visually-hidden" }, "Letter "), it.id),
    moment(it.failed_at), it.reason, it.source ?? "–", it.key ?? "no key", it.error,
  ]);
  $("letters").replaceChildren(rows.length
    ? table([["Choose"], ["Letter"], ["Failed", "whole"], ["Reason"], ["Source", "text place"], ["Key", "text"], ["Error", "text"]], cells, { cards: true, label: "Dead letters" })
    : el("p", { class: "none" }, "No letter fits. Nothing was given up, or all of it was redriven."));
  put("where", total ? `${whole.format(offset + 1)}–${whole.format(offset + rows.length)} of ${whole.format(total)}` : "0 letters");
  $("newer").disabled = offset === 0;
  $("older").disabled = offset + rows.length >= total;
  showChoice();
}

function showChoice() {
  $("redrive-chosen").disabled = chosen.size === 0;
  put("redrive-chosen", chosen.size ? `Redrive chosen (${chosen.size})…` : "Redrive chosen…");
  $("redrive-all").disabled = total === 0 || filters().state !== "due";
  put("redrive-all", `Redrive all that match (${whole.format(total)})…`);
}

async function openLetter(id) {
  const dialog = $("letter");
  dialog.replaceChildren(el("h2", { id: "letter-title" }, `Letter ${id}`), el("p", {}, "reading…"));
  dialog.showModal();
  try {
    const it = await ask(`/dashboard/letters/${encodeURIComponent(id)}`);
    const { headers, letter_headers: own, value, value_hex: hex, value_undecoded_because: why, error, traceback, ...facts } = it;
    const block = (title, text) => [el("h3", {}, title), el("pre", { tabindex: "0" }, text)];
    const named = (list) => list.map(([name, content]) => `${name}: ${content ?? "null"}`).join("\n") || "none";
    dialog.replaceChildren(
      el("h2", { id: "letter-title" }, `Letter ${id}`),
      ...block("Error", error ?? "none is named"),
      ...(traceback ? block("Traceback of the handler", traceback) : []),
      ...(value ? block("Value, decoded", JSON.stringify(value, null, 2)) : block("Value, not decoded", why ?? "there is none")),
      ...block("Value, raw (hex)", hex === null ? "null" : hex.replace(/(..)/g, "$1 ").trim()),
      el("h3", {}, "History"),
      el("dl", { class: "facts-list" }, ...Object.entries(facts).flatMap(([name, fact]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, String(fact ?? "–"))])),
      ...block("Headers of the original", named(headers)),
      ...block("Headers of the letter", named(own)),
      el("div", { class: "bar" },
        el("button", { type: "button", onclick: () => dialog.close() }, "Close"),
        it.state === "due" ? el("button", { type: "button", onclick: () => { dialog.close(); confirmRedrive({ ids: [id] }); } }, "Redrive this letter…") : "redriven already"));
  } catch (error) {
    dialog.replaceChildren(el("h2", { id: "letter-title" }, `Letter ${id}`), el("p", { class: "problem" }, error.message),
      el("div", { class: "bar" }, el("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  }
}

const send = (body) => ask("/dashboard/redrive", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function confirmRedrive(selection) {
  const dialog = $("confirm");
  const everything = Object.keys(selection).length === 0;
  const close = (words) => el("button", { type: "button", onclick: () => dialog.close() }, words);
  const show = (...content) => dialog.replaceChildren(el("h2", { id: "confirm-title" }, "Redrive"), ...content);
  show(el("p", { role: "status" }, "looking at what would be sent…"), el("div", { class: "bar" }, close("Cancel")));
  dialog.showModal();
  try {
    const plan = await send({ selection, everything, dry_run: true });
    const count = `${whole.format(plan.selected)} letter${plan.selected === 1 ? "" : "s"}`;
    const go = el("button", { type: "button", class: "primary", disabled: plan.selected === 0, onclick: async () => {
      go.disabled = true;
      show(el("p", { role: "status" }, `sending ${count}…`));
      try {
        const done = await send({ selection, everything, dry_run: false, expect: plan.selected });
        show(el("p", { role: "status" }, `${whole.format(done.redriven)} redriven, ${whole.format(done.parked)} parked, ${whole.format(done.skipped)} left, in ${span(done.seconds)}.`), el("div", { class: "bar" }, close("Close")));
        chosen.clear();
        // The answer came when the app's own list had it.
        loadLetters();
      } catch (error) {
        show(el("p", { class: "problem" }, error.message), el("div", { class: "bar" }, close("Close")));
      }
    } }, `Redrive ${count}`);
    show(
      el("p", {}, `This is a dry run: nothing was sent. ${count} would go back to the group that gave them up, each once.`),
      table([["What would become of them", "text"], ["Count", "number"]], Object.entries(plan.outcomes).map(([name, n]) => [name, whole.format(n)]), { label: "Outcomes" }),
      table([["Letter"], ["Key", "text"], ["Outcome"], ["Why", "text"]], plan.rows.map((row) => [row.id, row.key ?? "no key", row.outcome, row.why]), { cards: true, label: "The first of them" }),
      el("div", { class: "bar" }, close("Cancel"), go));
    go.focus();
  } catch (error) {
    show(el("p", { class: "problem" }, error.message), el("div", { class: "bar" }, close("Close")));
  }
}

$("filters").addEventListener("submit", (event) => { event.preventDefault(); offset = 0; chosen.clear(); loadLetters(); });
$("filters").addEventListener("reset", () => setTimeout(() => { offset = 0; chosen.clear(); loadLetters(); }));
$("newer").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); loadLetters(); });
$("older").addEventListener("click", () => { offset += PAGE; loadLetters(); });
$("redrive-chosen").addEventListener("click", () => confirmRedrive({ ids: [...chosen] }));
$("redrive-all").addEventListener("click", () => { const { state, ...selection } = filters(); confirmRedrive(selection); });

// --- topics and schemas

async function loadContracts() {
  put("contracts-said", "looking…");
  try {
    const said = await ask("/dashboard/contracts");
    put("contracts-said", `as of ${clock(Date.now() / 1000)}`);
    $("contracts").replaceChildren(topicsCard(said), schemasCard(said));
  } catch (error) {
    put("contracts-said", `${error.message}${$("contracts").hasChildNodes() ? " What is shown is from before." : ""}`);
  }
}

function topicsCard({ topics, declared, plan }) {
  const there = new Map(topics.map((topic) => [topic.name, topic]));
  const rows = declared.map((name) => {
    const topic = there.get(name);
    if (!topic) return [name, "not there", "–", "–", "–"];
    const weak = topic.partitions.filter(({ under_replicated: under, leader }) => under || leader === null).length;
    return [name, topic.partitions.length, topic.partitions[0].replicas.length, weak ? `${weak} of them not whole` : "whole",
      Object.entries(topic.configs).map(([key, value]) => `${key}=${value}`).join(", ") || "the broker's"];
  });
  return el("div", { class: "card" }, el("h3", {}, "Topics: declared and there"),
    table([["Topic", "text"], ["Partitions", "number"], ["Copies", "number"], ["In sync"], ["Configs", "text"]], rows, { cards: true, label: "Topics" }),
    el("details", {}, el("summary", {}, "The plan of pipeline.topics"), el("pre", { tabindex: "0" }, plan)));
}

function schemasCard({ subjects, differences }) {
  const rows = subjects.map(({ subject, compatibility, versions }) => [subject,
    versions.length ? compatibility ?? "not set" : "not registered: make register-schemas",
    versions.map(({ version, id }) => `v${version} (id ${id})`).join(", ") || "–"]);
  return el("div", { class: "card" }, el("h3", {}, "Schemas: files and registry"),
    table([["Subject", "text"], ["Compatibility"], ["Versions", "text"]], rows, { cards: true, label: "Subjects" }),
    differences.length
      ? el("div", {}, ...differences.map(({ subject, what, details }) => el("p", { class: "problem" }, `${subject}: ${what} ${details.join("; ")}`)))
      : el("p", { class: "facts" }, "The registry has what the files say."));
}

$("again").addEventListener("click", loadContracts);

// --- views

const views = ["live", "letters", "contracts"];
function route() {
  const wanted = views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "live";
  for (const view of views) $(`view-${view}`).hidden = view !== wanted;
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.getAttribute("href") === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = { live: "Orders pipeline", letters: "Dead letters · Orders pipeline", contracts: "Topics and schemas · Orders pipeline" }[wanted];
  if (wanted === "letters") loadLetters();
  if (wanted === "contracts") loadContracts();
}
addEventListener("hashchange", route);
route();
