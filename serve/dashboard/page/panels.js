// The panels about promises, plan, energy, decisions and troubles.

import { element, Facts, fill, mark, Rows, say, Table } from "./elements.js";
import { count, number, percent, seconds, share, si } from "./format.js";

const GOOD = 0.99;
const FAIR = 0.95;

export function tone(attainment) {
  if (attainment === undefined) return "";
  return attainment >= GOOD ? "good" : attainment >= FAIR ? "warn" : "bad";
}

export class Promises {
  constructor() {
    this.list = new Rows(document.getElementById("promises"), () => madePromise());
    this.counters = new Facts(document.getElementById("counters"));
  }

  show({ service_classes: met, models, counters }) {
    const classes = Object.values(models)[0]?.service_classes ?? [];
    const objectives = new Map(classes.map((each) => [each.name, each.objective]));
    const names = [...new Set([...objectives.keys(), ...Object.keys(met)])];
    const window_s = Object.values(met)[0]?.window_s;
    say(document.getElementById("promises-window"), window_s ? `last ${seconds(window_s)}` : "");
    this.list.show(names, (name) => name, (row, name) => {
      const its = met[name];
      const kept = its?.requests ? its.within_both / its.requests : undefined;
      const { parts } = row;
      mark(row, "data-tone", tone(kept));
      say(parts.name, name);
      say(parts.kept, share(kept));
      fill(parts.bar, kept);
      say(parts.asked, asked(objectives.get(name)));
      say(parts.met, its?.requests
        ? `${count(its.requests)} requests · TTFT ${share(its.within_ttft / its.requests)} · TPOT ${share(its.within_tpot / its.requests)}`
        : "no requests lately");
    });
    this.counters.show([
      ["accepted", count(counters.accepted)],
      ["completed", count(counters.completed)],
      ["in flight", count(counters.in_flight)],
      ["cancelled", count(counters.cancelled)],
      ["failed", count(counters.failed), counters.failed ? "bad" : ""],
      ["rejected", count(counters.rejected), counters.rejected ? "warn" : ""],
    ]);
  }
}

function madePromise() {
  const parts = {};
  for (const name of ["name", "kept", "bar", "asked", "met"]) parts[name] = element("span", { class: name });
  const row = element("div", { class: "promise" }, ...Object.values(parts));
  return Object.assign(row, { parts });
}

function asked(objective) {
  if (!objective) return "";
  const parts = [];
  if (objective.ttft_s !== undefined) parts.push(`TTFT ≤ ${seconds(objective.ttft_s)}`);
  if (objective.tpot_s !== undefined) parts.push(`TPOT ≤ ${seconds(objective.tpot_s)}`);
  if (objective.min_quality) parts.push(`quality ≥ ${objective.min_quality}`);
  return parts.join(" · ");
}

export class PlanPanel {
  constructor() {
    const parent = document.getElementById("plan");
    this.watts = new Facts(element("dl", { class: "facts" }));
    const [replicas, nodes] = [element("div"), element("div")];
    this.actions = new Rows(element("ul", { class: "lines" }), () => line());
    this.demands = new Rows(element("ul", { class: "lines" }), () => line());
    this.candidates = new Rows(element("ul", { class: "lines" }), () => line());
    this.candidatesTitle = element("h3", { text: "Candidates" });
    parent.append(
      this.watts.rows.parent,
      element("h3", { text: "What is to change" }), this.actions.parent,
      element("h3", { text: "Replicas" }), replicas, nodes,
      element("h3", { text: "Expected" }), this.demands.parent,
      this.candidatesTitle, this.candidates.parent,
    );
    this.replicas = new Table(replicas, "Replicas as planned", [
      ["variant", "text", (each) => each.variant + (each.pinned ? " (pinned)" : "")],
      ["on", "text", (each) => each.group],
      ["wanted", "number", (each) => count(each.wanted)],
      ["awake", "number", (each) => count(each.awake)],
      ["starting", "number", (each) => (each.starting ? count(each.starting) : "·")],
      ["draining", "number", (each) => (each.draining ? count(each.draining) : "·")],
    ]);
    this.nodes = new Table(nodes, "Nodes as planned", [
      ["nodes", "text", (each) => each.group],
      ["wanted", "number", (each) => count(each.wanted)],
      ["ready", "number", (each) => count(each.ready)],
      ["booting", "number", (each) => (each.booting ? count(each.booting) : "·")],
    ]);
  }

  show(plan) {
    const made = document.getElementById("plan-made");
    mark(document.getElementById("plan"), "data-empty", plan?.planned ? "" : "yes");
    if (!plan?.planned) {
      say(made, plan ? "no plan has been made yet" : "nothing plans here");
      return;
    }
    say(made, `${plan.solver}, gap ${(plan.gap * 100).toFixed(1)} %, ${seconds(plan.solve_s)} to make, ${seconds(plan.age_s)} ago`);
    this.watts.show([
      ["predicted", si(plan.predicted_w, "W")],
      ["least possible", plan.bound_w ? si(plan.bound_w, "W") : "–"],
      ["replicas now", si(plan.replicas_w, "W")],
      ...(plan.power_budget_w === undefined ? [] : [["allowed", si(plan.power_budget_w, "W")]]),
    ]);
    this.actions.show(changes(plan), (each) => each.key, (row, each) => row.show(each.what, each.why, each.tone));
    this.replicas.show(plan.replicas, (each) => `${each.variant} ${each.group}`,
      (each) => (each.trouble ? "bad" : each.wanted !== each.awake ? "warn" : ""));
    this.nodes.show(plan.nodes, (each) => each.group,
      (each) => (each.trouble ? "bad" : each.wanted !== each.ready ? "warn" : ""));
    this.demands.show(plan.demands, (each) => [each.model, each.service_class, each.min_quality, each.variant].join(" "), (row, each) => {
      const unserved = each.unserved_requests_per_s;
      row.show(`${each.service_class}${each.variant ? ` on ${each.variant}` : ""}: ${number(each.requests_per_s)} requests/s`,
        `hardly more than ${number(each.upper_requests_per_s)}; ${number(Math.round(each.prompt_tokens))} + ${number(Math.round(each.completion_tokens))} tokens`
        + (unserved ? `; ${number(unserved)}/s find nobody` : ""), unserved ? "bad" : "");
    });
    this.candidatesTitle.hidden = !plan.candidates.length;
    this.candidates.show(plan.candidates, (each) => each.variant, (row, each) => row.show(`${each.variant} ${each.phase}`, each.reason));
  }
}

// What is to change, and why; or why nothing does.
function changes(plan) {
  const actions = plan.actions.map(({ kind, count: many, variant, group, reason }, key) => {
    const whom = variant || (many > 1 ? "nodes" : "node");
    return { key, what: `${kind} ${many} ${whom} on ${group}`, why: reason, tone: "" };
  });
  if (plan.rejected) {
    actions.unshift({ key: "rejected", what: "not carried out", why: plan.rejected, tone: "bad" });
  }
  return actions.length ? actions : [{ key: "none", what: "nothing", why: "", tone: "" }];
}

function line() {
  const [what, why] = [element("b"), element("span", { class: "muted" })];
  const item = element("li", {}, what, why);
  item.show = (title, reason, its = "") => {
    say(what, title);
    say(why, reason);
    mark(item, "data-tone", its);
  };
  return item;
}

export class EnergyPanel {
  constructor() {
    this.by = "";
    this.table = new Table(document.getElementById("accounts"), "Energy of requests that have ended", [
      ["", "text", (each) => each.name],
      ["requests", "number", (each) => count(each.requests)],
      ["tokens", "number", (each) => count(each.completion_tokens)],
      ["energy", "bar", (each) => [si(each.energy_j, "J"), each.share]],
      ["per token", "number", (each) => (each.completion_tokens ? si(each.energy_j / each.completion_tokens, "J") : "–")],
      ["CO₂e", "number", (each) => (each.gco2e ? si(each.gco2e, "g") : "–")],
    ]);
    this.meters = new Facts(document.getElementById("meters"));
    this.carbon = new Facts(document.getElementById("carbon"));
    document.getElementById("accounts-by").addEventListener("change", (event) => {
      this.by = event.target.value;
      if (this.latest) this.show(this.latest);
    });
  }

  show(doc) {
    this.latest = doc;
    if (!this.by && doc.accounts.length) this.choose(doc.accounts.some((each) => each.tenant) ? "tenant" : "service_class");
    const sums = new Map();
    let total = 0;
    for (const each of doc.accounts) {
      const name = each[this.by] || (this.by === "tenant" ? "no tenant" : "–");
      const sum = sums.get(name) ?? { name, requests: 0, completion_tokens: 0, energy_j: 0, gco2e: 0 };
      for (const key of ["requests", "completion_tokens", "energy_j", "gco2e"]) sum[key] += each[key];
      total += each.energy_j;
      sums.set(name, sum);
    }
    const rows = [...sums.values()].sort((a, b) => b.energy_j - a.energy_j);
    for (const row of rows) row.share = total ? row.energy_j / total : 0;
    mark(document.getElementById("accounts"), "data-empty", rows.length ? "" : "yes");
    this.table.show(rows, (each) => each.name);
    this.showMeters(Object.values(doc.replicas));
    this.showCarbon(doc);
  }

  // Until somebody chooses: by tenant, if requests name any.
  choose(by) {
    this.by = by;
    document.querySelector(`#accounts-by input[value="${by}"]`).checked = true;
  }

  showMeters(replicas) {
    const sum = (key) => replicas.reduce((total, each) => total + each[key], 0);
    const all = sum("energy_j");
    const lost = replicas.filter((each) => each.meter_trouble).length;
    const methods = [...new Set(replicas.map((each) => [each.energy_method, each.energy_boundary].filter(Boolean).join(" of ")))];
    this.meters.show([
      ["replicas since they started", si(all, "J")],
      ["of that idle", all ? `${si(sum("idle_j"), "J")}, ${percent(sum("idle_j") / all)}` : "–"],
      ["residual", si(sum("residual_j"), "J"), all && Math.abs(sum("residual_j")) > 0.005 * all ? "bad" : ""],
      ["known by", methods.filter(Boolean).join("; ") || "–"],
      ...(lost ? [["meters in trouble", count(lost), "bad"]] : []),
    ]);
  }

  showCarbon({ carbon, overview }) {
    this.carbon.show(!carbon ? [["intensity", "none is configured"]] : [
      ["intensity", `${number(carbon.gco2e_per_kwh)} g/kWh`],
      ["source", `${carbon.source}, ${seconds(carbon.age_s)} old`],
      ["PUE", number(carbon.pue)],
      ["emitted now", `${si(overview.power_w * carbon.pue * carbon.gco2e_per_kwh / 1000, "g")}/h`],
      ...(carbon.trouble ? [["trouble", carbon.trouble, "warn"]] : []),
    ]);
  }
}

export class Decisions {
  constructor() {
    this.list = document.getElementById("decisions");
    this.rows = new Rows(this.list, () => {
      const parts = {};
      for (const name of ["age", "class", "to", "reason", "request"]) parts[name] = element("span", { class: name });
      return Object.assign(element("li", {}, ...Object.values(parts)), { parts });
    });
  }

  show({ decisions, taken_at_s: now_s }) {
    mark(this.list, "data-empty", decisions.length ? "" : "yes");
    this.rows.show(decisions, (each) => `${each.request_id} ${each.made_at_s} ${each.replica}`, ({ parts }, each) => {
      say(parts.age, seconds(Math.max(0, now_s - each.made_at_s)));
      say(parts.class, each.service_class);
      say(parts.to, `${each.variant} on ${each.replica}`);
      say(parts.reason, each.reason);
      say(parts.request, `${each.eligible} of ${each.candidates} could · ${each.request_id}`);
    });
  }
}

export class Troubles {
  constructor() {
    this.rows = new Rows(document.getElementById("troubles"), () => element("p", {}, element("b"), element("span")));
  }

  show(troubles) {
    this.rows.show(troubles, (each) => `${each.subject} ${each.reason}`, (row, each) => {
      say(row.firstElementChild, each.subject);
      say(row.lastElementChild, each.reason);
    });
  }
}
