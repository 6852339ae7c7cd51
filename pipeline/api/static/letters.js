// Dead letters: listed, filtered, read, redriven. Filters are in the address's query, a letter in its fragment.

import { $, ask, el, moment, plural, put, span, table, time, whole } from "./parts.js";

const PAGE = 50;
const FILTERS = ["state", "reason", "key", "source", "since"];
let offset = 0;
let total = 0;
let shown = 0;
let listed = [];
let waiting = false;
let cameFromList = false;
const chosen = new Set();
const form = $("filters");

// --- the address

function address(filters, page) {
  const query = new URLSearchParams(Object.entries(filters).filter(([name, value]) => value && !(name === "state" && value === "due")));
  if (page) query.set("offset", page);
  return `${location.pathname}${query.size ? `?${query}` : ""}#letters`;
}

function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of FILTERS) {
    const value = query.get(name) ?? (name === "state" ? "due" : "");
    if (name === "reason" && value) showReasons({ [value]: 0 });
    form.elements[name].value = value;
  }
  if (!form.elements.state.value) form.elements.state.value = "due";
  offset = Number.parseInt(query.get("offset") ?? "0", 10) || 0;
}

function values() {
  return Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value.trim()]));
}

function go(page) {
  const to = address(values(), page);
  if (to === `${location.pathname}${location.search}${location.hash}`) { load(); return; }
  history.pushState(null, "", to);
  dispatchEvent(new PopStateEvent("popstate"));
}

// A time without a zone is UTC, like all that is shown.
function instant(text) {
  const found = /^(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?\s*(Z|UTC|[+-]\d\d:\d\d)?$/.exec(text);
  if (!found) return null;
  const date = new Date(`${found[1]}T${found[2] ?? "00:00"}${!found[3] || found[3] === "UTC" ? "Z" : found[3]}`);
  return Number.isNaN(date.valueOf()) ? null : date.toISOString();
}

function selection() {
  const given = values();
  if (given.since) given.since = instant(given.since) ?? given.since;
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value));
}

// --- the list

export function showReasons(reasons) {
  const select = form.elements.reason;
  const known = new Set([...select.options].map(({ value }) => value));
  for (const reason of Object.keys(reasons)) if (!known.has(reason)) select.append(el("option", { value: reason }, reason));
}

// Once what was away is back: what was asked meanwhile is asked again.
export function retry() {
  if (waiting) load();
}

export function open(id) {
  readAddress();
  load();
  if (id) openLetter(id);
  else if ($("letter").open) { cameFromList = false; $("letter").close(); }
}

async function load() {
  waiting = false;
  const request = ++shown;
  try {
    const found = await ask(`/dashboard/letters?${new URLSearchParams({ ...selection(), offset, limit: PAGE })}`);
    if (request !== shown) return;
    total = found.total;
    if (offset && offset >= total) { offset = Math.max(0, Math.floor((total - 1) / PAGE) * PAGE); load(); return; }
    draw(found.rows);
    put("letters-said", "");
  } catch (error) {
    if (request !== shown) return;
    put("letters-said", error.message);
    waiting = true;
  }
}

const place = (id) => `Partition ${id.replace(":", ", offset ")} of the dead-letter topic`;

function draw(rows) {
  listed = rows.filter(({ state }) => state === "due").map(({ id }) => id);
  const choice = (id) => el("input", { type: "checkbox", "aria-label": `Select letter ${id}`, checked: chosen.has(id), onchange: ({ target }) => {
    if (target.checked) chosen.add(id); else chosen.delete(id);
    showChoice();
  } });
  const cells = rows.map((it) => [
    it.state === "due" ? choice(it.id) : el("span", { title: "redriven" }, "✓", el("span", { class: "visually-hidden" }, "redriven")),
    el("span", {}, el("span", { class: "pill" }, it.reason), it.error),
    el("a", { href: `#letters/${it.id}`, class: "mono", "aria-label": `Letter ${it.id}`, title: place(it.id), onclick: () => { cameFromList = true; } }, it.id),
    it.failed_at ? time(new Date(it.failed_at), moment(it.failed_at)) : "–", it.key ?? "no key", it.source ?? "–",
  ]);
  $("letters").replaceChildren(rows.length
    ? table([["", "tick bare"], ["Error", "error bare"], ["Letter", "letter bare"], ["Failed (UTC)", "time bare"], ["Key", "short"], ["Source", "place bare"]], cells, { cards: true, fixed: true, label: "Dead letters" })
    : el("p", { class: "none" }, "No letter fits. Nothing was dead-lettered, or all of it was redriven."));
  put("where", total ? `${whole.format(offset + 1)}–${whole.format(offset + rows.length)} of ${whole.format(total)}` : "0 letters");
  $("newer").disabled = offset === 0;
  $("older").disabled = offset + rows.length >= total;
  showChoice();
}

function showChoice() {
  $("redrive-chosen").disabled = chosen.size === 0;
  put("redrive-chosen", chosen.size ? `Redrive selected (${whole.format(chosen.size)})…` : "Redrive selected…");
  $("redrive-all").disabled = total === 0 || form.elements.state.value !== "due";
  $("redrive-all").replaceChildren("Redrive all", el("span", { class: "wide-only" }, " that match"), ` (${whole.format(total)})…`);
  const all = $("select-page");
  const here = listed.filter((id) => chosen.has(id)).length;
  all.disabled = listed.length === 0;
  all.checked = here > 0 && here === listed.length;
  all.indeterminate = here > 0 && here < listed.length;
  document.querySelectorAll("#letters input[type=checkbox]").forEach((box) => { box.checked = chosen.has(box.getAttribute("aria-label").slice("Select letter ".length)); });
}

// --- one letter

function timeline(it) {
  const at = (text) => (text ? time(new Date(text), `${moment(text)} UTC`) : null);
  const step = (kind, words, when, more) => el("li", { class: kind }, el("strong", {}, words), at(when), more ? el("p", {}, more) : null);
  const written = step("good", `Written to ${it.source ?? "a topic that is not known"}`, it.source_timestamp, null);
  const tries = Number(it.attempts ?? 0);
  const by = [it.consumer_group, it.consumer_instance].filter(Boolean).join(", ");
  return el("ol", { class: "timeline" }, written,
    tries > 1 ? step("bad", "Failed for the first time", it.first_failed_at, null) : null,
    step("bad", tries > 1 ? `Failed ×${tries}, the last time` : "Failed", it.failed_at, by ? `in ${by}${it.error_class ? `: ${it.error_class}` : ""}` : it.error_class),
    step("bad", `Dead letter ${it.id}`, null, `${it.reason}; ${place(it.id).toLowerCase()}`),
    it.state === "redriven" ? step("good", "Redriven", it.redriven_at ?? null, null) : null);
}

const SAID = new Set(["id", "failed_at", "first_failed_at", "source", "source_topic", "source_partition", "source_offset", "source_timestamp",
  "reason", "state", "attempts", "consumer_group", "consumer_instance", "error_class", "cut"]);

async function openLetter(id) {
  const dialog = $("letter");
  const title = el("h2", { id: "letter-title", title: place(id) }, `Letter ${id}`);
  const close = () => el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(title, el("p", { role: "status" }, "reading…"));
  if (!dialog.open) dialog.showModal();
  try {
    const it = await ask(`/dashboard/letters/${encodeURIComponent(id)}`);
    const { headers, letter_headers: own, value, value_hex: hex, value_undecoded_because: why, error, traceback, ...facts } = it;
    const block = (words, text) => [el("h3", {}, words), el("pre", { tabindex: "0" }, text)];
    const named = (list) => list.map(([name, content]) => `${name}: ${content ?? "null"}`).join("\n") || "none";
    const folded = (words, text) => el("details", {}, el("summary", {}, words), el("pre", { tabindex: "0" }, text));
    const other = Object.entries(facts).filter(([name]) => !SAID.has(name));
    dialog.replaceChildren(title,
      it.cut?.length ? el("p", { class: "hint" }, `Too large to show whole: ${it.cut.join(", ").replaceAll("_", " ")}. pipeline.deadletters show ${id} has all of it.`) : "",
      ...block("Error", error ?? "none is named"),
      ...(traceback ? block("Traceback of the handler", traceback) : []),
      ...(value ? block("Value, decoded", JSON.stringify(value, null, 2)) : block("Value, not decoded", why ?? "there is none")),
      el("h3", {}, "History"), timeline(it),
      el("dl", { class: "facts-list" }, ...other.flatMap(([name, fact]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, String(fact ?? "–"))])),
      ...block("Value, raw (hex)", hex === null ? "null" : hex.replace(/(..)/g, "$1 ").trim()),
      folded(`Headers of the record (${headers.length})`, named(headers)),
      folded(`Headers of the letter (${own.length})`, named(own)),
      el("div", { class: "bar" }, close(),
        it.state === "due" ? el("button", { type: "button", onclick: () => { dialog.close(); confirmRedrive({ ids: [id] }); } }, "Redrive this letter…") : "redriven already"));
  } catch (error) {
    dialog.replaceChildren(title, el("p", { class: "problem" }, error.message), el("div", { class: "bar" }, close()));
  }
}

$("letter").addEventListener("close", () => {
  if (!location.hash.startsWith("#letters/")) return;
  // Where it was opened from the list, that is one step back; otherwise the list takes its place.
  if (cameFromList) history.back();
  else history.replaceState(null, "", `${location.pathname}${location.search}#letters`);
  cameFromList = false;
});

// --- redrive

const OUTCOMES = {
  decodes: "can be decoded with the current schema", undecodable: "cannot be decoded with the current schema",
  no_schema: "no schema file for its topic", schema_unknown: "its schema is not in the registry",
  skipped: "will be skipped", parked: "redriven too often: goes to the parking topic",
};
const send = (body) => ask("/dashboard/redrive", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function confirmRedrive(meant) {
  const dialog = $("confirm");
  const everything = Object.keys(meant).length === 0;
  const close = (words) => el("button", { type: "button", onclick: () => dialog.close() }, words);
  const show = (...content) => dialog.replaceChildren(el("h2", { id: "confirm-title" }, "Redrive"), ...content.filter(Boolean));
  show(el("p", { role: "status" }, "looking at what would be sent…"), el("div", { class: "bar" }, close("Cancel")));
  dialog.showModal();
  try {
    const plan = await send({ selection: meant, everything, dry_run: true });
    const count = plural(plan.selected, "letter");
    const go = el("button", { type: "button", class: "primary", disabled: plan.selected === 0, onclick: async () => {
      go.disabled = true;
      show(el("p", { role: "status" }, `sending ${count}…`));
      try {
        const done = await send({ selection: meant, everything, dry_run: false, expect: plan.selected });
        show(el("p", { role: "status" }, `${whole.format(done.redriven)} redriven, ${whole.format(done.parked)} parked, ${whole.format(done.skipped)} skipped, in ${span(done.seconds)}.`), el("div", { class: "bar" }, close("Close")));
        chosen.clear();
        // The answer came when the app's own list had it.
        load();
      } catch (error) {
        show(el("p", { class: "problem" }, error.message), el("div", { class: "bar" }, close("Close")));
      }
    } }, `Redrive ${count}`);
    show(
      el("p", {}, `This is a dry run: nothing was sent. ${count} would go back to the consumer group that failed, each once. The handler was not run: unless the cause is fixed, it will fail again.`),
      el("ul", {}, ...Object.entries(plan.outcomes).map(([name, n]) => el("li", {}, `${whole.format(n)} ${OUTCOMES[name] ?? name.replaceAll("_", " ")}`))),
      destinations(plan),
      table([["Letter", "letter"], ["Key", "short"], ["Goes to", "text"], ["Outcome", "text"]],
        plan.rows.map((row) => [row.id, row.key ?? "no key", row.to ?? "–", outcome(row)]), { cards: true, label: "The first of them" }),
      el("div", { class: "bar" }, close("Cancel"), go));
    go.focus();
  } catch (error) {
    show(el("p", { class: "problem" }, error.message), el("div", { class: "bar" }, close("Close")));
  }
}

const outcome = ({ outcome: name, why }) => (name === "decodes" ? "can be decoded" : `${(OUTCOMES[name] ?? name).split(":")[0]}${why ? `: ${why}` : ""}`);

function destinations({ rows }) {
  const named = [...new Set(rows.map(({ to }) => to).filter(Boolean))];
  return named.length ? el("p", {}, "Destination: ", ...named.flatMap((topic, at) => [at ? ", " : "", el("code", {}, topic)])) : null;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const since = form.elements.since;
  since.setCustomValidity(since.value.trim() && !instant(since.value.trim()) ? "A time in UTC, such as 2026-01-31 08:00" : "");
  if (!form.reportValidity()) return;
  chosen.clear();
  go(0);
});
form.elements.since.addEventListener("input", ({ target }) => target.setCustomValidity(""));
form.addEventListener("reset", () => setTimeout(() => { chosen.clear(); go(0); }));
$("newer").addEventListener("click", () => go(Math.max(0, offset - PAGE)));
$("older").addEventListener("click", () => go(offset + PAGE));
$("select-page").addEventListener("change", ({ target }) => {
  for (const id of listed) if (target.checked) chosen.add(id); else chosen.delete(id);
  showChoice();
});
$("redrive-chosen").addEventListener("click", () => confirmRedrive({ ids: [...chosen] }));
$("redrive-all").addEventListener("click", () => { const { state, ...meant } = selection(); confirmRedrive(meant); });
