// Next-letter probabilities: pure functions first, then the picture.

// (V, V) counts and α ≥ 0 to rows that sum to 1; a row without any count is uniform.
export function probabilities(counts, alpha) {
  return counts.map((row) => {
    const total = row.reduce((sum, count) => sum + count + alpha, 0);
    return row.map((count) => (total > 0 ? (count + alpha) / total : 1 / row.length));
  });
}

// Bits of one row; 0 · log 0 is 0.
export const entropy = (row) => -row.reduce((sum, p) => sum + (p > 0 ? p * Math.log2(p) : 0), 0);

// `length` row numbers after `start`, each sampled from the row of the one before.
export function sample(table, start, length, seed) {
  const random = generator(seed);
  const written = [];
  for (let at = start; written.length < length; written.push(at)) {
    let rest = random();
    const row = table[at];
    const drawn = row.findIndex((p) => (rest -= p) < 0);
    at = drawn >= 0 ? drawn : row.findLastIndex((p) => p > 0); // rounding may leave a trace of `rest`
  }
  return written;
}

// What the row says, in words.
export function describe(row, alphabet, letter) {
  const best = row.indexOf(Math.max(...row));
  const bits = entropy(row);
  return `After ‘${visible(letter)}’ comes ‘${visible(alphabet[best])}’ in ${percent(row[best])} of cases; entropy ` +
    `${bits.toFixed(2)} bits, as uncertain as a choice among ${(2 ** bits).toFixed(2)} equally likely letters.`;
}

const ALPHAS = [0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];
const SHOWN = 10; // bars
const CELL = 10; // units of the drawing
const EDGE = 13; // room for the letters at the edges

const shade = (p) => Math.sqrt(p).toFixed(3); // the root keeps rare pairs visible

function render({ model, el }) {
  const alphabet = [...model.get("alphabet")];
  const counts = model.get("counts");
  const alphas = [...new Set([...ALPHAS, model.get("alpha")])].sort((a, b) => a - b);
  const choose = (i) => put(model, "letter", alphabet[i]);
  let table;

  const select = html("select", { onchange: () => choose(select.selectedIndex) },
    ...alphabet.map((ch) => html("option", { value: ch }, visible(ch))));
  const slider = html("input", { type: "range", min: 0, max: alphas.length - 1, step: 1,
    oninput: () => put(model, "alpha", alphas[slider.valueAsNumber]) });
  const alphaText = html("span");
  const write = html("button", { type: "button", onclick: () => put(model, "seed", model.get("seed") + 1) },
    "Write 60 letters");

  const bars = html("ol", { class: "bars", "aria-label": "Most likely next letters" });
  const note = html("p", { class: "note" });
  const cells = alphabet.map((_, i) => alphabet.map((_, j) =>
    svg("rect", { x: EDGE + j * CELL, y: EDGE + i * CELL, width: CELL, height: CELL })));
  const edge = (x, y, ch) => svg("text", { x, y }, visible(ch));
  const rowNames = alphabet.map((ch, i) => edge(EDGE / 2, EDGE + (i + 0.75) * CELL, ch));
  const columnNames = alphabet.map((ch, j) => edge(EDGE + (j + 0.5) * CELL, EDGE - 3.5, ch));
  const side = EDGE + alphabet.length * CELL + 1;
  const mark = svg("rect", { class: "mark", x: EDGE, width: alphabet.length * CELL, height: CELL });
  const drawing = svg("svg", { viewBox: `0 0 ${side} ${side}`, role: "img", style: `min-width: ${side * 0.85}px; max-width: ${side * 3}px`,
    "aria-label": "Map of probabilities: one row per letter, one column per next letter; darker is more likely" },
    svg("g", { class: "cells" }, ...cells.flat()), ...rowNames, ...columnNames, mark);

  const cellAt = (event) => {
    const box = drawing.getBoundingClientRect();
    const at = (offset, size) => Math.floor(((offset / size) * side - EDGE) / CELL);
    const [i, j] = [at(event.clientY - box.top, box.height), at(event.clientX - box.left, box.width)];
    return alphabet[i] !== undefined && alphabet[j] !== undefined ? [i, j] : null;
  };
  const point = (event) => {
    const cell = cellAt(event);
    note.textContent = cell
      ? `‘${visible(alphabet[cell[0]])}’ then ‘${visible(alphabet[cell[1]])}’: ${percent(table[cell[0]][cell[1]])}`
      : "Rows: letters. Columns: next letters. The shade is proportional to the square root of the probability.";
  };
  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = alphabet.indexOf(model.get("letter"));
    const moved = { ArrowUp: at - 1, ArrowDown: at + 1 }[event.key] ?? alphabet.indexOf(event.key);
    if (alphabet[moved] === undefined) return;
    event.preventDefault();
    choose(moved);
  };
  const map = html("div", { class: "scroll map", tabindex: 0, role: "group", onkeydown: keys, onpointermove: point,
    onclick: (event) => cellAt(event) && choose(cellAt(event)[0]),
    "aria-label": "Map; up, down or a letter key chooses the row" }, drawing);
  const keepInSight = (y) => {
    const scale = drawing.clientHeight / side;
    const hidden = y * scale < map.scrollTop || (y + CELL) * scale > map.scrollTop + map.clientHeight;
    if (hidden) map.scrollTop = y * scale - map.clientHeight / 2;
  };
  const written = html("output", { class: "written mono" });

  const { question, sentence } = frame(el, "Next-letter heat map",
    [field("Letter", select), field("Smoothing α", slider, alphaText), write],
    [html("div", { class: "pair" }, html("div", { class: "part" }, bars), html("div", { class: "whole", style: `flex-basis: ${side * 1.2}px` }, map, note)), written]);
  question.textContent = `Predict: which letter follows ‘${visible(model.get("predict"))}’? Then choose it.`;
  point({});

  let drawn;
  return follow(model, ["letter", "alpha", "seed"], () => {
    const [letter, alpha, seed] = ["letter", "alpha", "seed"].map((name) => model.get(name));
    const at = alphabet.indexOf(letter);
    if (alpha !== drawn) {
      table = probabilities(counts, alpha);
      cells.forEach((line, i) => line.forEach((cell, j) => cell.setAttribute("fill-opacity", shade(table[i][j]))));
      drawn = alpha;
    }
    select.selectedIndex = at;
    slider.value = alphas.indexOf(alpha);
    slider.setAttribute("aria-valuetext", `α = ${alpha}`);
    alphaText.textContent = alpha;
    mark.setAttribute("y", EDGE + at * CELL);
    keepInSight(EDGE + at * CELL);
    rowNames.forEach((name, i) => name.classList.toggle("chosen", i === at));
    const order = [...alphabet.keys()].sort((a, b) => table[at][b] - table[at][a] || a - b).slice(0, SHOWN);
    bars.replaceChildren(...order.map((j) => bar(visible(alphabet[j]), table[at][j], percent(table[at][j]))));
    written.textContent = seed ? [at, ...sample(table, at, 60, seed)].map((j) => visible(alphabet[j])).join("") : "";
    sentence.textContent = describe(table[at], alphabet, letter);
  });
}

export default { render };
