"use strict";
// Draws the volumes from status.json and asks for it again every few seconds. Text is only ever set as text.
const POLL_MS = 5000;
const KINDS = { Ready: ["good", "✓"], Degraded: ["wait", "!"], Pending: ["wait", "…"], Preparing: ["wait", "…"],
  Unmanaged: ["wait", "–"], Failed: ["bad", "✗"], Refused: ["bad", "✗"], Lost: ["bad", "✗"] };
const cards = new Map();
const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Leaves alone what already reads so: a screen reader says changes, and a selection stays.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = text === "";
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (Math.abs(bytes) >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit && bytes !== Math.round(bytes) ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function time(seconds) {
  return seconds < 1e-3 ? `${Math.round(seconds * 1e6)} µs` : seconds < 1 ? `${(seconds * 1e3).toFixed(1)} ms` : `${seconds.toFixed(1)} s`;
}

const CHARTS = [
  { title: "Throughput", lines: [["read_bytes_s", "read"], ["write_bytes_s", "written"]], show: (n) => `${size(n)}/s` },
  { title: "Latency", lines: [["latency_s", ""]], show: time },
  { title: "Queue", lines: [["queue", ""]], show: (n) => `${n} in flight` },
  { title: "Use", lines: [["used", ""]], show: (n) => `${Math.round(n * 100)} %`, top: 1 },
];

function makeChart(chart) {
  const figure = make("figure");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const lines = chart.lines.map((_, n) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("class", n ? "two" : "one");
    svg.append(line);
    return line;
  });
  const caption = make("figcaption");
  figure.append(svg, caption);
  return { figure, svg, lines, caption };
}

function drawChart(chart, parts, trend) {
  const known = chart.lines.flatMap(([key]) => trend.map((point) => point[key]).filter((n) => n !== null));
  parts.figure.hidden = known.length === 0;
  if (!known.length) return;
  const top = chart.top || Math.max(...known) || 1;
  const oldest = Math.max(...trend.map((point) => point.age_s)) || 1;
  const now = [];
  chart.lines.forEach(([key, word], n) => {
    const points = trend.filter((point) => point[key] !== null);
    const places = points.map((point) => `${(100 - (point.age_s / oldest) * 100).toFixed(1)},${(29 - (point[key] / top) * 27).toFixed(1)}`);
    parts.lines[n].setAttribute("points", places.join(" "));
    if (points.length) now.push(`${chart.show(points[points.length - 1][key])} ${word}`.trim());
  });
  write(parts.caption, `${chart.title}: ${now.join(", ")}`);
  parts.svg.setAttribute("aria-label", `${chart.title} over ${Math.ceil(oldest / 60)} minutes: now ${now.join(", ")}; highest ${chart.show(Math.max(...known))}`);
}

function makeCard(key) {
  const card = { root: make("article"), title: make("h3"), ids: make("p", "soft"), condition: make("p", "condition"),
    message: make("p"), hint: make("p", "hint"), others: make("ul"), snapshots: make("p", "soft"), use: make("p", "soft"), aws: make("p", "soft"), meter: make("meter"),
    charts: CHARTS.map(makeChart) };
  card.title.id = `volume-${cards.size}`;
  card.root.setAttribute("aria-labelledby", card.title.id);
  card.meter.max = 1; card.meter.high = 0.9; card.meter.low = 0.8; card.meter.optimum = 0;
  const charts = make("div", "charts");
  charts.append(...card.charts.map((parts) => parts.figure));
  card.root.append(card.title, card.ids, card.condition, card.message, card.hint, card.others, card.snapshots, card.use, card.meter, card.aws, charts);
  cards.set(key, card);
  return card;
}

function describeSnapshots(facts) {
  if (!facts) return "";
  const at = (time) => new Date(time).toLocaleString();
  return [facts.last_completed_at ? `Newest snapshot of ${at(facts.last_completed_at)}` : "No snapshot has completed",
    facts.due_at ? `next due ${at(facts.due_at)}` : "", facts.failed.length ? `failed: ${facts.failed.join(", ")}` : ""].filter(Boolean).join(" · ");
}

function describeChecks(checks) {
  if (!checks) return "";
  const coming = checks.initialization;
  const left = coming && coming.left_s !== null ? `, about ${Math.ceil(coming.left_s / 60)} min left` : "";
  const progress = coming && coming.percent < 100 ? ` · ${coming.percent} % of its content has come${left}` : "";
  return `AWS's checks: ${checks.status}${progress}`;
}

function drawCard(card, volume) {
  const [kind, mark] = KINDS[volume.condition] || ["wait", "?"];
  if (card.root.className !== kind) card.root.className = kind;
  write(card.title, volume.name || volume.volume_id || "?");
  write(card.ids, [volume.volume_id, volume.device, volume.path, volume.fstype, volume.required ? "required" : ""].filter(Boolean).join(" · "));
  write(card.condition, `${mark} ${volume.condition}${volume.reason ? ` · ${volume.reason}` : ""}`);
  write(card.message, volume.message || "");
  write(card.hint, volume.hint || "");
  const others = volume.verdicts.filter((verdict) => verdict.reason !== volume.reason).map((verdict) => `${verdict.reason}: ${verdict.message}`);
  for (const one of volume.drift || []) others.push(`Drifted: ${one.text}`);
  if (card.others.dataset.text !== others.join("\n")) {
    card.others.dataset.text = others.join("\n");
    card.others.replaceChildren(...others.map((text) => make("li", "soft", text)));
  }
  card.others.hidden = !others.length;
  write(card.snapshots, describeSnapshots(volume.snapshots));
  const filesystem = volume.filesystem;
  card.meter.hidden = !filesystem;
  if (filesystem) {
    const used = filesystem.size_bytes ? 1 - filesystem.avail_bytes / filesystem.size_bytes : 0;
    card.meter.value = used;
    const text = `${Math.round(used * 100)} % of ${size(filesystem.size_bytes)} used, ${size(filesystem.avail_bytes)} left`;
    card.meter.setAttribute("aria-label", text);
    write(card.use, `${text}${filesystem.is_read_only ? " · read-only" : ""}`);
  } else {
    write(card.use, volume.size_bytes ? size(volume.size_bytes) : "");
  }
  write(card.aws, describeChecks(volume.aws_checks));
  card.aws.hidden = !volume.aws_checks;
  CHARTS.forEach((chart, n) => drawChart(chart, card.charts[n], volume.trend || []));
}

function drawVolumes(volumes) {
  const seen = new Set();
  volumes.forEach((volume, place) => {
    const key = volume.volume_id || `name ${volume.name}`;
    seen.add(key);
    const card = cards.get(key) || makeCard(key);
    drawCard(card, volume);
    const there = byId("volumes").children[place];
    if (there !== card.root) byId("volumes").insertBefore(card.root, there || null);
  });
  for (const [key, card] of cards) if (!seen.has(key)) { card.root.remove(); cards.delete(key); }
}

function drawHeadline(content) {
  const waiting = content.volumes.filter((volume) => volume.required && !["Ready", "Degraded"].includes(volume.condition));
  const unwell = content.volumes.filter((volume) => ["Degraded", "Failed", "Lost", "Refused"].includes(volume.condition));
  const names = (volumes) => volumes.map((volume) => volume.name || volume.volume_id).join(", ");
  const troubles = content.node_conditions || [];
  const headline = byId("headline");
  headline.className = content.ending || troubles.length ? "bad" : !content.first_look_done ? "wait" : waiting.length ? "bad" : unwell.length ? "wait" : "good";
  write(headline, content.ending ? content.ending.text
    : !content.first_look_done ? "The agent has just started and is looking at the volumes."
    : troubles.length ? troubles.map((one) => `${one.reason} ${one.about}: ${one.message} ${one.hint || ""}`).join(" ")
    : waiting.length ? `Required and not usable: ${names(waiting)}.`
    : unwell.length ? `Every required volume can be used. Not as they should be: ${names(unwell)}.`
    : "Every volume this node requires can be used.");
}

let newest = null;
function drawEvents(events, volumes) {
  const number = events.length ? events[0].number : 0;
  if (number === newest) return;
  newest = number;
  const names = new Map(volumes.map((volume) => [volume.volume_id, volume.name]));
  byId("events").replaceChildren(...events.map((event) => {
    const row = make("tr");
    const when = make("time", "", new Date(event.at).toLocaleString());
    when.dateTime = event.at;
    const cell = make("td");
    cell.append(when);
    const details = [event.text, event.reason, event.message, event.error].filter(Boolean).join(" · ");
    row.append(cell, make("td", "", event.event), make("td", "", names.get(event.volume_id) || event.volume_id || ""), make("td", "soft", details));
    return row;
  }));
}

function draw(content) {
  byId("version").textContent = content.version;
  drawHeadline(content);
  drawVolumes(content.volumes);
  drawEvents(content.events, content.volumes);
}

let lost = null;
async function poll() {
  try {
    const answer = await fetch("status.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    draw(await answer.json());
    lost = null;
    write(byId("connection"), "");
  } catch (error) {
    lost = lost || new Date();
    write(byId("connection"), `The agent does not answer since ${lost.toLocaleTimeString()}; what is shown is from before.`);
  }
  document.documentElement.dataset.polls = String(Number(document.documentElement.dataset.polls || 0) + 1);
}

draw(JSON.parse(byId("content").textContent));
setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
