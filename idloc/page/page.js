// The status page: reads status.json, events.json and authorities.json once a second,
// and traffic.json once a minute, and draws what it finds. Names come from other peers, so
// text goes in as text nodes only.
"use strict";

const $ = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const live = new Map(); // peer ID → samples of each second since the page was opened
const KEEP = 600; // of them
let past = new Map(); // peer ID → samples that the node has kept, from its start on

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

// stamp is a time of day as the reader's clock has it, with the date unless that is today's.
function stamp(text, precisely) {
  const d = new Date(text), two = n => String(n).padStart(2, "0");
  const day = d => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  const time = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}` + (precisely ? "." + String(d.getMilliseconds()).padStart(3, "0") : "");
  return day(d) === day(new Date()) ? time : day(d) + " " + time;
}

// rate is one of bytes, as bits.
function rate(n) {
  n *= 8;
  for (const unit of ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]) {
    if (n < 1000 || unit === "Gbit/s") return (unit === "bit/s" ? n.toFixed(0) : n.toFixed(1)) + " " + unit;
    n /= 1000;
  }
}

function size(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000 || unit === "GB") return (unit === "B" ? n.toFixed(0) : n.toFixed(1)) + " " + unit;
    n /= 1000;
  }
}

const active = p => (p.paths || []).find(x => x.active);
const relayed = p => { const a = active(p); return a && a.kind !== "direct"; }; // by a member, a TURN server or TCP

// way is how a peer is reached: by a pipe, by a connection for the overlay's own
// work ("contact"), or not at all ("member").
const way = p => p.connected ? (relayed(p) ? "relayed" : "direct") : p.contact ? "contact" : "member";
const nearest = { direct: 0, relayed: 0, contact: 1, member: 2 };
const meaning = { direct: "direct pipe", relayed: "pipe through a relay, a TURN server or TCP", contact: "connected, no pipe", member: "known, not connected" };

function sample(status, now) {
  for (const p of status.peers || []) {
    const h = live.get(p.id) || [];
    live.set(p.id, h);
    const last = h[h.length - 1];
    const s = { t: now, sent: p.bytes_sent || 0, received: p.bytes_received || 0, rtt: p.connected && p.rtt || 0, outRate: 0, inRate: 0,
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

// remember reads traffic.json: its points count from the start of the node.
function remember(traffic) {
  past = new Map(traffic.map(({ peer, points }) => [peer, points.slice(1).map(([t, sent, received, rtt], i) => {
    const [before, sentBefore, receivedBefore] = points[i], dt = (t - before) / 1000;
    return { t, rtt, outRate: (sent - sentBefore) / dt, inRate: (received - receivedBefore) / dt };
  })]));
}

// samples are those of a peer that a chart shows, what the node has kept before those that
// the page has seen itself.
function samples(id, now) {
  const seen = (live.get(id) || []).slice(1), from = now - 1000 * $("span").value, first = seen.length ? seen[0].t : Infinity;
  return [...(past.get(id) || []).filter(s => s.t < first), ...seen].filter(s => s.t >= from);
}

const NAMED = 16; // letters of a name that the picture shows
const SHOWN = 200; // peers that it shows

// rings says where peers stand around the middle, those that are near first: on one ring, or
// on more if they are many.
function rings(count, cx, cy, rx, ry) {
  const scales = count <= 16 ? [1] : count <= 40 ? [.6, 1] : [.4, .6, .8, 1];
  const whole = scales.reduce((a, b) => a + b), at = [];
  scales.forEach((scale, ring) => {
    const here = ring === scales.length - 1 ? count - at.length : Math.round(count * scale / whole);
    for (let i = 0; i < here; i++) {
      const a = 2 * Math.PI * (i + .3 + ring / 2) / here - Math.PI / 2;
      at.push([cx + rx * scale * Math.cos(a), cy + ry * scale * Math.sin(a)]);
    }
  });
  return at;
}

const pen = document.createElement("canvas").getContext("2d");

// labels returns a function that writes where nothing was written before, and nothing
// where there is no room.
function labels(width, height, taken) {
  return (text, places, cls) => {
    pen.font = (cls === "soft" ? "12px" : "13px") + " system-ui, sans-serif";
    const w = pen.measureText(text).width + 8;
    for (const [x, y] of places) {
      const box = [x - w / 2, y - 13, x + w / 2, y + 4];
      if (box[0] < 2 || box[1] < 2 || box[2] > width - 2 || box[3] > height - 2) continue;
      if (taken.some(t => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) continue;
      taken.push(box);
      return el("text", { x, y, "text-anchor": "middle", class: cls }, text);
    }
  };
}

function drawMap(status, events) {
  const all = (status.peers || []).slice().sort((a, b) => nearest[way(a)] - nearest[way(b)]), shown = all.slice(0, SHOWN);
  const map = $("map"), width = map.clientWidth, height = map.clientHeight, cx = width / 2, cy = height / 2;
  const few = shown.length <= 16, r = few ? 9 : shown.length <= 40 ? 6 : 4;
  map.setAttribute("viewBox", `0 0 ${width} ${height}`);
  map.classList.toggle("many", !few);
  const where = rings(shown.length, cx, cy, cx - (few ? Math.min(80, width / 6) : 40), cy - 40);
  const at = new Map([[status.self.id, [cx, cy]]]), edges = el("g"), nodes = el("g"), texts = el("g");
  shown.forEach((p, i) => at.set(p.id, where[i]));
  const write = labels(width, height, [[cx - 13, cy - 13, cx + 13, cy + 13], ...where.map(([x, y]) => [x - r, y - r, x + r, y + r])]);
  const put = (text, places, cls) => { const t = write(text, places, cls); if (t) texts.append(t); };
  put(label(status.self), [[cx, cy + 30], [cx, cy - 20]], "label");
  for (const p of shown) {
    const [x, y] = at.get(p.id), kind = way(p), name = label(p), up = [x, y - r - 6], down = [x, y + r + 15], side = [x + (x < cx ? -1 : 1) * (r + 4 + 3.7 * Math.min(name.length, NAMED)), y + 4];
    edges.append(el("line", { x1: cx, y1: cy, x2: x, y2: y, class: "edge " + kind }));
    nodes.append(el("circle", { cx: x, cy: y, r, class: "dot " + kind }, el("title", {}, `${p.name || p.id}: ${meaning[kind]}`)));
    put(name.length > NAMED ? name.slice(0, NAMED - 1) + "…" : name, y < cy ? [up, down, side] : [down, up, side], "label");
  }
  if (few) for (const p of shown) {
    const [x, y] = at.get(p.id), rtt = p.connected ? p.rtt : p.contact?.rtt;
    if (rtt) put(duration(rtt), [.55, .7, .4].map(k => [cx + k * (x - cx), cy + k * (y - cy) + 4]), "soft");
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
  nodes.append(el("circle", { cx, cy, r: 13, class: "dot me" }));
  if (all.length > shown.length) texts.append(el("text", { x: 12, y: height - 12, class: "soft" }, `and ${all.length - shown.length} more`));
  map.replaceChildren(edges, nodes, texts);
}

function line(samples, now, value, max, cls) {
  const span = 1000 * $("span").value;
  const points = samples.map(s => `${(300 * (1 - (now - s.t) / span)).toFixed(1)},${(58 - 54 * value(s) / max).toFixed(1)}`);
  return el("polyline", { points: points.join(" "), class: cls });
}

const most = (h, ...values) => Math.max(0, ...h.map(s => Math.max(...values.map(v => v(s) || 0))));

// chart draws some values of a peer against time; those of one scale have its largest value
// in the key.
function chart(p, now, h, what, lines) {
  return el("svg", { class: "chart", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img", "aria-label": `${what} of ${label(p)}, the last ${$("span").selectedOptions[0].text}` },
    ...lines.map(([cls, value, max]) => line(h, now, value, max || 1, cls)));
}

// repair draws how the pipe to p makes good what its path loses. The node keeps nothing of
// that: the chart begins when the page was opened.
function repair(p, now) {
  const r = p.repair, h = samples(p.id, now).filter(s => s.pace !== undefined), pace = most(h, s => s.pace), bytes = most(h, s => s.window, s => s.flight);
  return [
    el("p", {}, `repair ${r.state} · shortest RTT ${duration(r.rtt)}, smoothed ${duration(r.smoothed)} · ${r.repaired || 0} of ${r.sent} packets sent again` +
      (r.late ? `, ${r.late} had only been late` : "") + (r.marked ? `, ${r.marked} marked by routers` : "") + (r.shed ? `, ${r.shed} of UDP shed` : "")),
    h.length < 2 ? "" : chart(p, now, h, "Repair: rate and bytes in flight", [["sent", s => s.pace, pace], ["received", s => s.flight, bytes], ["rtt", s => s.window, bytes]]),
    el("p", { class: "key soft" }, el("span", { class: "sent" }, "may send " + rate((r.rate || 0) / 8)),
      el("span", { class: "received" }, "in flight " + size(r.in_flight || 0)), el("span", { class: "rtt" }, "of at most " + size(r.window || 0)))];
}

function card(p, now, dialed) {
  const h = samples(p.id, now), last = (live.get(p.id) || []).at(-1) || { outRate: 0, inRate: 0 };
  const a = active(p);
  const art = el("article", { tabindex: 0, "data-peer": p.id },
    el("h3", {}, p.name || p.id),
    el("p", { class: "soft", title: p.id }, [p.lsi4, p.lsi6, short(p.id)].filter(Boolean).join(" · "), (p.tags || []).length ? ` · ${p.tags.join(", ")}` : ""));
  if (p.connected) {
    art.append(el("p", {}, (a ? `${a.kind} ${a.carrier || `${a.local} → ${a.remote}`}` + (a.via ? ` through ${a.viaName || short(a.via)}` : "") : "no path")),
      el("p", {}, `sent ${size(p.bytes_sent || 0)}, received ${size(p.bytes_received || 0)}` + (p.lost ? ` · ${p.lost} datagrams lost on the way here` : "")));
    const fast = most(h, s => s.outRate, s => s.inRate), slow = most(h, s => s.rtt);
    art.append(chart(p, now, h, "Traffic and round-trip time", [["sent", s => s.outRate, fast], ["received", s => s.inRate, fast], ["rtt", s => s.rtt, slow]]),
      el("p", { class: "key soft" }, el("span", { class: "sent" }, "sends " + rate(last.outRate)),
        el("span", { class: "received" }, "receives " + rate(last.inRate)), el("span", { class: "rtt" }, "RTT " + (duration(p.rtt) || "–")),
        el("span", {}, `top of the chart: ${rate(fast)}` + (slow ? `, ${duration(slow)}` : ""))));
    if (p.repair?.sent) art.append(...repair(p, now));
    art.append(el("p", { class: "soft" }, `${p.encapsulation}, ${p.aead} · keys renewed ${p.rekeys || 0} times · UDP payload up to ${p.mtu} bytes`));
  } else if (p.contact) {
    art.append(el("p", {}, `connected, no pipe · at ${p.contact.addr || p.contact.carrier}` + (p.contact.rtt ? ` · RTT ${duration(p.contact.rtt)}` : "") + (p.contact.server ? " · serves the database" : "")));
  } else {
    art.append(el("p", { class: "soft" }, "not connected"));
  }
  for (const x of (p.paths || []).filter(x => !x.active)) art.append(el("p", { class: "soft" }, `standby: ${x.kind} ${x.carrier || x.remote} ${x.rtt ? "RTT " + duration(x.rtt) : ""}`));
  if (p.invitation || p.delegate) art.append(el("p", { class: "soft" }, "came by invitation " + (p.invitation || "unknown") + (p.delegate ? `, through ${p.delegate}` : "")));
  const d = dialed.get(p.id);
  if (d?.error) art.append(el("p", { class: "bad" }, `the last dial, at ${stamp(d.time)}, failed: ${d.error}`));
  else if (p.last_error) art.append(el("p", { class: "bad" }, (p.connected ? "the last failure: " : "") + p.last_error));
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
  const failed = dial.error && dial.stage?.split(" ").at(-1); // "connectivity check" is drawn as check
  if (failed) out.push([failed, Math.max(start, ...out.map(([, , to]) => to)), end]);
  else if (!dial.error) out.push(["connect", ready, end]);
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
    const text = el("p", {}, `${stamp(d.time)} ${d.detail || ""} ${d.name || ""}: ${d.error ? "failed after" : "took"} ${duration(d.duration)}. `);
    if (d.error) text.append(el("span", { class: "bad" }, d.error));
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
    const row = [stamp(e.time, true), e.kind, who(e.peer), duration(e.duration), what];
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
    el("h3", {}, p.what), el("p", {}, `proposal ${p.id}, of ${p.by}, until ${stamp(p.expires)}`),
    el("p", {}, `${(p.approved || []).length} of ${p.needs} signatures: ${(p.approved || []).join(", ") || "none under the list in force"}` + (p.mine ? " · this node has approved it" : ""))))));
  $("history").replaceChildren(...past.slice().reverse().map(h => el("tr", {}, ...[stamp(h.time), h.what, h.whom || "", (h.by || []).join(", "), h.text || ""].map(c => el("td", {}, c)))));
}

// outside is whether others reach this node unasked, as far as is known.
function outside(s) {
  const tried = { "reached": "yes: a member that nothing had been sent to came through", "in vain": "no: a NAT or a firewall lets in only those that were sent to", "nobody to try": "not known: there is no member that nothing was sent to", "no answer": "not known: the member that was asked has not answered" };
  if (s.reached) return "yes" + (s.reached_by?.from ? `: ${s.reached_by.from} came to ${s.reached_by.local} at ${stamp(s.reached_by.at)}` : "");
  return s.dial_back?.result ? `${tried[s.dial_back.result] || s.dial_back.result}, at ${stamp(s.dial_back.at)}` : "not known yet";
}

// drawNet shows what the node has found out about its network.
function drawNet(s) {
  const nat = { "none": "none", "translated": "there is one; its kind is not known, as only one port was asked", "endpoint-independent": "one mapping for all destinations (endpoint-independent)", "endpoint-dependent": "a mapping for each destination (endpoint-dependent, symmetric)" };
  const udp = { works: "works", silent: "nothing comes back", unsent: "this system sends nothing" };
  const off = Math.round(Math.abs(s.clock_off || 0) / 1e9), port = s.port_mapping || {};
  const facts = [
    ["UDP", `port ${s.port}, ` + (udp[s.udp] || "not measured: nobody is known to send to")],
    ["this host's addresses", (s.addrs || []).join(", ")],
    ["seen from outside as", (s.mapped || []).join(", ")],
    ["NAT", nat[s.nat] || s.nat || "not measured yet"],
    ["reached unasked", outside(s)],
    ["the router's mapping", port.addr ? `${port.addr}, by ${port.protocol}` : port.error ? "none: " + port.error : ""],
    ["IPv4 by NAT64", s.nat64],
    ["carriers (TCP) in use", (s.carried_by || []).join(", ")],
    ["carriers served", s.carriers ? `to ${s.carriers} nodes` : ""],
    ...(s.turn || []).map(t => ["TURN server", `${t.server}: ` + (t.addr ? `lends ${t.addr}` : t.error || "not reached yet")]),
    ["relays for others", s.relay?.packets ? `${s.relay.bindings} pairs now, ${size(s.relay.bytes)} so far` : ""],
    ["clock", s.clocks ? (off ? `${off} s ${s.clock_off < 0 ? "behind" : "ahead of"} those of ${s.clocks} members` : `right, by those of ${s.clocks} members`) + (off > 600 ? ": more than the ten minutes that are allowed" : "") : "not compared yet"],
    ["this node's LSIs", [s.lsi4, s.lsi6].filter(Boolean).join(", ")],
    ["its DNS server", s.dns ? `${s.dns}, port 53` + (s.tun ? `; TUN device ${s.tun}` : "") : ""],
    ["asked of late", (s.probes || []).slice(-4).map(p => `${p.addr} by ${p.by}: ` + (p.heard ? (p.seen ? `sees ${p.seen}` : "answers") + (p.rtt ? ` in ${duration(p.rtt)}` : "") : p.error || "no answer")).join("; ")],
  ];
  $("net").replaceChildren(...facts.filter(([, text]) => text).flatMap(([what, text]) => [el("dt", {}, what), el("dd", {}, text)]));
}

const CARDS = 60; // that are drawn of each kind
const CLOSED = 24; // with more peers than that those without a pipe are behind a click
let closedOnce = false;

function drawPeers(status, events, now) {
  const focused = document.activeElement?.dataset?.peer, wanted = $("who").value.toLowerCase();
  const dialed = new Map(events.filter(e => e.kind === "dialed" && e.peer).map(e => [e.peer, e])); // the newest of each
  const all = (status.peers || []).slice().sort((a, b) => nearest[way(a)] - nearest[way(b)]);
  const names = new Map(all.map(p => [p.id, label(p)]));
  for (const p of all) for (const x of p.paths || []) if (x.via) x.viaName = names.get(x.via);
  const cards = (box, peers) => {
    let arts = peers.slice(0, wanted ? peers.length : CARDS).map(p => card(p, now, dialed));
    if (wanted) arts = arts.filter(a => a.textContent.toLowerCase().includes(wanted)).slice(0, CARDS);
    else if (peers.length > CARDS) arts.push(el("p", { class: "soft" }, `and ${peers.length - CARDS} more: "Show only" finds them`));
    box.replaceChildren(...arts);
    if (focused) [...box.children].find(c => c.dataset.peer === focused)?.focus({ preventScroll: true });
  };
  const piped = all.filter(p => p.connected), others = all.filter(p => !p.connected);
  cards($("peers"), piped);
  cards($("unpiped"), others);
  if (!piped.length) $("peers").replaceChildren(el("p", { class: "soft" }, "no pipe yet: a Dial opens one"));
  if (all.length > CLOSED && !closedOnce) { $("others").open = false; closedOnce = true; }
  $("others").hidden = !others.length;
  $("others").firstElementChild.textContent = `${others.length} without a pipe, of them ${others.filter(p => p.contact).length} connected`;
}

let keptAt = -Infinity; // when traffic.json was read last

async function tick() {
  try {
    const [status, events, rule] = await Promise.all(["status.json", "events.json", "authorities.json"].map(async u => {
      const r = await fetch(u);
      if (!r.ok) throw new Error(u + ": " + r.status);
      return r.json();
    }));
    const s = status.self, now = Date.now();
    if (now - keptAt > 60e3) {
      keptAt = now;
      const r = await fetch("traffic.json");
      if (r.ok) remember(await r.json());
    }
    document.title = s.name;
    $("name").textContent = s.name;
    $("self").textContent = [s.founder && "founder", s.authority && "authority", s.not_after && `member until ${stamp(s.not_after)}` + (s.confirmed ? "" : ", not confirmed yet"),
      `${s.members} members connected, ${s.servers} of them serve the database`, s.server && `this node serves it, too (${s.records || 0} records)`].filter(Boolean).join(" · ");
    $("id").textContent = s.id;
    const warnings = [...(s.alone ? ["No member is reached, trying on: " + (s.alone_why || "none was tried yet")] : []), ...(s.warnings || [])];
    $("warnings").replaceChildren(...warnings.map(text => Object.assign(document.createElement("li"), { textContent: text })));
    $("warnings").hidden = warnings.length === 0;
    sample(status, now);
    drawMap(status, events);
    drawNet(s);
    drawPeers(status, events, now);
    drawDials(events);
    drawEvents(status, events);
    drawDrops(status);
    drawRule(status, rule);
    $("stale").hidden = true;
  } catch {
    $("stale").hidden = false;
  }
}

for (const id of ["filter", "who", "span"]) $(id).addEventListener("input", tick);
addEventListener("resize", tick);
tick();
setInterval(tick, 1000);
