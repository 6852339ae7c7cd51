// What the views are made of. Text is always set as text.

export const $ = (id) => document.getElementById(id);
export const rate = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
export const short = new Intl.NumberFormat("en", { notation: "compact", minimumFractionDigits: 2, maximumFractionDigits: 2 });

export function el(tag, attributes = {}, ...children) {
  const it = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) it.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) it.setAttribute(name, value === true ? "" : value);
  }
  it.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return it;
}

export function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

// Columns are [name, class]; a cell is a text or an element. `fixed` has one line a row, and its full text where one points.
export function table(columns, rows, { label, cards = false, fixed = false } = {}) {
  const kinds = [cards && "cards", fixed && "fixed"].filter(Boolean).join(" ");
  const cell = (content, at) => el("td", { class: columns[at][1], "data-name": cards && columns[at][0],
    title: fixed && (content instanceof Node ? content.textContent : content) }, content ?? "–");
  return el("table", { class: kinds || null, "aria-label": label },
    el("thead", {}, el("tr", {}, ...columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell)))));
}

// Times are UTC everywhere; the local one is said where one points.
const iso = (date) => date.toISOString();
export const clock = (seconds) => iso(new Date(seconds * 1000)).slice(11, 19);
export const moment = (text) => (text ? iso(new Date(text)).slice(0, 19).replace("T", " ") : "–");
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
export function time(date, words) {
  return el("time", { datetime: iso(date), title: local.format(date) }, words);
}

export function span(seconds) {
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 120) return `${rate.format(seconds)} s`;
  return seconds < 7200 ? `${whole.format(seconds / 60)} min` : `${whole.format(seconds / 3600)} h`;
}

export const plural = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;

export async function ask(path, options) {
  const answer = await fetch(path, options);
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.detail ?? `the app answers ${answer.status}`);
  return said;
}
