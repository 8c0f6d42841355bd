"use strict";
// The chart of the chosen runs' fronts. It keeps its scales while the budget moves; only marks move.
const SVG = "http://www.w3.org/2000/svg";

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

// Multiply-adds as people write them: three digits and a unit, which the command line reads back.
function toldMacs(macs, space = " ") {
  const units = [["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
  const [unit, size] = units.find(([, size]) => macs >= 0.9995 * size) || units[3];
  return +(macs / size).toPrecision(3) + (unit && space + unit);
}

// The same with zeros at the end, so that a number that changes keeps its width.
function toldDigits(macs) {
  const [number, unit = ""] = toldMacs(macs).split(" ");
  return `${(+number).toPrecision(3)} ${unit}`.trim();
}

function logTicks(low, high, most) {
  let found = [];
  for (const mantissas of [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]]) {
    found = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade++)
      for (const mantissa of mantissas) found.push(mantissa * 10 ** decade);
    found = found.filter(tick => tick >= low && tick <= high);
    if (found.length <= most) break;
  }
  return found;
}

function evenTicks(low, high) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(each => each * power >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(+tick.toPrecision(6));
  return found;
}

class Chart {
  constructor(svg) { this.svg = svg; }

  // Draw the fronts of runs, each {name, colour, exits, points, static}; later `mark` puts the budget on them.
  show(runs) {
    const {svg} = this, width = svg.clientWidth, height = svg.clientHeight;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.runs = [];
    if (!runs.length || !width) return;
    const costs = runs.flatMap(run => [...run.exits, ...run.points, ...(run.static ? [run.static] : [])].map(p => p.macs));
    const tops = runs.flatMap(run => [...run.exits, ...run.points, ...(run.static ? [run.static] : [])].map(p => p.top1));
    tops.push(...runs.flatMap(run => run.points.flatMap(point => point.band || [])));
    this._scales(width, height, [Math.min(...costs), Math.max(...costs)], [100 * Math.min(...tops), 100 * Math.max(...tops)]);
    this._frame(width, height);
    for (const run of runs) this._band(run);
    for (const run of runs) this._curve(run);
    for (const run of runs) this._places(run, runs.length === 1);
    this.line = draw(svg, "line", {y1: this.top, y2: this.bottom, stroke: "var(--ink)", "stroke-width": 1.2,
      "stroke-dasharray": "4 3", visibility: "hidden"});
    this.runs = runs.map(run => ({run, mark: draw(svg, "circle", {r: 6, fill: run.colour, stroke: "var(--paper)",
      "stroke-width": 2, visibility: "hidden"})}));
  }

  // Put the budget's line and each run's point, null where even its first exit costs more.
  mark(budget, points) {
    if (!this.line || !this.runs.length) return;
    const x = Math.max(this.left, Math.min(this.right, this.x(budget)));
    for (const name of ["x1", "x2"]) this.line.setAttribute(name, x);
    this.line.setAttribute("visibility", "visible");
    this.runs.forEach(({mark}, index) => {
      const point = points[index];
      mark.setAttribute("visibility", point ? "visible" : "hidden");
      if (point) { mark.setAttribute("cx", this.x(point.macs)); mark.setAttribute("cy", this.y(point.top1)); }
    });
  }

  _scales(width, height, [cheap, dear], [least, most]) {
    Object.assign(this, {left: 46, right: width - 20, top: 10, bottom: height - 44});
    const spare = (dear / cheap) ** 0.04 || 1.1, room = Math.max(most - least, 2);
    this.low = cheap / spare; this.high = dear * spare;
    this.least = least - 0.08 * room; this.most = Math.min(most + 0.08 * room, 100 + 0.03 * room);
    const logs = Math.log(this.high / this.low);
    this.x = macs => this.left + Math.log(macs / this.low) / logs * (this.right - this.left);
    this.y = top1 => this.bottom - (100 * top1 - this.least) / (this.most - this.least) * (this.bottom - this.top);
  }

  _frame(width, height) {
    for (const tick of evenTicks(this.least, Math.min(this.most, 100))) {
      const y = this.y(tick / 100);
      draw(this.svg, "line", {x1: this.left, x2: this.right, y1: y, y2: y, stroke: "var(--grid)"});
      draw(this.svg, "text", {x: this.left - 7, y: y + 4, "text-anchor": "end"}, tick);
    }
    for (const tick of logTicks(this.low, this.high, Math.max(3, Math.floor(width / 95)))) {
      const x = this.x(tick);
      draw(this.svg, "line", {x1: x, x2: x, y1: this.top, y2: this.bottom, stroke: "var(--grid)"});
      draw(this.svg, "text", {x, y: this.bottom + 17, "text-anchor": "middle"}, toldMacs(tick));
    }
    const middle = (this.top + this.bottom) / 2;
    draw(this.svg, "text", {x: (this.left + this.right) / 2, y: height - 6, "text-anchor": "middle"},
      "mean multiply-adds an image");
    draw(this.svg, "text", {x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`},
      "top-1 accuracy [%]");
  }

  _path(places) {
    return places.map(([macs, top1], i) => `${i ? "L" : "M"}${this.x(macs).toFixed(1)} ${this.y(top1).toFixed(1)}`).join("");
  }

  _band(run) {
    const banded = run.points.filter(point => point.band);
    if (banded.length < 2) return;
    const upper = banded.map(point => [point.macs, point.band[1]]);
    const lower = banded.map(point => [point.macs, point.band[0]]).reverse();
    draw(this.svg, "path", {d: this._path([...upper, ...lower]) + "Z", fill: run.colour, "fill-opacity": 0.13});
  }

  _curve(run) {
    draw(this.svg, "path", {d: this._path(run.points.map(point => [point.macs, point.top1])), fill: "none",
      stroke: run.colour, "stroke-width": 2.4, "stroke-linejoin": "round"});
  }

  _places(run, isNamed) {
    const name = (x, y, text) => {
      const isRight = x > this.right - 90;
      draw(this.svg, "text", {class: "name", x: x + (isRight ? -10 : 10), y: y + (isRight ? -8 : 16),
        "text-anchor": isRight ? "end" : "start"}, text);
    };
    for (const exit of run.exits) {
      const x = this.x(exit.macs), y = this.y(exit.top1);
      const square = draw(this.svg, "rect", {x: x - 4.5, y: y - 4.5, width: 9, height: 9, fill: "var(--paper)",
        stroke: run.colour, "stroke-width": 2});
      draw(square, "title", {}, `${run.name}: all images leave at ${exit.name}: ${(100 * exit.top1).toFixed(2)} %`);
      if (isNamed) name(x, y, `${exit.name} · ${exit.grid}x${exit.grid}`);
    }
    if (!run.static) return;
    const x = this.x(run.static.macs), y = this.y(run.static.top1);
    const ring = draw(this.svg, "path", {d: `M${x} ${y - 7}l6 11h-12Z`, fill: run.colour, stroke: "var(--paper)"});
    draw(ring, "title", {}, `${run.name}: static model, ${(100 * run.static.top1).toFixed(2)} %`);
    if (isNamed) name(x, y, "static");
  }
}
