// The dashboard: what the app tells by server-sent events is shown, nothing is kept.

import { $, clock, put } from "./parts.js";
import * as letters from "./letters.js";
import * as live from "./live.js";
import * as topics from "./topics.js";

const STALE_S = 8;
let look = null;
let heardAt = null;
let lookedAt = null;

function showLook(said) {
  look = said;
  heardAt = lookedAt = Date.now();
  live.showLive(said);
  letters.showReasons(said.letters.by_reason);
  showState();
  letters.retry();
}

function showState() {
  const stale = heardAt !== null && Date.now() - heardAt > STALE_S * 1000;
  // A look that takes so long is one that the broker does not answer.
  const slow = lookedAt !== null && Date.now() - lookedAt > STALE_S * 1000;
  const away = look?.broker.away_since ?? (slow ? lookedAt / 1000 : null);
  const state = heardAt === null ? "waiting" : stale ? "stale" : away ? "away" : "live";
  $("pulse").dataset.state = state;
  put("pulse", { waiting: "connecting", stale: "no answer", away: "Kafka away", live: look?.redrive ? `redrive: ${look.redrive}` : "live" }[state]);
  document.body.classList.toggle("old", Boolean(stale || away));
  const of = look?.seen_at ? ` Showing data from ${clock(look.seen_at)} UTC.` : "";
  const words = stale ? `The app has said nothing since ${clock(heardAt / 1000)} UTC.${of}`
    : away ? `Kafka at ${look.broker.where} has not answered since ${clock(away)} UTC.${of}` : "";
  put("banner", words);
  $("banner").title = (away && look.broker.why) || "";
  $("banner").hidden = !words;
}

const events = new EventSource("/dashboard/events");
events.addEventListener("history", ({ data }) => live.showHistory(JSON.parse(data)));
events.addEventListener("look", ({ data }) => { const said = JSON.parse(data); if (said.at) showLook(said); });
events.addEventListener("alive", () => { heardAt = Date.now(); });
events.addEventListener("error", () => { heardAt ??= Date.now(); });
setInterval(showState, 1000);

// --- views, by the fragment of the address: #live, #letters, #letters/5:1829, #contracts

const TITLES = { live: "Orders pipeline", letters: "Dead letters · Orders pipeline", contracts: "Topics and schemas · Orders pipeline" };
function route() {
  const [name, id] = location.hash.slice(1).split("/", 2);
  const wanted = name in TITLES ? name : "live";
  for (const view of Object.keys(TITLES)) $(`view-${view}`).hidden = view !== wanted;
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.getAttribute("href") === `#${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = wanted === "letters" && id ? `Letter ${decodeURIComponent(id)} · Orders pipeline` : TITLES[wanted];
  if (wanted === "letters") letters.open(id && decodeURIComponent(id));
  else document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  if (wanted === "contracts") topics.load();
}
// A step in the history says so twice where the fragment changes.
let routed = null;
function routeOnce() {
  if (location.href === routed) return;
  routed = location.href;
  route();
}
addEventListener("popstate", routeOnce);
addEventListener("hashchange", routeOnce);
routeOnce();
