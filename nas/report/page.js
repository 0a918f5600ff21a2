// Draws the points of DATA (made by page.py) for the two chosen numbers. Colours are those of Okabe and Ito.
"use strict";

const COLOURS = { front: "#0072b2", other: "#9a9a9a", bar: "#d55e00" };
const TEXT = { size: 11, color: "#222222" };
const plot = document.getElementById("plot");
const selects = { x: document.getElementById("x"), y: document.getElementById("y") };
const logarithmic = document.getElementById("log");
const axisOf = (name) => DATA.axes.find((axis) => axis.name === name);

// The line of steps that bounds what the front dominates in two numbers; empty where one of them is no objective.
function staircase(rows, x, y) {
  if (!x.is_objective || !y.is_objective || x === y) return [];
  const points = rows
    .filter((row) => row.on_front)
    .map((row) => [row.values[x.name], row.values[y.name]])
    .sort((a, b) => x.sign * (a[0] - b[0]) || y.sign * (a[1] - b[1]));
  const line = [];
  for (const point of points) {
    const last = line.at(-1);
    if (last && y.sign * point[1] >= y.sign * last[1]) continue;
    if (last) line.push([point[0], last[1]]);
    line.push(point);
  }
  return line;
}

function errorBars(rows, name, colour) {
  const errors = rows.map((row) => row.errors[name] ?? [0, 0]);
  return {
    type: "data", symmetric: false, array: errors.map((e) => e[1]), arrayminus: errors.map((e) => e[0]),
    color: colour, thickness: 1, width: 0,
  };
}

function points(rows, x, y, name, kind, meets) {
  const chosen = rows.filter((row) => row.kind === kind && row.meets === meets);
  const colour = COLOURS[kind];
  const shape = (row) => (row.is_reference ? "diamond" : "circle") + (meets ? "" : "-open");
  return {
    type: "scatter", mode: "markers+text", name, showlegend: chosen.length > 0,
    x: chosen.map((row) => row.values[x.name]), y: chosen.map((row) => row.values[y.name]),
    error_x: errorBars(chosen, x.name, colour), error_y: errorBars(chosen, y.name, colour),
    text: chosen.map((row) => (row.robust ? "" : row.label)), textposition: "top center", textfont: TEXT,
    hovertext: chosen.map((row) => row.hover), hoverinfo: "text",
    marker: { color: colour, symbol: chosen.map(shape), size: kind === "front" ? 11 : 8, line: { width: 2, color: colour } },
  };
}

// A ring around each robust member, with the label above it.
function rings(rows, x, y) {
  const robust = rows.filter((row) => row.robust);
  return {
    type: "scatter", mode: "markers+text", name: "robust", showlegend: robust.length > 0, hoverinfo: "skip",
    x: robust.map((row) => row.values[x.name]), y: robust.map((row) => row.values[y.name]),
    text: robust.map((row) => row.label), textposition: "top center", textfont: TEXT,
    marker: { color: COLOURS.front, symbol: "circle-open", size: 19, line: { width: 1.5 } },
  };
}

function bars(x, y) {
  const style = { type: "line", line: { color: COLOURS.bar, dash: "dash", width: 1.5 } };
  const found = [];
  if (x.bar !== null) found.push({ ...style, x0: x.bar, x1: x.bar, yref: "paper", y0: 0, y1: 1 });
  if (y.bar !== null) found.push({ ...style, y0: y.bar, y1: y.bar, xref: "paper", x0: 0, x1: 1 });
  return found;
}

function draw() {
  const x = axisOf(selects.x.value), y = axisOf(selects.y.value);
  const rows = DATA.rows.filter((row) => x.name in row.values && y.name in row.values);
  const line = staircase(rows, x, y);
  const traces = [
    {
      type: "scatter", mode: "lines", name: "front", showlegend: false, hoverinfo: "skip",
      x: line.map((point) => point[0]), y: line.map((point) => point[1]), line: { color: COLOURS.front, width: 1.5 },
    },
    points(rows, x, y, "beaten", "other", true),
    points(rows, x, y, "on the front, misses a requirement", "front", false),
    points(rows, x, y, "on the front", "front", true),
    rings(rows, x, y),
  ];
  const layout = {
    xaxis: { title: { text: x.title }, type: logarithmic.checked ? "log" : "linear", gridcolor: "#e8e8e8", zeroline: false },
    yaxis: { title: { text: y.title }, gridcolor: "#e8e8e8", zeroline: false },
    shapes: bars(x, y), hovermode: "closest", plot_bgcolor: "#ffffff", margin: { t: 10, r: 20 },
    legend: { orientation: "h", y: 1.08 }, hoverlabel: { align: "left" },
  };
  if (!rows.length) layout.annotations = [{ text: "no trained design", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  Plotly.react(plot, traces, layout, { responsive: true, displaylogo: false });
}

for (const [index, key] of ["x", "y"].entries()) {
  for (const axis of DATA.axes) selects[key].add(new Option(axis.title, axis.name));
  selects[key].value = DATA.start[index];
  selects[key].addEventListener("change", draw);
}
logarithmic.addEventListener("change", draw);
draw();
