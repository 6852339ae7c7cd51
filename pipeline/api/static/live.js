// The live view: figures, charts, latest orders, what went wrong, groups.

import { $, clock, el, money, plural, put, rate, short, span, table, time, whole } from "./parts.js";
import { Chart, known, resampled } from "./charts.js";

const POINTS = 1800;
const MINUTES = 30;
const charts = {
  rates: new Chart("rates", [{ variable: "--accent" }, { variable: "--second" }],
    { parts: ["read-in", "read-out"], say: (at, [came, went]) => [clock(at), known(came), known(went)] }),
  lag: new Chart("lag", [{ variable: "--accent" }], { say: (at, [lag]) => [`${clock(at)} UTC · ${known(lag, whole)}`] }),
  revenue: new Chart("revenue", [{ variable: "--accent" }],
    { bars: true, say: (at, [sum]) => [`${clock(at).slice(0, 5)} UTC · ${known(sum, money)}`] }),
};
let past = [[], [], [], []];

export function showHistory(history) {
  past = history;
  drawHistory();
}

function drawHistory() {
  const [at, came, went, lag] = resampled(past, [2]);
  const last = (column, form) => (column.length ? known(column.at(-1), form) : "unknown");
  charts.rates.show([at, came, went], `Orders per second: ${last(came, rate)} in, ${last(went, rate)} processed`);
  charts.lag.show([at, lag], `Lag: ${last(lag, whole)} records`);
}

const behind = (group) => Math.max(0, ...group.partitions.map(({ behind_s: s }) => s ?? 0));

export function showLive(said) {
  const { broker, point, latency, letters, groups } = said;
  if (point && point[0] !== past[0].at(-1)) {
    past.forEach((column, at) => { column.push(point[at]); column.splice(0, column.length - POINTS); });
    drawHistory();
  }
  if (!broker.away_since) {
    put("rate-in", point ? rate.format(point[1]) : "–");
    put("rate-out", point?.[2] != null ? rate.format(point[2]) : "–");
  }
  const mine = groups.find(({ group }) => group === said.group);
  document.querySelectorAll(".group").forEach((it) => { it.textContent = said.group; });
  put("lag", mine?.lag != null ? whole.format(mine.lag) : "–");
  put("lag-behind", mine ? `records${mine.lag && behind(mine) >= 1 ? `, ${span(behind(mine))} behind` : ""}` : "no such group yet");
  put("latency", latency ? span(latency.p50 / 1000) : "–");
  put("latency-more", latency ? `p50${latency.kind === "measured" ? "" : " at most"}, p95 ${span(latency.p95 / 1000)}` : "nothing in the last minute");
  showPending(letters);
  showRevenue(said.at, said.revenue, said.sampled);
  $("empty").hidden = Boolean(said.orders.length || broker.away_since || said.seen_at === null || groups.some(({ lag }) => lag));
  showOrders(said.orders);
  $("trouble").replaceChildren(...trouble(said));
  $("groups").replaceChildren(...(groups.length ? groups.map(groupCard) : [el("p", { class: "none" }, "No consumer groups yet.")]));
}

function showPending(letters) {
  put("due", letters.problem ? "–" : whole.format(letters.due));
  $("due").classList.toggle("some", !letters.problem && letters.due > 0);
  put("due-more", letters.problem ? "unknown" : `${whole.format(letters.redriven)} redriven`);
  put("nav-due", whole.format(letters.due));
  $("nav-due").hidden = Boolean(letters.problem) || letters.due === 0;
}

function showRevenue(at, minutes, sampled) {
  const now = Math.floor(at / 60) * 60;
  const amounts = new Map(minutes.map(([minute, amount]) => [minute, Number(amount)]));
  const axis = amounts.size ? Array.from({ length: MINUTES }, (_, back) => now - (MINUTES - 1 - back) * 60) : [];
  const values = axis.map((minute) => amounts.get(minute) ?? 0);
  const sum = amounts.get(now - 60) ?? 0;
  put("revenue", `${sampled ? "≥ " : ""}${sum < 1_000_000 ? money.format(sum) : short.format(sum)}`);
  $("revenue").title = money.format(sum);
  put("revenue-more", sampled ? "lower bound (sampled)" : `${clock(now - 60).slice(0, 5)} UTC`);
  charts.revenue.show([axis, values], `Revenue per minute: ${money.format(sum)} in the last whole minute`);
}

function showOrders(orders) {
  const rows = orders.toReversed().map(({ at, order_id: id, customer_id: customer, amount }) =>
    [time(new Date(at * 1000), clock(at)), el("span", { class: "mono" }, id), customer, amount === null ? "–" : money.format(amount)]);
  $("orders").replaceChildren(rows.length
    ? table([["Time (UTC)", "clock"], ["Order"], ["Customer", "customer short"], ["Amount", "number amount"]], rows, { label: "Latest orders", fixed: true })
    : el("p", { class: "none" }, "No order in the last 15 minutes."));
}

// One truth: what is not known is said to be unknown, and nothing is called well beside it.
function trouble({ broker, letters, failures, groups, problems, group }) {
  if (broker.away_since) return [el("p", { class: "problem" }, "Unknown while Kafka does not answer.")];
  const retries = new Map();
  for (const { partitions } of groups) {
    for (const { topic, lag } of partitions) if (lag && /\.retry-/.test(topic)) retries.set(topic, (retries.get(topic) ?? 0) + lag);
  }
  const unknown = Object.entries({ ...problems, ...(letters.problem && { "dead letters": letters.problem }) });
  const counted = (entries, label) => (entries.length
    ? table([[label, "text"], ["Count", "number"]], entries.map(([name, count]) => [name, whole.format(count)]), { label }) : null);
  const found = [
    ...unknown.map(([name, why]) => el("p", { class: "problem" }, `${name[0].toUpperCase()}${name.slice(1)} unknown: ${why}`)),
    letters.problem ? null : counted(Object.entries({ ...letters.by_reason, ...(letters.by_reason_others && { others: letters.by_reason_others }) }), "Dead letters pending, by reason"),
    counted([...retries], "Delayed in retry topics"),
    counted(Object.entries(failures ?? {}).filter(([, count]) => count), "Failures in this process, by class"),
  ].filter(Boolean);
  if (found.length) return found;
  const here = failures === null ? "" : ", no failure in this process";
  return [el("p", { class: "well" }, `Nothing: no dead letter pending, no record of ${group} in a retry topic${here}.`)];
}

const opened = new Set();

function groupCard({ group, state, protocol, assignor, lag, partitions, members, problem }) {
  const facts = `${state}, ${protocol}${assignor ? ` (${assignor})` : ""}, ${plural(members.length, "member")}, `
    + `lag ${lag === null ? "unknown" : whole.format(lag)}${lag && behind({ partitions }) >= 1 ? `, ${span(behind({ partitions }))} behind` : ""}`;
  const part = (name, content) => el("details", { open: opened.has(group + name), ontoggle: (event) => {
    if (event.target.open) opened.add(group + name); else opened.delete(group + name);
  } }, el("summary", {}, name, el("span", { class: "visually-hidden" }, ` of ${group}`)), content);
  const assigned = ({ assigned: places }) => Object.entries(Object.groupBy(places, ({ topic }) => topic))
    .map(([topic, each]) => `${topic} [${each.map(({ partition }) => partition).join(" ")}]`).join(", ") || "nothing";
  return el("div", { class: "card" }, el("h4", {}, group), problem ? null : el("p", { class: "facts" }, facts),
    problem ? el("p", { class: "problem" }, problem) : null,
    members.length ? part("Members and assignment", table([["Member", "text"], ["Client", "text"], ["Host", "text"], ["Assigned", "text"]],
      members.map((member) => [member.instance ?? member.id, member.client, member.host, assigned(member)]), { cards: true, label: `Members of ${group}` })) : null,
    partitions.length ? part("Partitions", table([["Topic", "text"], ["Partition", "number"], ["Committed", "number"], ["End", "number"], ["Lag", "number"], ["Behind", "number"]],
      partitions.map((it) => [it.topic, it.partition, it.committed, it.end, it.lag, it.behind_s === null ? "–" : span(it.behind_s)]), { cards: true, label: `Partitions of ${group}` })) : null);
}
