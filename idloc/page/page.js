// The status page: reads status.json, events.json and authorities.json once a second
// and draws what it finds. Names come from other peers, so text goes in as text nodes
// only.
"use strict";

const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const history = new Map(); // peer ID → samples of the last two minutes
const KEEP = 120;

function el(tag, attrs, ...children) {
  const svg = ["svg", "g", "line", "path", "circle", "text", "rect", "polyline", "title"].includes(tag);
  const e = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) if (v !== undefined && v !== null) e.setAttribute(k, v);
  for (const c of children) if (c !== undefined && c !== null) e.append(c);
  return e;
}

const short = id => id ? "…" + id.slice(-6) : "";
const host = name => name ? name.split(".")[0] : "";
const label = p => p.name ? host(p.name) : short(p.id);

function duration(ns) {
  if (!ns) return "";
  if (ns < 1e6) return (ns / 1e3).toFixed(0) + " µs";
  if (ns < 1e9) return (ns / 1e6).toFixed(ns < 1e7 ? 1 : 0) + " ms";
  return (ns / 1e9).toFixed(2) + " s";
}

function size(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000 || unit === "GB") return (unit === "B" ? n.toFixed(0) : n.toFixed(1)) + " " + unit;
    n /= 1000;
  }
}

const active = p => (p.paths || []).find(x => x.active);
const relayed = p => { const a = active(p); return a && a.kind !== "direct"; };

// way is how a peer is reached: by a pipe, by a connection for the overlay's own
// work ("contact"), or not at all ("member").
const way = p => p.connected ? (relayed(p) ? "relayed" : "direct") : p.contact ? "contact" : "member";
const nearest = { direct: 0, relayed: 0, contact: 1, member: 2 };
const meaning = { direct: "direct pipe", relayed: "relayed pipe", contact: "connected, no pipe", member: "known, not connected" };

function sample(status, now) {
  for (const p of status.peers || []) {
    const h = history.get(p.id) || [];
    history.set(p.id, h);
    const last = h[h.length - 1];
    const s = { t: now, sent: p.bytes_sent || 0, received: p.bytes_received || 0, rtt: p.rtt || 0, outRate: 0, inRate: 0,
      pace: (p.repair?.rate || 0) / 8, flight: p.repair?.in_flight || 0, window: p.repair?.window || 0 };
    if (last && now > last.t) {
      const dt = (now - last.t) / 1000;
      s.outRate = Math.max(0, s.sent - last.sent) / dt; // a new pipe counts from zero
      s.inRate = Math.max(0, s.received - last.received) / dt;
    }
    h.push(s);
    if (h.length > KEEP) h.shift();
  }
}

function drawMap(status, events) {
  const all = status.peers || [], shown = all.slice(0, 40);
  const map = $("map"), cx = 320, cy = 180;
  const at = new Map([[status.self.id, [cx, cy]]]);
  shown.forEach((p, i) => {
    const a = 2 * Math.PI * (i + 0.3) / shown.length - Math.PI / 2;
    at.set(p.id, [cx + 215 * Math.cos(a), cy + 125 * Math.sin(a)]);
  });
  const edges = el("g"), nodes = el("g");
  for (const p of shown) {
    const [x, y] = at.get(p.id), kind = way(p), rtt = p.connected ? p.rtt : p.contact?.rtt;
    edges.append(el("line", { x1: cx, y1: cy, x2: x, y2: y, class: "edge " + kind }));
    if (rtt) edges.append(el("text", { x: (cx + x) / 2 + 6, y: (cy + y) / 2, class: "soft" }, duration(rtt)));
    nodes.append(el("circle", { cx: x, cy: y, r: 9, class: "dot " + kind }, el("title", {}, `${p.name || p.id}: ${meaning[kind]}`)),
      el("text", { x, y: y + (y < cy ? -15 : 26), "text-anchor": "middle" }, label(p)));
  }
  const drawn = new Set();
  const arc = (from, to, by) => {
    const a = at.get(from), b = at.get(to), key = from + to;
    if (!a || !b || drawn.has(key)) return;
    drawn.add(key);
    edges.append(el("path", { d: `M${a} Q${by} ${b}`, class: "edge forward" }));
  };
  for (const e of events) {
    if (e.kind === "offer-forwarded") arc(e.from, e.peer, [cx, cy]);
    if (e.kind === "answer-received" && e.via && at.get(e.via)) arc(status.self.id, e.peer, at.get(e.via));
  }
  nodes.append(el("circle", { cx, cy, r: 13, class: "dot me" }), el("text", { x: cx, y: cy + 32, "text-anchor": "middle" }, label(status.self)));
  if (all.length > shown.length) nodes.append(el("text", { x: 12, y: 348, class: "soft" }, `and ${all.length - shown.length} more`));
  map.replaceChildren(edges, nodes);
}

function line(samples, value, max, cls) {
  const slots = Math.max(30, samples.length);
  const points = samples.map((s, i) => `${(300 * (i + slots - samples.length) / (slots - 1)).toFixed(1)},${(58 - 54 * value(s) / max).toFixed(1)}`);
  return el("polyline", { points: points.join(" "), class: cls });
}

const mbit = n => (n / 1e6).toFixed(n < 1e7 ? 2 : 1) + " Mbit/s";

// repair draws how the pipe to p makes good what its path loses.
function repair(p, h) {
  const r = p.repair, most = Math.max(1, ...h.map(s => s.pace)), window = Math.max(1, ...h.map(s => Math.max(s.window, s.flight)));
  return [
    el("p", {}, `repair ${r.state} · RTT ${duration(r.rtt)}, smoothed ${duration(r.smoothed)} · ${r.repaired || 0} repaired of ${r.sent}` +
      (r.late ? `, ${r.late} late` : "") + (r.marked ? `, ${r.marked} marked` : "") + (r.shed ? `, ${r.shed} shed` : "")),
    el("svg", { class: "chart", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img", "aria-label": `Rate and bytes in flight to ${label(p)}, last two minutes` },
      line(h, s => s.pace, most, "sent"), line(h, s => s.flight, window, "received"), line(h, s => s.window, window, "rtt")),
    el("p", { class: "key soft" }, el("span", { class: "sent" }, "rate " + mbit(r.rate || 0)),
      el("span", { class: "received" }, "in flight " + size(r.in_flight || 0)), el("span", { class: "rtt" }, "window " + size(r.window || 0)))];
}

function card(p) {
  const h = history.get(p.id) || [], last = h[h.length - 1] || { outRate: 0, inRate: 0 };
  const a = active(p);
  const art = el("article", { tabindex: 0, "data-peer": p.id },
    el("h3", {}, p.name || p.id),
    el("p", { class: "soft" }, [p.lsi4, p.lsi6].filter(Boolean).join(" · "), " ", short(p.id)));
  if (p.connected) {
    art.append(el("p", {}, `${p.encapsulation}, ${p.aead}, ` + (a ? `${a.kind} ${a.local} → ${a.remote}` + (a.via ? ` via ${short(a.via)}` : "") : "no path")),
      el("p", {}, `MTU ${p.mtu} · ${p.rekeys || 0} rekeys · sent ${size(p.bytes_sent || 0)}, received ${size(p.bytes_received || 0)}` + (p.lost ? ` · ${p.lost} lost on the way here` : "")));
    const most = Math.max(1, ...h.map(s => Math.max(s.outRate, s.inRate))), slow = Math.max(1, ...h.map(s => s.rtt));
    art.append(el("svg", { class: "chart", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img", "aria-label": `Traffic and round-trip time to ${label(p)}, last two minutes` },
      line(h, s => s.outRate, most, "sent"), line(h, s => s.inRate, most, "received"), line(h, s => s.rtt, slow, "rtt")),
      el("p", { class: "key soft" }, el("span", { class: "sent" }, "sent " + size(last.outRate) + "/s"),
        el("span", { class: "received" }, "received " + size(last.inRate) + "/s"), el("span", { class: "rtt" }, "RTT " + (duration(p.rtt) || "–"))));
    if (p.repair?.sent) art.append(...repair(p, h));
  } else if (p.contact) {
    art.append(el("p", {}, `connected, no pipe · at ${p.contact.addr}` + (p.contact.rtt ? ` · RTT ${duration(p.contact.rtt)}` : "") + (p.contact.server ? " · serves the database" : "")));
  } else {
    art.append(el("p", { class: "soft" }, "not connected"));
  }
  for (const x of (p.paths || []).filter(x => !x.active)) art.append(el("p", { class: "soft" }, `standby: ${x.kind} ${x.remote} ${duration(x.rtt)}`));
  if (p.invitation || p.delegate) art.append(el("p", { class: "soft" }, "came by invitation " + (p.invitation || "unknown") + (p.delegate ? `, through ${p.delegate}` : "")));
  if (p.last_error) art.append(el("p", { class: "bad" }, p.last_error));
  return art;
}

// time is an event's time in ns. Date keeps milliseconds only; the rest is in
// the text.
function time(e) {
  const fraction = /\.(\d+)/.exec(e.time)?.[1] || "";
  return Date.parse(e.time.replace(/\.\d+/, "")) * 1e6 + Number(fraction.padEnd(9, "0").slice(0, 9));
}

function stages(dial, events) {
  const end = time(dial), start = end - (dial.duration || 0), out = [];
  const near = events.filter(e => e.peer === dial.peer && time(e) >= start && time(e) <= end);
  const name = events.find(e => e.kind === "name-resolved" && e.peer === dial.peer && time(e) >= start && time(e) <= end);
  if (name) out.push(["name", time(name) - (name.duration || 0), time(name)]);
  let pair = 0, ready = name ? time(name) : start;
  for (const e of near) {
    if (e.kind === "answer-received") out.push(["offer", time(e) - (e.duration || 0), time(e)]);
    if (e.kind === "pair-chosen") { pair = time(e); out.push(["check", pair - (e.duration || 0), pair]); }
    if (e.kind === "pipe-up") { if (pair) out.push(["handshake", pair, time(e)]); ready = time(e); }
  }
  if (!dial.error) out.push(["connect", ready, end]);
  return { start, end, out };
}

function drawDials(events) {
  const dials = events.filter(e => e.kind === "dialed").slice(-8).reverse();
  const box = $("dials");
  if (!dials.length) { box.replaceChildren(el("p", { class: "soft" }, "none yet")); return; }
  box.replaceChildren(...dials.map(d => {
    const { start, end, out } = stages(d, events), whole = Math.max(1, end - start);
    const bar = el("svg", { class: "fall", viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img", "aria-label": out.map(([s, a, b]) => s + " " + duration(Math.max(0, b - a))).join(", ") });
    for (const [stage, a, b] of out) {
      const x = Math.max(0, 1000 * (a - start) / whole), w = Math.min(1000 - x, Math.max(4, 1000 * (b - a) / whole));
      bar.append(el("rect", { x, y: 2, width: Math.max(0, w), height: 16, class: stage }, el("title", {}, `${stage}: ${duration(Math.max(0, b - a))}`)));
    }
    const text = el("p", {}, `${d.detail || ""} ${d.name || ""} – ${duration(d.duration)} `);
    if (d.error) text.append(el("span", { class: "bad" }, (d.stage ? d.stage + ": " : "") + d.error));
    else text.append(el("span", { class: "soft" }, out.map(([s, a, b]) => `${s} ${duration(Math.max(0, b - a)) || "0"}`).join(" · ")));
    return el("div", { class: "dial" }, text, bar);
  }));
}

function drawEvents(status, events) {
  const names = new Map((status.peers || []).map(p => [p.id, label(p)]));
  names.set(status.self.id, label(status.self));
  const who = id => id ? names.get(id) || short(id) : "";
  const wanted = $("filter").value.toLowerCase();
  const rows = [];
  for (const e of events.slice().reverse()) {
    const what = [e.name, e.lsi, e.via && "via " + who(e.via), e.from && "from " + who(e.from), e.local && `${e.local} → ${e.remote || ""}` || e.remote, e.detail, e.stage, e.error].filter(Boolean).join(" · ");
    const row = [new Date(e.time).toLocaleTimeString([], { hour12: false }) + "." + String(new Date(e.time).getMilliseconds()).padStart(3, "0"), e.kind, who(e.peer), duration(e.duration), what];
    if (wanted && !row.join(" ").toLowerCase().includes(wanted)) continue;
    rows.push(el("tr", { class: e.error ? "bad" : null }, ...row.map(c => el("td", {}, c))));
    if (rows.length === 200) break;
  }
  $("events").replaceChildren(...rows);
}

function drawDrops(status) {
  const d = Object.entries(status.drops || {}).sort((a, b) => b[1] - a[1]);
  $("drops").replaceChildren(d.length ? el("ul", {}, ...d.map(([k, v]) => el("li", {}, `${k}: ${v}`))) : el("p", { class: "soft" }, "nothing"));
}

// drawRule shows who rules the overlay, what waits for them, and what was done last. An
// overlay of its founder alone, in which nothing was done, has nothing to show.
function drawRule(status, rule) {
  const all = rule.authorities || [], waiting = status.self.proposals || [], past = rule.history || [];
  $("rule").hidden = all.length < 2 && rule.threshold < 2 && !waiting.length && !past.length;
  $("agree").textContent = `${rule.threshold} of ${all.length} have to agree` + (status.self.authority ? "; this node is one of them" : "");
  $("authorities").replaceChildren(...all.map(a => el("li", {}, a.name + (a.self ? ", this node" : ""), el("span", { class: "soft" }, " key " + a.key.slice(0, 16) + (a.recovery ? ", on paper" : "")))));
  $("proposals").hidden = waiting.length === 0;
  $("proposals").replaceChildren(...waiting.map(p => el("li", {}, el("article", {},
    el("h3", {}, p.what), el("p", {}, `proposal ${p.id}, of ${p.by}, until ${new Date(p.expires).toLocaleString()}`),
    el("p", {}, `${(p.approved || []).length} of ${p.needs} signatures: ${(p.approved || []).join(", ") || "none under the list in force"}` + (p.mine ? " · this node has approved it" : ""))))));
  $("history").replaceChildren(...past.slice().reverse().map(h => el("tr", {}, ...[new Date(h.time).toLocaleString(), h.what, h.whom || "", (h.by || []).join(", "), h.text || ""].map(c => el("td", {}, c)))));
}

function drawPeers(status) {
  const box = $("peers"), focused = document.activeElement?.dataset?.peer;
  const peers = (status.peers || []).slice().sort((a, b) => nearest[way(a)] - nearest[way(b)]).slice(0, 60);
  box.replaceChildren(...(peers.length ? peers.map(card) : [el("p", { class: "soft" }, "none yet")]));
  if (focused) [...box.children].find(c => c.dataset.peer === focused)?.focus({ preventScroll: true });
}

async function tick() {
  try {
    const [status, events, rule] = await Promise.all(["status.json", "events.json", "authorities.json"].map(async u => {
      const r = await fetch(u);
      if (!r.ok) throw new Error(u + ": " + r.status);
      return r.json();
    }));
    const s = status.self;
    document.title = s.name;
    $("name").textContent = s.name;
    $("self").textContent = `${s.id} · LSIs ${s.lsi4}, ${s.lsi6} · UDP port ${s.port} at ${(s.addrs || []).join(", ")}` +
      (s.nat ? ` · NAT: ${s.nat}` : "") + (s.mapped?.length ? ` · seen from outside as ${s.mapped.join(", ")}` : "") +
      ` · members connected: ${s.members}, of them servers: ${s.servers}` + (s.server ? ` · serves the database (${s.records || 0} records)` : "") +
      (s.founder ? " · founder" : "") + (s.not_after ? ` · member until ${new Date(s.not_after).toLocaleDateString()}` : "");
    const warnings = [...(s.alone ? ["No member is reached, trying on: " + (s.alone_why || "none was tried yet")] : []), ...(s.warnings || [])];
    $("warnings").replaceChildren(...warnings.map(text => Object.assign(document.createElement("li"), { textContent: text })));
    $("warnings").hidden = warnings.length === 0;
    sample(status, performance.now());
    drawMap(status, events);
    drawPeers(status);
    drawDials(events);
    drawEvents(status, events);
    drawDrops(status);
    drawRule(status, rule);
    $("stale").hidden = true;
  } catch {
    $("stale").hidden = false;
  }
}

$("filter").addEventListener("input", tick);
tick();
setInterval(tick, 1000);
