// Sums in formats of limited precision: pure functions first, then the picture.

// `least`: the exponent below which numbers lie evenly; `fraction`: bits after the leading one; `beyond`: what overflow gives.
const format = (name, least, fraction, most, beyond = Infinity) => ({ name, least, fraction, most, beyond });
export const FORMATS = {
  bf16: format("bf16", -126, 7, (2 - 2 ** -7) * 2 ** 127),
  fp16: format("fp16", -14, 10, 65504),
  fp32: format("fp32", -126, 23, (2 - 2 ** -23) * 2 ** 127),
  e4m3: format("fp8 (e4m3)", -6, 3, 448, 448), // saturates; infinity has no place among its numbers
};

const view = new DataView(new ArrayBuffer(8));
const exponent = (x) => (view.setFloat64(0, x), ((view.getUint16(0) >> 4) & 2047) - 1023);

// From a number of the format to the next one away from zero; for other numbers, between their two neighbours.
export const gap = (x, { least, fraction }) => 2 ** (Math.max(exponent(x), least) - fraction);

// Of the two neighbours of x the one farther from zero if `up`, given how far x is on the way to it, says so.
function choose(x, to, up) {
  const distance = gap(x, to);
  const below = Math.floor(Math.abs(x) / distance);
  const size = (below + up(Math.abs(x) / distance - below, below)) * distance;
  return Math.sign(x) * (size > to.most ? to.beyond : size);
}

// The nearest number of the format; a tie goes to the even one.
export const nearest = (x, to) => choose(x, to, (way, below) => way > 0.5 || (way === 0.5 && below % 2 === 1));

// One of the two neighbours, each the more probable the nearer it is; `u` is uniform in [0, 1).
export const stochastic = (x, to, u) => choose(x, to, (way) => u < way);

// What becomes of 1 under repeated addition of a step; sums are formed in fp32, as processors do. `plain` and
// `random` hold the number in the format, `stored` is the rounded copy of an fp32 master.
export function walks(to, step, adds, seed) {
  const draw = generator(seed);
  const add = (x) => Math.fround(x + Math.fround(step));
  const states = [{ exact: 1, plain: 1, master: 1, stored: 1, random: 1 }];
  for (let done = 1; done <= adds; done++) {
    const { plain, master, random } = states.at(-1);
    states.push({
      exact: 1 + done * step,
      plain: nearest(add(plain), to),
      master: add(master),
      stored: nearest(add(master), to),
      random: stochastic(add(random), to, draw()),
    });
  }
  return states;
}

const MANY = 300; // ticks that can still be told apart

// The numbers of the format from `low` to `high`, both positive; none if there are too many to draw.
export function ticks(to, low, high) {
  const found = [];
  for (let x = nearest(low, to); x <= high; x += gap(x, to)) {
    if (x >= low) found.push(x);
    if (found.length > MANY) return [];
  }
  return found;
}

const digits = (x) => x.toLocaleString("en", { maximumSignificantDigits: 8 });

// What plain rounding makes of the next step, and why.
function reason(to, step, plain) {
  const [next, added] = [gap(plain, to), Math.fround(step)];
  const reached = nearest(Math.fround(plain + added), to);
  const at = `The next number after ${digits(plain)} is ${digits(plain + next)}: `;
  if (added < next / 2) return `${at}the step is less than half of the gap, so plain rounding drops it.`;
  if (added === next / 2) return `${at}the step is half of the gap, and the tie goes to the even number, ${digits(reached)}.`;
  if (reached - plain === added) return `${at}the step is a whole number of gaps, so plain rounding keeps it.`;
  return `${at}plain rounding makes ${digits(reached - plain)} of the next step.`;
}

// What is to be seen, in words.
export function describe(to, step, done, { exact, plain, master, stored, random }) {
  return `After ${many(done, "addition")} of ${digits(step)} to 1 in ${to.name}: exact ${digits(exact)}, plain rounding ${digits(plain)}, ` +
    `fp32 master ${digits(master)} (stored as ${digits(stored)}), stochastic rounding ${digits(random)}. ${reason(to, step, plain)}`;
}

const STEPS = [1e-5, 1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 2 ** -8, 5e-3, 1e-2, 2e-2, 4e-2, 2 ** -4, 0.1, 0.25];
const ROWS = [["exact", "exact"], ["plain", "plain rounding"], ["stored", "fp32 master, stored copy"], ["random", "stochastic rounding"]];
const [WIDE, HIGH] = [340, 46]; // of the picture, and of each row

function render({ model, el }) {
  const change = (name) => (value) => put(model, name, value);
  const adds = model.get("adds");
  const kind = select("Format", Object.entries(FORMATS).map(([key, { name }]) => [key, name]), change("format"));
  const step = slider("Step", change("step"), digits);
  const done = slider("Additions", change("done"));
  const again = html("button", { type: "button", onclick: () => put(model, "seed", model.get("seed") + 1) }, "Round at random again");

  const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH * ROWS.length + 6}`, role: "img", class: "lines" });
  const note = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Number line", [kind.label, html("div", { class: "buttons" }, again), dials(step, done)], [note, drawing]);
  question.textContent = `Predict: where do the three sums stand after ${many(adds, "addition")}? Decide, then move ‘Additions’.`;

  return follow(model, ["format", "step", "done", "seed"], () => {
    const to = FORMATS[model.get("format")];
    const [added, now] = [model.get("step"), model.get("done")];
    const states = walks(to, added, adds, model.get("seed"));
    kind.show(model.get("format"));
    step.show(added, steps(STEPS, added));
    done.show(now, Array.from({ length: adds + 1 }, (_, i) => i));

    const end = Math.max(1 + gap(1, to), ...states.flatMap(Object.values));
    const [low, high] = [Math.max(0.5, 1 - 0.07 * (end - 1)), end + 0.03 * (end - 1)];
    const x = (value) => (8 + ((value - low) * (WIDE - 16)) / (high - low)).toFixed(1);
    const marks = ticks(to, low, high);
    const visited = (name) => [...new Set(states.slice(0, now).map((state) => x(state[name])))];
    drawing.replaceChildren(...ROWS.flatMap(([name, said], row) => {
      const y = HIGH * row + 32;
      const value = states[now][name];
      const places = name === "exact" ? [] : marks;
      return [
        svg("text", { x: 8, y: y - 17 }, `${said}: ${digits(value)}`),
        svg("path", { class: name === "exact" || places.length ? "rule" : "dense", d: `M0 ${y}H${WIDE}` }),
        svg("path", { class: "rule", d: places.map((place) => `M${x(place)} ${y - 7}v14`).join("") }),
        ...visited(name).map((place) => svg("circle", { class: `trail ${name}`, cx: place, cy: y, r: 2 })),
        svg("circle", { class: name, cx: x(value), cy: y, r: 6 }),
        ...(name === "exact" ? [svg("path", { class: "follow", d: `M${x(value)} ${y + 7}V${HIGH * ROWS.length + 4}` })] : []),
      ];
    }));
    const shown = marks.length ? `Ticks: the ${many(marks.length, "number")} of ${to.name} from ${digits(marks[0])} to ${digits(marks.at(-1))}`
      : `Shaded: the numbers of ${to.name} lie too close to be drawn`;
    note.textContent = `${shown}; the gap is ${digits(gap(1, to))} above 1 and ${digits(gap(0.75, to))} below. Dashed: the exact sum.`;
    drawing.setAttribute("aria-label", ROWS.map(([name, said]) => `${said} at ${digits(states[now][name])}`).join(", "));
    sentence.textContent = describe(to, added, now, states[now]);
  });
}

export default { render };
