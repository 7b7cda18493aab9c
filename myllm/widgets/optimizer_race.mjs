// Three optimizers train the same small network: pure functions first, then the picture.

// Two sonnets of Shakespeare, in lower case.
const TEXT = `shall i compare thee to a summer's day?
thou art more lovely and more temperate:
rough winds do shake the darling buds of may,
and summer's lease hath all too short a date;
sometime too hot the eye of heaven shines,
and often is his gold complexion dimm'd;
and every fair from fair sometime declines,
by chance or nature's changing course untrimm'd;
but thy eternal summer shall not fade,
nor lose possession of that fair thou ow'st;
nor shall death brag thou wander'st in his shade,
when in eternal lines to time thou grow'st:
so long as men can breathe or eyes can see,
so long lives this, and this gives life to thee.

let me not to the marriage of true minds
admit impediments. love is not love
which alters when it alteration finds,
or bends with the remover to remove:
o no! it is an ever-fixed mark
that looks on tempests and is never shaken;
it is the star to every wandering bark,
whose worth's unknown, although his height be taken.
love's not time's fool, though rosy lips and cheeks
within his bending sickle's compass come:
love alters not with his brief hours and weeks,
but bears it out even to the edge of doom.
if this be error and upon me proved,
i never writ, nor no man ever loved.
`;
const ALPHABET = [...new Set(TEXT)].sort().join("");
const IDS = [...TEXT].map((letter) => ALPHABET.indexOf(letter));

// The network predicts a character from the four before it: their embeddings side by side, two hidden layers, a head.
export const SIZES = { V: ALPHABET.length, context: 4, E: 5, H: 24, B: 16 };
const { V, context, E, H, B } = SIZES;
const C = context * E;
// Name, rows, columns (0 for a vector), and whether Muon updates it: only the matrices inside.
export const LAYOUT = [["embed", V, E], ["first", H, C, true], ["first_bias", H, 0], ["second", H, H, true], ["second_bias", H, 0],
  ["head", V, H], ["head_bias", V, 0]];

// Initial weights: normal with a standard deviation of 1 / √columns, in the head a tenth of that, so that the first guess is
// nearly uniform; biases 0.
export function initial(seed) {
  const random = generator(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return Object.fromEntries(LAYOUT.map(([name, rows, columns]) =>
    [name, Float64Array.from({ length: rows * (columns || 1) }, () => (columns ? (normal() * (name === "head" ? 0.1 : 1)) / Math.sqrt(columns) : 0))]));
}

// The places in the text that each update predicts.
export function batches(seed, steps) {
  const random = generator(seed + 1);
  return Array.from({ length: steps }, () => Array.from({ length: B }, () => context + Math.floor(random() * (IDS.length - context))));
}

// (m, k) times the transpose of (n, k), as in a linear layer. Four sums at once: the next product need not wait for the last.
function multiply(a, b, m, n) {
  const k = a.length / m;
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      let x = i * k, y = j * k;
      const end = x + k;
      for (; x + 3 < end; x += 4, y += 4) {
        s0 += a[x] * b[y];
        s1 += a[x + 1] * b[y + 1];
        s2 += a[x + 2] * b[y + 2];
        s3 += a[x + 3] * b[y + 3];
      }
      for (; x < end; x++, y++) s0 += a[x] * b[y];
      out[i * n + j] = s0 + s1 + s2 + s3;
    }
  return out;
}

function transpose(x, rows) {
  const columns = x.length / rows;
  const out = new Float64Array(x.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = x[i * columns + j];
  return out;
}

function sumRows(x, columns) {
  const out = new Float64Array(columns);
  for (let i = 0; i < x.length; i++) out[i % columns] += x[i];
  return out;
}

// The mean loss of a batch, in nats, and its gradients.
export function lossAndGradients(w, places) {
  const read = places.flatMap((at) => IDS.slice(at - context, at)); // ids, each with a row of the embedding
  const x = new Float64Array(B * C);
  read.forEach((id, i) => x.set(w.embed.subarray(id * E, (id + 1) * E), i * E));
  const layer = (input, name, rows) => multiply(input, w[name], B, rows).map((sum, i) => sum + w[`${name}_bias`][i % rows]);
  const first = layer(x, "first", H).map(Math.tanh);
  const second = layer(first, "second", H).map(Math.tanh);
  const delta = layer(second, "head", V); // logits, then the gradient with respect to them
  let loss = 0;
  places.forEach((at, row) => {
    const logits = delta.subarray(row * V, (row + 1) * V);
    const highest = Math.max(...logits);
    const total = logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0);
    loss += (highest + Math.log(total) - logits[IDS[at]]) / B;
    logits.forEach((logit, id) => (logits[id] = (Math.exp(logit - highest) / total - (id === IDS[at])) / B));
  });
  const gradients = {};
  const backward = (above, name, input, rows, columns) => {
    gradients[name] = multiply(transpose(above, B), transpose(input, B), rows, columns);
    gradients[`${name}_bias`] = sumRows(above, rows);
    return multiply(above, transpose(w[name], rows), B, columns);
  };
  const through = (above, y) => above.map((g, i) => g * (1 - y[i] ** 2)); // the derivative of tanh
  const belowHead = through(backward(delta, "head", second, V, H), second);
  const belowSecond = through(backward(belowHead, "second", first, H, H), first);
  const below = backward(belowSecond, "first", x, H, C);
  gradients.embed = new Float64Array(V * E);
  below.forEach((g, i) => (gradients.embed[read[Math.floor(i / E)] * E + (i % E)] += g));
  return { loss, gradients };
}

// A matrix with the same singular vectors whose singular values are all near 1: five steps of Newton–Schulz.
export function orthogonalize(matrix, rows) {
  const columns = matrix.length / rows;
  if (rows > columns) return transpose(orthogonalize(transpose(matrix, rows), columns), columns);
  const norm = Math.sqrt(matrix.reduce((sum, g) => sum + g * g, 0)) + 1e-7;
  let x = matrix.map((g) => g / norm);
  for (let i = 0; i < 5; i++) {
    const square = multiply(x, x, rows, rows);
    const fourth = multiply(square, square, rows, rows); // a square is its own transpose
    const change = multiply(square.map((s, at) => -4.775 * s + 2.0315 * fourth[at]), transpose(x, rows), rows, columns);
    x = x.map((value, at) => 3.4445 * value + change[at]);
  }
  return x;
}

// One update of one parameter in place. `state` holds its averages, t counts from 1.
export const OPTIMIZERS = {
  sgd(p, g, state, lr) {
    for (let i = 0; i < p.length; i++) p[i] -= lr * g[i];
  },
  adamw(p, g, state, lr, t) {
    state.m ??= new Float64Array(p.length);
    state.v ??= new Float64Array(p.length);
    for (let i = 0; i < p.length; i++) {
      state.m[i] += 0.1 * (g[i] - state.m[i]);
      state.v[i] += 0.05 * (g[i] * g[i] - state.v[i]);
      p[i] -= (lr * state.m[i]) / (1 - 0.9 ** t) / (Math.sqrt(state.v[i] / (1 - 0.95 ** t)) + 1e-8);
    }
  },
  muon(p, g, state, lr, t, [, rows, columns, inside]) {
    if (!inside) return OPTIMIZERS.adamw(p, g, state, lr, t);
    state.m ??= new Float64Array(p.length);
    for (let i = 0; i < p.length; i++) state.m[i] += 0.05 * (g[i] - state.m[i]);
    const direction = orthogonalize(g.map((value, i) => value + 0.95 * (state.m[i] - value)), rows);
    for (let i = 0; i < p.length; i++) p[i] -= lr * 0.2 * Math.sqrt(Math.max(rows, columns)) * direction[i];
  },
};

// Trains anew; yields the loss of each batch before its update, and ends early where it is no longer finite.
export function* train(kind, { rate, warmup, steps, seed }) {
  const weights = initial(seed);
  const states = LAYOUT.map(() => ({}));
  for (const [step, places] of batches(seed, steps).entries()) {
    const { loss, gradients } = lossAndGradients(weights, places);
    yield loss;
    if (!Number.isFinite(loss)) return;
    const lr = step < warmup ? (rate * (step + 1)) / warmup : rate;
    LAYOUT.forEach((part, i) => OPTIMIZERS[kind](weights[part[0]], gradients[part[0]], states[i], lr, step + 1, part));
  }
}

const RUNNERS = [["sgd", "SGD"], ["adamw", "AdamW"], ["muon", "Muon"]];
const RATES = [-3, -2, -1, 0].flatMap((power) => [1, 3].map((digit) => Number(`${digit}e${power}`))).concat(10);
const GUESS = Math.log(V); // the loss of a uniform guess

// What is left at the end: the mean loss of the last tenth of the updates; without end where a run broke off.
export function final(losses, steps) {
  const last = losses.slice(-Math.max(1, Math.floor(steps / 10)));
  return losses.length < steps || !last.every(Number.isFinite) ? Infinity : last.reduce((sum, loss) => sum + loss, 0) / last.length;
}

export const diverged = (loss) => loss > GUESS + 0.1;

// Of the losses at all rates: the best rate, and the lowest rate from which on every run diverges.
export function verdict(finals) {
  const sound = finals.findLastIndex((loss) => !diverged(loss));
  return { best: RATES[finals.indexOf(Math.min(...finals))], limit: RATES[sound + 1] };
}

// What is seen, in words: how each run ended, and, when every rate was tried, where each optimizer diverges.
export function describe(steps, runs, verdicts) {
  const ends = runs.map(({ name, rate, loss }) => `${name} ${diverged(loss) ? "diverges" : `ends at ${loss.toFixed(2)}`} (rate ${rate})`);
  const limits = verdicts?.map(({ limit }, i) => `${runs[i].name}${i ? "" : " diverges"} ${limit ? `from a rate of ${limit} on` : "at none of the rates"}`);
  const found = verdicts
    ? ` Best rates: ${verdicts.map(({ best }, i) => `${runs[i].name} ${best}`).join(", ")}. ${limits.join(", ")}.`
    : "";
  return `After ${many(steps, "update")}, in nats per character: ${ends.join(", ")}.${found}`;
}

const [LEFT, WIDE, HIGH, LOW, TOP] = [26, 330, 230, 1.5, 5]; // of the charts; the losses from LOW to TOP
const SMOOTH = 10; // a curve is the mean of so many batches
const SLICE = 12; // milliseconds of work in a frame

const height = (loss) => HIGH - 26 - ((Math.min(Math.max(loss, LOW), TOP) - LOW) * (HIGH - 36)) / (TOP - LOW);
const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function smoothed(losses) {
  let sum = 0;
  return losses.map((loss, i) => {
    sum += loss - (i < SMOOTH ? 0 : losses[i - SMOOTH]);
    return sum / Math.min(i + 1, SMOOTH);
  });
}

function chart(label, marks, [guessAt, guessSide]) {
  const write = (x, y, text, side) => svg("text", { x, y, "text-anchor": side }, text);
  const across = marks.map(([x, text], i) => write(x, HIGH - 8, text, i ? (i === marks.length - 1 ? "end" : "middle") : "start"));
  const levels = [2, 3, 4, 5].flatMap((loss) =>
    [svg("path", { class: "rule", d: `M${LEFT} ${height(loss)}H${WIDE}` }), write(LEFT - 6, height(loss) + 4, loss === TOP ? `≥${loss}` : loss, "end")]);
  const guess = [svg("path", { class: "context", d: `M${LEFT} ${height(GUESS)}H${WIDE}` }), write(guessAt, height(GUESS) - 4, "uniform guess", guessSide)];
  const lines = RUNNERS.map(([kind]) => svg("path", { class: `run ${kind}` }));
  const spots = RUNNERS.map(([kind]) => svg("circle", { class: kind, r: 5 }));
  const node = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "waves race", "aria-label": label }, ...levels, ...guess, ...across, ...lines, ...spots);
  return { node, lines, spots };
}

function render({ model, el }) {
  const [steps, seed] = [model.get("steps"), model.get("seed")];
  const warmups = [0, 5, 10, 20, 50, 100, 200].filter((n) => n < steps);
  const dial = Object.fromEntries(RUNNERS.map(([kind, name]) => [kind, slider(`Rate of ${name}`, (rate) => put(model, kind, rate), String)]));
  dial.warmup = slider("Warm-up", (n) => put(model, "warmup", n), (n) => many(n, "update"));
  const button = html("button", { type: "button", onclick: () => sweep() }, "Try every rate");
  const at = (i) => LEFT + ((WIDE - LEFT - 6) * i) / Math.max(1, steps - 1);
  const by = (rate) => LEFT + 6 + ((WIDE - LEFT - 12) * RATES.indexOf(rate)) / (RATES.length - 1);
  const curves = chart("Loss by update", [[at(0), "update 1"], [at(steps - 1), `update ${steps}`]], [WIDE, "end"]);
  const ends = chart("Loss at the end by learning rate", [0.001, 0.01, 0.1, 1, 10].map((rate) => [by(rate), String(rate)]), [LEFT, "start"]);
  const names = RUNNERS.map(() => html("span"));
  const legend = html("p", { class: "note keys" }, ...RUNNERS.map(([kind], i) => html("span", {}, html("span", { class: `swatch ${kind}` }), " ", names[i])));
  const { question, sentence } = frame(el, "Optimizer race", [dials(...Object.values(dial)), button],
    [legend, html("div", { class: "pair" },
      html("div", { class: "part" }, html("p", { class: "note" }, `Loss in nats per character, mean of ${SMOOTH} batches`), curves.node),
      html("div", { class: "part" }, html("p", { class: "note" }, "Loss at the end, by learning rate"), ends.node))]);
  question.textContent = "Predict: with one rate for all, SGD falls far behind. How far behind is it when each has the best rate of its own? Decide, then move the sliders.";

  const runs = new Map(); // all that were begun, by optimizer, rate and warm-up
  let sweeping; // the warm-up for which every rate is tried
  let visible = false;
  let frameNumber;
  const find = (kind, rate) => {
    const warmup = model.get("warmup");
    const key = `${kind} ${rate} ${warmup}`;
    if (!runs.has(key)) runs.set(key, { losses: [], open: true, rest: train(kind, { rate, warmup, steps, seed }) });
    return runs.get(key);
  };
  const chosen = () => RUNNERS.map(([kind, name]) => ({ kind, name, rate: model.get(kind), run: find(kind, model.get(kind)) }));
  const grid = () => RUNNERS.map(([kind]) => RATES.map((rate) => find(kind, rate)));

  function advance(run) {
    const { value, done } = run.rest.next();
    if (!done) run.losses.push(value);
    run.open = !done && run.losses.length < steps;
  }

  // The chosen runs in step with each other, then the others one by one.
  function next() {
    const [first] = chosen().map(({ run }) => run).filter((run) => run.open).sort((a, b) => a.losses.length - b.losses.length);
    return first ?? (sweeping === model.get("warmup") ? grid().flat().find((run) => run.open) : undefined);
  }

  function work() {
    frameNumber = undefined;
    const end = performance.now() + SLICE;
    let run;
    while (performance.now() < end && (run = next())) advance(run);
    draw();
    go();
  }

  function go() {
    if (visible && next()) frameNumber ??= requestAnimationFrame(work);
  }

  function sweep() {
    sweeping = model.get("warmup");
    draw();
    go();
  }

  function draw() {
    const all = grid();
    const now = chosen();
    const result = ({ losses }) => final(losses, steps);
    const left = all.flat().filter((run) => run.open).length;
    const busy = now.some(({ run }) => run.open);
    const searching = sweeping === model.get("warmup") && left > 0;
    button.textContent = searching ? `${left} runs left` : "Try every rate";
    button.setAttribute("aria-disabled", searching || !left);
    now.forEach(({ kind, name, rate, run }, i) => {
      const done = all[i].map((one, j) => [RATES[j], one]).filter(([, one]) => !one.open).map(([r, one]) => [by(r), height(result(one))]);
      curves.lines[i].setAttribute("d", path(smoothed(run.losses).map((loss, step) => [at(step), height(loss)])));
      ends.lines[i].setAttribute("d", path(done));
      for (const [spot, x, y, seen] of [
        [curves.spots[i], at(run.losses.length - 1), height(smoothed(run.losses).at(-1)), run.losses.length > 0],
        [ends.spots[i], by(rate), height(result(run)), !run.open]]) {
        spot.setAttribute("visibility", seen ? "visible" : "hidden");
        if (!seen) continue;
        spot.setAttribute("cx", x);
        spot.setAttribute("cy", y);
      }
      names[i].textContent = run.open ? name : `${name}: ${diverged(result(run)) ? "diverges" : result(run).toFixed(2)}`;
    });
    if (busy) say("The three are training in your browser, batch by batch.");
    else if (searching) say("Every rate is being tried; the curves on the right grow with each run.");
    else say(describe(steps, now.map(({ name, rate, run }) => ({ name, rate, loss: result(run) })), left ? undefined : all.map((row) => verdict(row.map(result)))));
  }

  function say(text) {
    if (sentence.textContent !== text) sentence.textContent = text; // said once, not in every frame
  }

  const end = follow(model, ["sgd", "adamw", "muon", "warmup"], () => {
    RUNNERS.forEach(([kind]) => dial[kind].show(model.get(kind), RATES));
    dial.warmup.show(model.get("warmup"), warmups);
    draw();
    go();
  });
  const watch = new IntersectionObserver((entries) => {
    visible = entries.at(-1).isIntersecting; // nothing is computed where it is not seen
    go();
  });
  watch.observe(el);
  return () => {
    end();
    watch.disconnect();
    cancelAnimationFrame(frameNumber);
    visible = false;
  };
}

export default { render };
