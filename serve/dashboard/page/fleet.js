// The fleet: nodes, on them accelerators, on them replicas; as a map or as a table.

import { element, Facts, fill, mark, Rows, say, Table } from "./elements.js";
import { count, number, percent, seconds, si } from "./format.js";

const HUES = 8; // Colours in the style sheet; then they start again.
const CROWDED = 0.25; // Of the batch: more that wait than this are a sign.
const STATES = { starting: "starts", resting: "rests", draining: "drains", lost: "lost" };

const COLUMNS = [
  ["replica", "text", (each) => each.replica],
  ["variant", "text", (each) => each.variant],
  ["node", "text", (each) => place(each)],
  ["state", "text", (each) => each.state],
  ["batch", "number", (each) => batch(each)],
  ["waiting", "number", (each) => count(each.waiting_requests)],
  ["KV cache", "number", (each) => percent(each.kv_cache_usage)],
  ["tokens/s", "number", (each) => number(each.decode_tokens_per_s)],
  ["step", "number", (each) => seconds(each.step_time_s)],
  ["power", "number", (each) => si(each.power_w, "W")],
  ["energy", "number", (each) => si(each.energy_j, "J")],
  ["report", "number", (each) => seconds(each.age_s)],
];

export class Fleet {
  constructor() {
    this.map = document.getElementById("fleet-map");
    this.table = document.getElementById("fleet-table");
    this.filter = document.getElementById("fleet-filter");
    this.nodes = new Rows(this.map, () => madeNode());
    this.rows = new Table(this.table, "Replicas", COLUMNS);
    this.legend = new Rows(document.getElementById("legend"), () =>
      element("li", {}, element("i", { "aria-hidden": "true" }), element("span")));
    this.details = new Details();
    this.replicas = {};
    this.variants = [];
    this.filter.addEventListener("input", () => this.again());
    document.getElementById("fleet-view").addEventListener("change", (event) => {
      this.map.hidden = event.target.value !== "map";
      this.table.hidden = !this.map.hidden;
      this.again();
    });
    this.map.addEventListener("click", (event) => this.open(event.target.closest("button")));
    this.map.addEventListener("keydown", (event) => this.move(event));
  }

  again() {
    const steps = this.show(this.replicas, this.variants);
    while (!steps.next().done);
  }

  // Show what there is, step by step, so that whoever calls may do other things in between.
  * show(replicas, variants) {
    this.replicas = replicas;
    this.variants = variants;
    const all = Object.values(replicas);
    const wanted = this.filter.value.trim().toLowerCase();
    const shown = wanted ? all.filter((each) => described(each).includes(wanted)) : all;
    const awake = all.filter((each) => each.state === "awake").length;
    say(document.getElementById("fleet-count"), all.length
      ? `${awake} awake of ${all.length} replicas on ${new Set(all.map((each) => each.node)).size} nodes`
        + (wanted ? `; ${shown.length} shown` : "")
      : "no replica is known to this gateway: they start, or all are asleep");
    this.name(all);
    this.details.show(replicas);
    yield;
    if (this.map.hidden) yield* this.rows.steps(shown, (each) => each.replica);
    else yield* this.draw(shown);
  }

  name(all) {
    const sums = new Map();
    for (const each of all) {
      const sum = sums.get(each.variant) ?? { replicas: 0, power_w: 0 };
      sum.replicas += 1;
      sum.power_w += each.power_w;
      sums.set(each.variant, sum);
    }
    const order = this.variants.filter((name) => sums.has(name)).map((name) => [name, sums.get(name)]);
    this.legend.show(order, ([name]) => name, (item, [name, sum]) => {
      mark(item, "data-hue", this.hue(name));
      say(item.lastElementChild, `${name} × ${sum.replicas}, ${si(sum.power_w, "W")}`);
    });
  }

  hue(variant) {
    return String(Math.max(0, this.variants.indexOf(variant)) % HUES);
  }

  * draw(replicas) {
    const nodes = new Map();
    for (const each of replicas) {
      if (!nodes.has(each.node)) nodes.set(each.node, []);
      nodes.get(each.node).push(each);
    }
    const order = new Intl.Collator("en", { numeric: true }).compare;
    const sorted = [...nodes].sort(([a], [b]) => order(a, b));
    for (const [, its] of sorted) {
      its.sort((a, b) => order(a.devices[0] ?? "", b.devices[0] ?? "") || order(a.replica, b.replica));
    }
    const cards = [];
    this.nodes.show(sorted, ([node]) => node, (card, [node, its]) => cards.push([card, node, its]));
    for (const [card, node, its] of cards) {
      yield;
      const watts = its.reduce((sum, each) => sum + each.power_w, 0);
      const kinds = [...new Set(its.map((each) => each.accelerator))].join(", ");
      say(card.parts.title, node || "node unknown");
      say(card.parts.under, `${kinds} · ${si(watts, "W")}`);
      card.parts.tiles.show(its, (each) => each.replica, (tile, each) => this.tile(tile, each));
    }
    if (!this.map.querySelector('[tabindex="0"]')) {
      this.map.querySelector("button")?.setAttribute("tabindex", "0");
    }
  }

  tile(tile, each) {
    const { parts } = tile;
    mark(tile, "data-state", each.state);
    mark(tile, "data-hue", this.hue(each.variant));
    mark(tile, "data-crowded", each.waiting_requests > CROWDED * each.running_requests ? "yes" : "");
    mark(tile, "data-trouble", each.meter_trouble ? "meter" : "");
    say(parts.device, STATES[each.state] ?? short(each.devices));
    say(parts.batch, `${each.running_requests}`);
    say(parts.waiting, each.waiting_requests ? `+${each.waiting_requests}` : "");
    say(parts.watts, si(each.power_w, "W"));
    fill(parts.load, each.max_batch ? each.running_requests / each.max_batch : 0);
    fill(parts.kv, each.kv_cache_usage);
    const label = `${each.replica}, ${each.state}: ${batch(each)} in the batch,`
      + ` ${each.waiting_requests} wait, KV cache ${percent(each.kv_cache_usage)}, ${si(each.power_w, "W")}`;
    if (tile.dataset.label !== label) {
      tile.dataset.label = label;
      tile.setAttribute("aria-label", label);
      tile.title = label;
    }
  }

  open(tile) {
    if (!tile) return;
    this.focus(tile);
    this.details.open(tile.dataset.replica, tile);
    this.details.show(this.replicas);
  }

  focus(tile) {
    this.map.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    tile.setAttribute("tabindex", "0");
    tile.focus();
  }

  // Arrow keys go from tile to tile: hundreds of stops for Tab would be none.
  move(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const tiles = [...this.map.querySelectorAll("button")];
    const index = tiles.indexOf(document.activeElement);
    if (!step || index < 0) return;
    event.preventDefault();
    this.focus(tiles[(index + step + tiles.length) % tiles.length]);
  }
}

function madeNode() {
  const title = element("h3");
  const under = element("p", { class: "muted" });
  const tiles = element("div", { class: "replicas" });
  const card = element("article", { class: "node" }, element("header", {}, title, under), tiles);
  return Object.assign(card, { parts: { title, under, tiles: new Rows(tiles, madeTile) } });
}

function madeTile(each) {
  const span = (name) => element("span", { class: name });
  const parts = {
    load: span("load"), device: span("device"), batch: span("batch"), waiting: span("waiting"),
    watts: span("watts"), kv: span("kv"),
  };
  const tile = element("button", { type: "button", class: "replica", tabindex: "-1", "data-replica": each.replica },
    parts.load, element("span", { class: "head" }, parts.device, parts.waiting), parts.batch, parts.watts, parts.kv);
  return Object.assign(tile, { parts });
}

class Details {
  constructor() {
    this.panel = document.getElementById("details");
    this.title = document.getElementById("details-title");
    this.facts = new Facts(this.panel.querySelector("dl"));
    this.replica = "";
    document.getElementById("details-close").addEventListener("click", () => this.close());
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  open(replica, from) {
    this.replica = replica;
    this.from = from;
    this.panel.hidden = false;
    say(this.title, replica);
    this.title.focus();
  }

  close() {
    if (this.panel.hidden) return;
    this.panel.hidden = true;
    this.from?.focus();
  }

  show(replicas) {
    if (this.panel.hidden) return;
    const its = replicas[this.replica];
    this.facts.show(its ? facts(its) : [["state", "gone", "bad"]]);
  }
}

function facts(its) {
  return [
    ["state", its.state, its.state === "lost" ? "bad" : ""],
    ["model", its.model],
    ["variant", its.variant],
    ["node", its.node],
    ["accelerator", its.accelerator],
    ["devices", its.devices.join(", ") || "–"],
    ["batch", batch(its)],
    ["waiting", count(its.waiting_requests)],
    ["KV cache", percent(its.kv_cache_usage)],
    ["decode", `${number(its.decode_tokens_per_s)} tokens/s`],
    ["prefill", `${number(its.prefill_tokens_per_s)} tokens/s`],
    ["step", seconds(its.step_time_s)],
    ["power", si(its.power_w, "W")],
    ["energy", si(its.energy_j, "J")],
    ["idle", its.energy_j ? `${si(its.idle_j, "J")}, ${percent(its.idle_j / its.energy_j)}` : "–"],
    ["residual", si(its.residual_j, "J")],
    ["known by", [its.energy_method, its.energy_boundary].filter(Boolean).join(", ") || "–"],
    ["meter", its.meter_trouble || "nothing wrong", its.meter_trouble ? "bad" : ""],
    ["leases here", count(its.leases)],
    ["last report", `${seconds(its.age_s)} ago`, its.age_s > 5 ? "warn" : ""],
  ];
}

function batch(each) {
  return each.max_batch ? `${each.running_requests}/${each.max_batch}` : `${each.running_requests}`;
}

function place(each) {
  return [each.node, ...each.devices].join(" ");
}

// A tile has room for a number only; the whole names are in the details.
function short(devices) {
  const index = devices[0]?.match(/\d+$/)?.[0] ?? "";
  const first = index.length && index.length <= 3 ? `#${index}` : "";
  return devices.length > 1 ? `${first} +${devices.length - 1}` : first;
}

function described(each) {
  return `${each.replica} ${each.variant} ${each.node} ${each.state} ${each.accelerator}`.toLowerCase();
}
