"use strict";
// The page's state: which runs are chosen, their fronts as the server tells them, and the budget.
const COLOURS = 8, STEPS = 1000;
const byId = id => document.getElementById(id);
const percent = (share, digits = 1) => (100 * share).toFixed(digits) + " %";
const fronts = new Map();  // by key, as fetched
const chosen = new Map();  // key to the number of its colour, in the order chosen
const chart = new Chart(byId("chart"));
let rows = [], options = "", budget = null, exampleKey = null, isFollowing = true;

function make(parent, name, properties = {}, text) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

async function ask(path) {
  let answer;
  try { answer = await fetch(path); } catch { throw new Error("dvt ui must be running, got no answer; start it again"); }
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

function tell(sentence) {
  byId("message").textContent = sentence;
  byId("message").hidden = !sentence;
}

// ---- runs ----

function listRuns() {
  byId("runs").replaceChildren();
  for (const row of rows) {
    const item = make(byId("runs"), "li"), label = make(item, "label");
    item.dataset.text = `${row.name} ${row.experiment} ${row.key}`.toLowerCase();
    row.box = make(label, "input", {type: "checkbox", "data-key": row.key});
    row.box.addEventListener("change", () => choose(row.key, row.box.checked));
    make(label, "b", {title: row.name}, row.name);
    const when = row.begun ? new Date(row.begun).toLocaleString([], {dateStyle: "medium", timeStyle: "short"}) : "folder";
    make(label, "small", {title: row.experiment}, `${row.experiment} · ${when}`);
  }
}

function search() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const item of byId("runs").children) {
    item.hidden = !words.every(word => item.dataset.text.includes(word));
    found += !item.hidden;
  }
  byId("none").hidden = found > 0;
}

async function choose(key, isChosen) {
  tell("");
  if (!isChosen) chosen.delete(key);
  else {
    const taken = new Set(chosen.values());
    const free = [...Array(COLOURS).keys()].find(number => !taken.has(number));
    chosen.set(key, free === undefined ? chosen.size % COLOURS : free);
    try { if (!fronts.has(key)) fronts.set(key, await ask(`api/runs/${encodeURIComponent(key)}`)); }
    catch (error) { chosen.delete(key); tell(error.message); }
  }
  render();
}

function shownRuns() {
  return [...chosen].filter(([key]) => fronts.has(key)).map(([key, number]) => {
    const row = rows.find(row => row.key === key);
    return {...fronts.get(key), ...row, colour: `var(--run${number})`};
  });
}

// ---- budget ----

function limits(runs) {
  const cheapest = Math.min(...runs.map(run => run.points[0].budget));
  const dearest = Math.max(...runs.map(run => run.exits[run.exits.length - 1].macs));
  return [cheapest, dearest];
}

function threeDigits(value, round) {
  const unit = 10 ** (Math.floor(Math.log10(value)) - 2);
  return +(round(+(value / unit).toPrecision(12)) * unit).toPrecision(12);
}

// The slider stands on a log scale; budgets have three digits, so that what is shown is what is meant and copied.
function budgetAt(step, [low, high]) {
  return Math.max(threeDigits(low * (high / low) ** (step / STEPS), Math.round), threeDigits(low, Math.ceil));
}

function pointWithin(run, macs) {
  let found = null;
  for (const point of run.points) if (point.budget <= macs) found = point;
  return found;
}

function bestOf(runs, points) {
  let best = -1;
  points.forEach((point, index) => {
    const held = points[best];
    if (point && (best < 0 || point.top1 > held.top1 || (point.top1 === held.top1 && point.macs < held.macs))) best = index;
  });
  return runs.length > 1 ? best : -1;
}

// ---- cards ----

function makeCard(run) {
  const card = make(byId("cards"), "article", {class: "card", "data-key": run.key, "aria-label": run.name});
  card.style.setProperty("--c", run.colour);
  const head = make(card, "h2");
  make(head, "span", {title: run.name}, run.name);
  make(head, "span", {class: "best"}, "most accurate");
  make(card, "p", {class: "where"}, run.model
    ? `${run.model.name} version ${run.model.version}` + run.model.aliases.map(alias => ` · ${alias}`).join("")
    : "not registered as a model");
  const figures = make(card, "div", {class: "figures"});
  const [top1, macs] = ["top-1 accuracy", "mean multiply-adds"].map(text => {
    const place = make(figures, "div"), number = make(place, "b");
    place.append(text);
    return number;
  });
  const table = make(card, "table", {class: "leave"}), names = make(table, "tr");
  for (const [text, span] of [["leave at", 1], ["", 1], ["share", 1], ["if at least", 1]]) make(names, "th", {colspan: span}, text);
  const exits = run.exits.map(exit => {
    const row = make(table, "tr");
    make(row, "td", {title: `${toldMacs(exit.macs)} MACs`}, `${exit.name} · ${exit.grid}x${exit.grid}`);
    const bar = make(make(make(row, "td"), "div", {class: "bar"}), "i");
    return {bar, share: make(row, "td"), threshold: make(row, "td")};
  });
  const promote = make(card, "div", {class: "promote"});
  const command = make(promote, "code"), button = make(promote, "button", {type: "button"});
  button.addEventListener("click", () => copy(command.textContent, button));
  return {card, top1, macs, exits, command, button};
}

function toldThreshold(threshold) {
  return typeof threshold === "number" ? threshold.toFixed(3) : threshold;
}

function fillCard(view, run, point, isBest) {
  view.card.classList.toggle("is-best", isBest);
  view.top1.textContent = point ? percent(point.top1, 2) : "–";
  view.macs.textContent = point ? toldDigits(point.macs) : "–";
  view.exits.forEach(({bar, share, threshold}, index) => {
    bar.style.width = point ? `${100 * point.shares[index]}%` : "0";
    share.textContent = point ? percent(point.shares[index]) : "–";
    threshold.textContent = point ? toldThreshold(point.thresholds[index]) : "–";
  });
  view.button.disabled = !point || !run.model;
  view.button.textContent = "Copy command";
  if (!point) view.command.textContent = `not even its first exit is within ${toldMacs(budget)}`;
  else view.command.textContent = run.model ? promoteCommand(run) : `to promote it, first: ${registerCommand(run)}`;
}

function behind(run) {  // what every command needs behind it to speak to the run's MLflow
  const told = run.options === undefined ? options : run.options;
  return told && " " + told;
}

function promoteCommand(run) {
  const {name, version, aliases} = run.model, candidate = aliases.includes("candidate") ? "" : ` --candidate ${version}`;
  return `dvt promote ${quoted(name)} --budget-macs ${toldMacs(budget, "")} --to champion${candidate}${behind(run)}`;
}

function registerCommand(run) {
  return `dvt register ${quoted(run.begun ? run.key : run.experiment)}${behind(run)}`;
}

function quoted(word) {
  return /^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied ✓";
    byId("status").textContent = `copied: ${text}`;
  } catch { tell("the browser must allow copying, got a refusal; select the command and copy it by hand"); }
}

// ---- examples ----

function exitOf(image, thresholds) {
  return thresholds.findIndex((threshold, index) => threshold === "all" || (threshold !== "closed" && image.confidence[index] >= threshold));
}

function makeColumns(run) {
  byId("examples").replaceChildren();
  return run.exits.map(exit => {
    const column = make(byId("examples"), "div", {class: "column"}), head = make(column, "h3", {}, `${exit.name} · ${exit.grid}x${exit.grid}`);
    const told = make(head, "small"), wrong = make(head, "small"), tiles = make(column, "div", {class: "tiles", tabindex: "0", "aria-label": exit.name});
    return {told, wrong, tiles};
  });
}

function makeTiles(run) {
  return run.examples.map(image => {
    const tile = document.createElement("figure");
    tile.className = "tile";
    return {image, tile, picture: make(tile, "img", {src: image.image, alt: ""}), at: null};
  });
}

function placeTiles({columns, tiles}, point) {
  const counts = columns.map(() => [0, 0]);
  const lists = columns.map(() => []);
  for (const each of tiles) {
    const at = point ? exitOf(each.image, point.thresholds) : -1;
    if (at < 0) continue;
    const seen = each.image.predicted[at], isWrong = seen !== each.image.label;
    counts[at][0]++;
    counts[at][1] += isWrong;
    lists[at].push(each.tile);
    if (each.at === at) continue;
    each.at = at;
    each.tile.classList.toggle("wrong", isWrong);
    const told = isWrong ? `${each.image.label}, taken for ${seen}` : `${each.image.label}, recognised`;
    each.picture.alt = told;
    each.tile.title = `${told}; confidence ${each.image.confidence[at].toFixed(3)}`;
  }
  columns.forEach((column, index) => {
    const [count, wrong] = counts[index], list = lists[index];
    column.told.textContent = `${count} of ${tiles.length}`;
    column.wrong.textContent = count ? `${wrong} wrong` : "";
    if (list.length !== column.tiles.children.length || list.some((tile, i) => tile !== column.tiles.children[i]))
      column.tiles.replaceChildren(...list);
  });
}

// ---- all together ----

let views = [];
let shown = [];
let gallery = null;

function render() {
  shown = shownRuns();
  for (const row of rows) {
    row.box.checked = chosen.has(row.key);
    row.box.style.setProperty("--c", chosen.has(row.key) ? `var(--run${chosen.get(row.key)})` : "");
  }
  byId("count").textContent = `${chosen.size} of ${rows.length} shown`;
  legend();
  byId("cards").replaceChildren();
  views = shown.map(makeCard);
  byId("budget").disabled = !shown.length;
  if (shown.length) keepBudget();
  drawChart();
  isFollowing = isFollowing || !shown.some(run => run.key === exampleKey);
  showExamplesOf();
  update();
}

// The slider lies below the chart's axis: its thumb stands below the budget's line.
function drawChart() {
  chart.show(shown);
  if (!shown.length) return;
  const [from, to] = limits(shown).map(chart.x), {style} = byId("budget"), thumb = 16;
  style.marginLeft = `${from - thumb / 2}px`;
  style.width = `${to - from + thumb}px`;
  chart.mark(budget, shown.map(run => pointWithin(run, budget)));
}

// Runs came or went: the slider's ends move, the budget stays where it can.
function keepBudget() {
  const [low, high] = limits(shown), slider = byId("budget");
  const wanted = budget === null ? Math.sqrt(low * high) : Math.min(Math.max(budget, low), high);
  slider.value = high > low ? Math.round(STEPS * Math.log(wanted / low) / Math.log(high / low)) : 0;
  budget = budgetAt(+slider.value, [low, high]);
}

function legend() {
  const list = byId("legend");
  list.replaceChildren();
  const entry = (shape, attributes, text) => draw(draw(make(list, "li"), "svg", {viewBox: "0 0 18 12"}), shape,
    {stroke: "var(--muted)", fill: "none", "stroke-width": 2, ...attributes}).ownerSVGElement.after(text);
  if (!shown.length) return;
  entry("path", {d: "M0 6h18"}, "front");
  const banded = shown.find(run => run.level);
  if (banded) entry("rect", {width: 18, height: 12, fill: "var(--muted)", "fill-opacity": 0.25, stroke: "none"}, `${100 * banded.level} % band`);
  entry("rect", {x: 5, y: 2, width: 8, height: 8}, "all leave at one exit");
  if (shown.some(run => run.static)) entry("path", {d: "M9 0l6 11h-12Z", fill: "var(--muted)", stroke: "none"}, "static model");
  entry("circle", {cx: 9, cy: 6, r: 5, fill: "var(--muted)", stroke: "none"}, "within the budget");
}

function showExamplesOf() {
  const select = byId("of"), able = shown.filter(run => run.examples.length);
  select.replaceChildren();
  if (isFollowing) exampleKey = able.length ? able[0].key : null;
  for (const run of able) make(select, "option", {value: run.key}, run.name);
  select.parentNode.hidden = able.length < 2;
  if (exampleKey) select.value = exampleKey;
  const run = able.find(run => run.key === exampleKey);
  gallery = run ? {run, columns: makeColumns(run), tiles: makeTiles(run)} : null;
  if (!run) byId("examples").replaceChildren();
  byId("examplesNote").textContent = run
    ? `${run.examples.length} test images, drawn evenly over classes. A red ✗ marks those that the exit gets wrong; point at one to see more.`
    : shown.length ? "No example images are kept with these runs; dvt front RUN keeps some." : "Choose a run to see its images.";
}

function update() {
  const points = shown.map(run => pointWithin(run, budget)), best = bestOf(shown, points);
  byId("told").textContent = shown.length ? toldDigits(budget) : "–";
  byId("budget").setAttribute("aria-valuetext", shown.length ? `${toldMacs(budget)} mean multiply-adds an image` : "no run");
  chart.mark(budget, points);
  views.forEach((view, index) => fillCard(view, shown[index], points[index], index === best));
  if (gallery) placeTiles(gallery, points[shown.findIndex(run => run.key === gallery.run.key)]);
}

async function begin() {
  if (matchMedia("(max-width: 860px)").matches) byId("picker").open = false;
  byId("search").addEventListener("input", search);
  byId("budget").addEventListener("input", () => { budget = budgetAt(+byId("budget").value, limits(shown)); update(); });
  byId("of").addEventListener("change", () => { exampleKey = byId("of").value; isFollowing = false; showExamplesOf(); update(); });
  new ResizeObserver(drawChart).observe(byId("chart"));
  const told = await ask("api/runs");
  ({runs: rows, options = ""} = told);
  listRuns();
  for (const row of rows.filter(row => row.is_chosen)) await choose(row.key, true);
  if (!chosen.size) render();
}

begin().catch(error => tell(error.message));
