// Begins the page: takes events, keeps the document that they describe, and shows it.

import { Connection } from "./connection.js";
import { mark, say } from "./elements.js";
import { Fleet } from "./fleet.js";
import { count, number, seconds, share, si } from "./format.js";
import { History } from "./history.js";
import { merged } from "./merge_patch.js";
import { Decisions, EnergyPanel, PlanPanel, Promises, tone, Troubles } from "./panels.js";

const KEY = "jouleserve-api-key";
const THEME = "jouleserve-theme";
const STALE_MS = 3000;
const SLICE_MS = 6;

const tiles = {
  promises: tile("tile-promises", { least: 0.5, most: 1 }),
  tokens: tile("tile-tokens"),
  power: tile("tile-power"),
  joules: tile("tile-joules"),
};
const panels = {
  fleet: new Fleet(), promises: new Promises(), plan: new PlanPanel(),
  energy: new EnergyPanel(), decisions: new Decisions(), troubles: new Troubles(),
};

let latest; // The document; undefined until the first one has come.
let heardAt = 0;
let line = { state: "connecting", reason: "" };
let unreachable = ""; // What the server says that it cannot reach.
let drawing = false;
let late = false; // Something has come while the page was being drawn.

function tile(id, scale) {
  const its = document.getElementById(id);
  return {
    its, figure: its.querySelector("[data-figure]"), under: its.querySelector("[data-under]"),
    history: new History(its.querySelector("svg"), scale),
  };
}

// ── what comes ───────────────────────────────────────────────────────────────

function heard(event, data) {
  if (event === "trouble") {
    unreachable = data.reason;
    tell();
    return;
  }
  unreachable = "";
  heardAt = performance.now();
  latest = event === "snapshot" ? data : merged(latest, data);
  remember(latest.overview, latest.plan);
  draw();
}

function draw() {
  if (drawing) late = true;
  else if (latest && !document.hidden) {
    drawing = true;
    late = false;
    goOn(show(latest));
  }
}

// A few milliseconds of each frame: hundreds of replicas in one go would be felt.
function goOn(steps) {
  requestAnimationFrame(() => {
    const end = performance.now() + SLICE_MS;
    while (performance.now() < end) {
      if (steps.next().done) {
        drawing = false;
        if (late) draw();
        return;
      }
    }
    goOn(steps);
  });
}

function remember(overview, plan) {
  tiles.promises.history.add(overview.attainment);
  tiles.tokens.history.add(overview.tokens_per_s);
  tiles.power.history.add(overview.power_w, plan?.power_budget_w);
  tiles.joules.history.add(overview.joules_per_token, overview.bound_j_per_token);
}

// ── what is shown ────────────────────────────────────────────────────────────

function* show(doc) {
  const { overview, plan } = doc;
  say(document.getElementById("gateway"), doc.gateway);
  say(document.getElementById("policy"), doc.policy);
  figure("promises", share(overview.attainment),
    overview.requests ? `of ${count(overview.requests)} requests, 5 min` : "no requests in 5 min", tone(overview.attainment));
  figure("tokens", `${number(overview.tokens_per_s)} /s`,
    `${si(overview.prefill_tokens_per_s, "")}/s of prompts · ${count(overview.running_requests)} running, ${count(overview.waiting_requests)} waiting`,
    overview.waiting_requests > overview.running_requests ? "warn" : "");
  figure("power", si(overview.power_w, "W"), plan?.planned
    ? `plan with nodes ${si(plan.predicted_w, "W")} · least ${plan.bound_w ? si(plan.bound_w, "W") : "–"}`
    : `${overview.awake} replicas awake`, plan?.power_budget_w < overview.power_w ? "bad" : "");
  figure("joules", overview.joules_per_token === undefined ? "–" : si(overview.joules_per_token, "J"),
    overview.bound_j_per_token === undefined ? "no bound without a plan"
      : `plan with nodes ${si(overview.predicted_j_per_token, "J")} · bound ${si(overview.bound_j_per_token, "J")}`);
  panels.troubles.show(doc.troubles);
  const wrong = doc.troubles.length;
  document.title = wrong ? `(${wrong}) Jouleserve` : "Jouleserve";
  tell();
  for (const panel of [panels.promises, panels.energy, panels.decisions]) {
    yield;
    panel.show(doc);
  }
  yield;
  panels.plan.show(plan);
  yield* panels.fleet.show(doc.replicas, variants(doc));
}

function figure(name, text, under, its = "") {
  say(tiles[name].figure, text);
  say(tiles[name].under, under);
  mark(tiles[name].its, "data-tone", its);
}

function variants(doc) {
  return Object.values(doc.models).flatMap((model) => model.variants.map((each) => each.name));
}

// ── the line ─────────────────────────────────────────────────────────────────

function told(state, reason) {
  line = { state, reason };
  document.getElementById("key").hidden = state !== "unauthorized";
  if (state === "unauthorized") {
    say(document.getElementById("key-reason"), sessionStorage.getItem(KEY) ? reason : "");
    document.getElementById("key-field").focus();
  }
  tell();
}

function tell() {
  const age_s = heardAt ? (performance.now() - heardAt) / 1000 : undefined;
  let { state } = line;
  if (state === "live" && (unreachable || age_s * 1000 > STALE_MS)) state = "stale";
  const words = {
    connecting: "connecting",
    live: "live",
    stale: unreachable ? `no news: ${unreachable}` : "no news",
    lost: `disconnected: ${line.reason}; trying again`,
    unauthorized: "needs a key",
  };
  mark(document.body, "data-connection", state);
  say(document.getElementById("connection"), words[state]);
  say(document.getElementById("age"), age_s === undefined || state === "live" ? "" : `figures of ${seconds(age_s)} ago`);
}

// ── what people choose ───────────────────────────────────────────────────────

function theme(value) {
  if (value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
}

const chosen = localStorage.getItem(THEME) ?? "auto";
theme(chosen);
document.querySelector(`#theme input[value="${chosen}"]`)?.click();
document.getElementById("theme").addEventListener("change", (event) => {
  localStorage.setItem(THEME, event.target.value);
  theme(event.target.value);
});

const connection = new Connection("dashboard/events", { heard, told, key: () => sessionStorage.getItem(KEY) });
document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, document.getElementById("key-field").value.trim());
  document.getElementById("key-field").value = "";
  connection.wake();
});
document.addEventListener("visibilitychange", draw);
setInterval(tell, 1000);
connection.run();
