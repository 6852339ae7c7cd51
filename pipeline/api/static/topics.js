// Topics and schemas: what is declared, and what is there.

import { $, ask, clock, el, put, table, whole } from "./parts.js";

export async function load() {
  put("contracts-said", "reading…");
  try {
    const said = await ask("/dashboard/contracts");
    put("contracts-said", `as of ${clock(Date.now() / 1000)} UTC`);
    $("contracts").replaceChildren(topicsCard(said), schemasCard(said));
  } catch (error) {
    put("contracts-said", `${error.message}${$("contracts").hasChildNodes() ? " Shown is what was read before." : ""}`);
  }
}

const UNITS = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
const SIZES = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];

function inUnits(value, units, small) {
  const found = units.find(([, size]) => value >= size && value % size === 0);
  return found ? `${whole.format(value / found[1])} ${found[0]}` : `${whole.format(value)} ${small}`;
}

// Kafka's numbers as one reads them; the name says the unit.
export function config(name, text) {
  const value = Number(text);
  if (!/^-?\d+$/.test(text)) return text;
  if (value === -1 && /^retention/.test(name)) return "unlimited";
  if (name.endsWith(".ms")) return inUnits(value, UNITS, "ms");
  return name.endsWith(".bytes") ? inUnits(value, SIZES, "bytes") : text;
}

function topicsCard({ topics, declared, plan }) {
  const there = new Map(topics.map((topic) => [topic.name, topic]));
  const rows = declared.map((name) => {
    const topic = there.get(name);
    if (!topic) return [name, el("span", { class: "problem" }, "missing"), "–", "–", "–"];
    const weak = topic.partitions.filter(({ under_replicated: under, leader }) => under || leader === null).length;
    return [name, topic.partitions.length, topic.partitions[0].replicas.length,
      weak ? el("span", { class: "problem" }, `${weak} under-replicated`) : "all",
      Object.entries(topic.configs).map(([key, value]) => `${key.replace(/\.(ms|bytes)$/, "")} ${config(key, value)}`).join(", ") || "the broker's"];
  });
  return el("div", { class: "card" }, el("h3", {}, "Topics"),
    table([["Topic", "text"], ["Partitions", "number"], ["Replicas", "number"], ["ISR"], ["Configs", "text"]], rows, { cards: true, label: "Topics" }),
    el("details", {}, el("summary", {}, "Plan of pipeline.topics"), el("pre", { tabindex: "0" }, plan)));
}

function schemasCard({ subjects, differences }) {
  const rows = subjects.map(({ subject, compatibility, versions }) => [subject,
    versions.length ? compatibility ?? "not set" : el("span", { class: "problem" }, "not registered: make register-schemas"),
    versions.map(({ version, id }) => `v${version} (id ${id})`).join(", ") || "–"]);
  return el("div", { class: "card" }, el("h3", {}, "Schemas"),
    table([["Subject", "text"], ["Compatibility"], ["Versions", "text"]], rows, { cards: true, label: "Subjects" }),
    differences.length
      ? el("div", {}, ...differences.map(({ subject, what, details }) => el("p", { class: "problem" }, `${subject}: ${what} ${details.join("; ")}`)))
      : el("p", { class: "well" }, "The registry has what the files say."));
}

$("again").addEventListener("click", load);
