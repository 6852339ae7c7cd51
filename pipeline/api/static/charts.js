// Charts of one step: whatever came every second or every five is put on one grid, and where one points its values are said.

import { $, clock, rate, short } from "./parts.js";

export const STEP_S = 5;
const WINDOW_S = 15 * 60;
const GAP_STEPS = 3;
const TIME_STEPS = [15, 30, 60, 120, 300, 600, 1800, 3600];

// Columns of seconds and values → the same on the grid: the mean of each step, or its last value.
export function resampled([at, ...columns], last = []) {
  if (!at.length) return [[], ...columns.map(() => [])];
  const end = Math.floor(at.at(-1) / STEP_S);
  const first = Math.max(Math.floor(at[0] / STEP_S), end - WINDOW_S / STEP_S);
  const steps = Array.from({ length: end - first + 1 }, (_, step) => (first + step) * STEP_S);
  const filled = columns.map((column, number) => {
    const sums = steps.map(() => [0, 0]);
    column.forEach((value, row) => {
      const step = Math.floor(at[row] / STEP_S) - first;
      if (step < 0 || value === null) return;
      sums[step] = last.includes(number) ? [value, 1] : [sums[step][0] + value, sums[step][1] + 1];
    });
    let missing = GAP_STEPS;
    let before = null;
    return sums.map(([sum, count]) => {
      if (count) { missing = 0; before = sum / count; return before; }
      // A look that came a moment late leaves no hole; a silence does.
      missing += 1;
      return missing < GAP_STEPS ? before : null;
    });
  });
  return [steps, ...filled];
}

// Four or five round numbers from nothing up to what is beyond the highest.
export function ticks(high) {
  const raw = Math.max(high, 3) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw && Number.isInteger(each)) ?? 1;
  const top = Math.max(3, Math.ceil(high / step));
  return Array.from({ length: top + 1 }, (_, number) => number * step);
}

function timeTicks(low, high) {
  const step = TIME_STEPS.find((each) => (high - low) / each <= 5) ?? Math.ceil((high - low) / 5);
  const first = Math.ceil(low / step) * step;
  // Half of a label has to find room before the edge.
  const last = high - (high - low) / 25;
  return Array.from({ length: Math.max(0, Math.floor((last - first) / step) + 1) }, (_, number) => first + number * step);
}

export class Chart {
  // `say` makes words of the values at one time: (seconds, values) → texts, the first for the readout, the others for `parts`.
  constructor(name, series, { bars = false, parts = [], say }) {
    Object.assign(this, { box: $(`chart-${name}`), readouts: [`read-${name}`, ...parts].map($), series, bars, say, data: [[], ...series.map(() => [])] });
    this.at = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.box.addEventListener("keydown", (event) => this.step(event));
    this.box.addEventListener("blur", () => this.point(null));
  }

  size() {
    return { width: Math.max(120, this.box.clientWidth), height: this.box.clientHeight };
  }

  // Of the data and not as it is handed over: of a single point that is from nothing to twice its value.
  extent() {
    const [low, high] = [this.data[0][0], this.data[0].at(-1)];
    return this.bars ? [low - 30, high + 30] : [Math.min(low, high - 120), high];
  }

  draw() {
    this.plot?.destroy();
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const tidy = (value) => (value >= 10_000 ? short.format(value).replace(/\.?0+(?=[A-Z]|$)/, "") : String(Number(value.toFixed(2))));
    this.plot = new uPlot({
      ...this.size(),
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: () => this.extent() },
        y: { range: (_, low, high) => [0, ticks(high ?? 0).at(-1)] } },
      axes: [
        { ...axis, size: 20, gap: 4, splits: (_, __, low, high) => timeTicks(low, high), values: (_, all) => all.map((each) => (each % 60 ? clock(each) : clock(each).slice(0, 5))) },
        { ...axis, size: 46, gap: 4, splits: (_, __, low, high) => ticks(high).filter((each) => each <= high), values: (_, all) => all.map(tidy) },
      ],
      series: [{}, ...this.series.map(({ variable }) => ({
        stroke: colour(variable), width: 1.6, points: { show: false },
        ...(this.bars && { fill: colour(variable), width: 0, paths: uPlot.paths.bars({ size: [0.7, 40] }) }),
      }))],
      hooks: { setCursor: [({ cursor: { idx } }) => this.read(idx ?? null)] },
    }, this.data, this.box);
  }

  show(data, words) {
    const now = Date.now() / 1000;
    this.data = data[0].length ? data : [[now - WINDOW_S, now], ...this.series.map(() => [null, null])];
    if (this.plot) this.plot.setData(this.data);
    else this.draw();
    this.read(this.at === null ? null : Math.min(this.at, this.data[0].length - 1));
    this.box.setAttribute("aria-label", words);
  }

  read(at) {
    this.at = at;
    const seconds = at === null ? undefined : this.data[0][at];
    const said = seconds === undefined ? [] : this.say(seconds, this.data.slice(1).map((column) => column[at]));
    this.readouts.forEach((place, number) => { place.textContent = said[number] ?? ""; });
  }

  point(at) {
    if (!this.plot || !this.data[0].length) return;
    if (at === null) { this.plot.setCursor({ left: -10, top: -10 }); return; }
    this.plot.setCursor({ left: this.plot.valToPos(this.data[0][at], "x"), top: 10 });
    this.read(at);
    $("chart-said").textContent = this.box.closest("figure").querySelector("figcaption").textContent;
  }

  step(event) {
    const last = this.data[0].length - 1;
    const to = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? last) + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.point(Math.max(0, Math.min(last, to)));
  }
}

export const known = (value, form = rate) => (value === null || value === undefined ? "unknown" : form.format(value));
