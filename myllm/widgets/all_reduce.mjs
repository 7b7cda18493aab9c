// All-reduce on n ranks: pure functions first, then the picture. Ranks, chunks and places are counted from 0.

// Numbers of each rank's vector: the fewest, from 8 on, that n equal chunks make up.
export const size = (n) => n * Math.ceil(8 / n);

const ranks = (n) => Array.from({ length: n }, (_, rank) => rank);

// The vectors before the first step: small whole numbers, the same in every browser.
export function vectors(n) {
  const random = generator(n);
  return ranks(n).map(() => Array.from({ length: size(n) }, () => Math.floor(10 * random())));
}

// One rank collects all vectors, one after another, and sends the sum back.
function naive(n) {
  const whole = (phase, message) => ranks(n).slice(1).map((rank) => ({ phase, messages: [message(rank)] }));
  return [...whole("gather", (from) => ({ from, to: 0, add: true })), ...whole("broadcast", (to) => ({ from: 0, to, add: false }))];
}

// In step s rank r sends chunk r − s, so rank r ends with the sum of chunk r + 1; these go round in the same way.
function ring(n) {
  const round = (phase, first, add) => ranks(n - 1).map((s) => ({
    phase,
    messages: ranks(n).map((from) => ({ from, to: (from + 1) % n, chunk: (from + first - s + n) % n, add })),
  }));
  return [...round("reduce-scatter", 0, true), ...round("all-gather", 1, false)];
}

// Pairs of ranks, then pairs of pairs: sums go down to rank 0, and the result goes back up the same tree.
function tree(n) {
  const gaps = Array.from({ length: Math.ceil(Math.log2(n)) }, (_, level) => 2 ** level);
  const pairs = (gap) => ranks(n).filter((rank) => rank % (2 * gap) === 0 && rank + gap < n).map((rank) => [rank, rank + gap]);
  return [
    ...gaps.map((gap) => ({ phase: "reduce", messages: pairs(gap).map(([to, from]) => ({ from, to, add: true })) })),
    ...gaps.toReversed().map((gap) => ({ phase: "broadcast", messages: pairs(gap).map(([from, to]) => ({ from, to, add: false })) })),
  ];
}

// The steps of an algorithm. The messages of a step travel at once, for none sends what another brings; a message
// without `chunk` is the whole vector.
export const schedule = (algorithm, n) => ({ naive, ring, tree })[algorithm](n);

// The places that a message sends.
export function places(n, { chunk }) {
  const length = size(n);
  const each = length / n;
  return Array.from({ length: chunk === undefined ? length : each }, (_, i) => (chunk ?? 0) * each + i);
}

// After the given steps: each rank's numbers, and whose numbers each contains, one bit for each rank.
export function play(n, steps) {
  const [values, origins] = [vectors(n), ranks(n).map((rank) => Array(size(n)).fill(2 ** rank))];
  for (const { from, to, add, ...message } of steps.flatMap(({ messages }) => messages))
    for (const at of places(n, message))
      for (const numbers of [values, origins]) numbers[to][at] = numbers[from][at] + (add ? numbers[to][at] : 0);
  return { values, origins };
}

// The numbers that each rank sends in the given steps.
export function sent(n, steps) {
  const numbers = Array(n).fill(0);
  for (const message of steps.flatMap(({ messages }) => messages)) numbers[message.from] += places(n, message).length;
  return numbers;
}

// A step lasts a latency and the transfer of its longest message; a rank sends and receives at the same time.
export function seconds(n, steps, bytes, latency, bandwidth) {
  const longest = ({ messages }) => Math.max(...messages.map((message) => places(n, message).length / size(n)));
  return steps.reduce((sum, step) => sum + latency + (longest(step) * bytes) / bandwidth, 0);
}

// Bytes of the fullest rank in mixed precision at a stage of ZeRO, and what each rank sends for one update, in bf16:
// 2 bytes a parameter for the weight, 2 for the gradient, 12 for the fp32 master and the two moments of AdamW.
export function zero(stage, count, n) {
  const held = (from) => (stage >= from ? Math.ceil(count / n) : count);
  const travels = (stage === 3 ? 3 : 2) * 2 * count; // gradients are summed; weights gathered once, at stage 3 twice
  return { weights: 2 * held(3), gradients: 2 * held(2), optimizer: 12 * held(1), sends: (travels * (n - 1)) / n };
}

const inSeconds = (s) => brief(1e9 * s, ["ns", "µs", "ms", "s"]);
const times = (x) => x.toLocaleString("en", { maximumFractionDigits: 2 });
const NAMES = { naive: "Naive", ring: "Ring", tree: "Tree" };
const BYTES = 2; // of a gradient in bf16

function travels(n, algorithm, { messages }) {
  const [{ add }] = messages;
  if (algorithm === "ring")
    return `each rank sends ${many(places(n, messages[0]).length, "number")} to the next, which ${add ? "adds them" : "keeps them"}`;
  const all = (list) => `rank${list.length > 1 ? "s" : ""} ${[list.slice(0, -1).join(", "), list.at(-1)].filter((part) => part !== "").join(" and ")}`;
  const one = messages.length === 1;
  const [from, to] = ["from", "to"].map((end) => all(messages.map((message) => message[end])));
  return `${from} ${one ? "sends" : "send"} all ${size(n)} numbers to ${to}, which ${one ? (add ? "adds" : "keeps") : add ? "add" : "keep"} them`;
}

// What is to be seen, in words.
export function describe({ ranks: n, algorithm, step, parameters, latency, bandwidth }) {
  const steps = schedule(algorithm, n);
  const bytes = BYTES * parameters;
  const now = step
    ? `step ${step} of ${steps.length} (${steps[step - 1].phase}): ${travels(n, algorithm, steps[step - 1])}`
    : `before step 1 of ${steps.length}: each rank has its own numbers`;
  const most = Math.max(...sent(n, steps)) / size(n);
  const took = (kind) => seconds(n, schedule(kind, n), bytes, latency / 1e6, bandwidth * 1e9);
  const others = Object.keys(NAMES).filter((kind) => kind !== algorithm).map((kind) => `${kind} ${inSeconds(took(kind))}`);
  return `${NAMES[algorithm]}, ${now}${step === steps.length ? ". Every rank has the whole sum" : ""}. ` +
    `In all, the busiest rank sends ${times(most)} S = ${inBytes(most * bytes)} in ${inSeconds(took(algorithm))} (${others.join(", ")}).`;
}

const LATENCIES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]; // microseconds
const BANDWIDTHS = [0.125, 1.25, 3.125, 12.5, 25, 50, 100, 200, 450]; // GB/s
const COUNTS = [1e3, 1e4, 1e5, 1e6, 1e7, 124e6, 1e9, 7e9, 70e9];
const STAGES = ["0: nothing sharded", "1: optimizer sharded", "2: also gradients", "3: also weights"];
const [LEFT, CELLS, HIGH, RIGHT] = [18, 226, 26, 288]; // of the picture: cells, rows, where the arrows begin

function render({ model, el }) {
  const get = (name) => model.get(name);
  const change = (name) => (value) => put(model, name, value);
  const restart = (name) => (value) => {
    model.set("step", 0);
    put(model, name, value);
  };
  const plan = () => schedule(get("algorithm"), get("ranks"));
  const go = (step) => put(model, "step", Math.min(Math.max(step, 0), plan().length));
  const algorithm = select("Algorithm", [["naive", "naive: gather, broadcast"], ["ring", "ring: reduce-scatter, all-gather"], ["tree", "tree: reduce, broadcast"]],
    restart("algorithm"));
  const count = slider("Ranks n", restart("ranks"));
  const step = slider("Step", go);
  const back = html("button", { type: "button", onclick: () => go(get("step") - 1) }, "Back");
  const forward = html("button", { type: "button", onclick: () => go(get("step") + 1) }, "Next step");
  const model_size = slider("Parameters", change("parameters"), (value) => `${brief(value, ["", "thousand", "million", "billion"]).trim()}, S = ${inBytes(BYTES * value)}`);
  const latency = slider("Latency", change("latency"), (value) => inSeconds(value / 1e6));
  const bandwidth = slider("Bandwidth", change("bandwidth"), (value) => `${inBytes(1e9 * value)}/s`);

  const drawing = svg("svg", { role: "img", class: "ranks" });
  const key = (kind, what) => html("span", {}, html("span", { class: `sample ${kind}` }, "7"), ` ${what}`);
  const swatch = (role, what) => html("span", {}, html("span", { class: `swatch ${role}` }), ` ${what}`);
  const clock = html("ul", { class: "bars spans", "aria-label": "Time of each algorithm" });
  const memory = html("ul", { class: "bars spans", "aria-label": "Bytes of each rank at the stages of ZeRO" });
  const { question, sentence } = frame(el, "All-reduce",
    [algorithm.label, html("div", { class: "buttons" }, back, forward), dials(step, count, model_size, latency, bandwidth)],
    [html("div", { class: "pair" },
      html("div", { class: "part" }, drawing, html("p", { class: "note keys" }, key("out", "sent"), key("in", "received"), key("done", "complete sum")),
        html("p", { class: "note" }, "Time of one all-reduce of S bytes"), clock),
      html("div", { class: "part" }, html("p", { class: "note" }, "ZeRO on n ranks: memory of each rank in mixed precision; bytes a parameter:"),
        html("p", { class: "note keys" }, swatch("weights", "2: weight"), swatch("value", "2: gradient"), swatch("key", "12: fp32 master, moments")), memory))]);
  question.textContent = "Predict: which algorithm is the fastest for a thousand parameters, and which for a billion? Decide, then move ‘Parameters’.";

  const row = (name, spans, most, said, chosen) => html("li", { "aria-current": chosen ? "true" : null },
    html("p", { class: "head" }, html("span", {}, name), html("b", {}, said)),
    html("div", { class: "track" }, ...Object.entries(spans).map(([role, length]) =>
      html("div", { class: `bar ${role}`, style: `width: ${(100 * length) / most}%` }))));

  function draw(n, list, now) {
    const done = list.slice(0, now);
    const { values, origins } = play(n, done);
    const messages = now ? list[now - 1].messages : [];
    const wide = (CELLS - 3 * (n - 1)) / size(n);
    const left = (at) => LEFT + at * wide + 3 * Math.floor((at * n) / size(n));
    const top = (rank) => 18 + rank * HIGH;
    const middle = (rank) => top(rank) + HIGH / 2;
    const text = (x, y, said, kind = "") => svg("text", { x, y, class: kind }, said);
    const part = (end, rank, at) => messages.some((message) => message[end] === rank && places(n, message).includes(at));
    const cell = (number, rank, at) => [
      svg("rect", {
        x: left(at), y: top(rank) + 2, width: wide, height: HIGH - 4,
        class: `${origins[rank][at] === 2 ** n - 1 ? "done" : ""} ${part("to", rank, at) ? "in" : part("from", rank, at) ? "out" : ""}`,
      }),
      text(left(at) + wide / 2, middle(rank) + 4, number, origins[rank][at] === 2 ** n - 1 ? "done" : "")];
    const arrow = ({ from, to }) => {
      const [start, end, bend] = [middle(from) + 5, middle(to) - 5, RIGHT + 18 + 9 * Math.abs(to - from)];
      return svg("path", { d: `M${RIGHT} ${start}C${bend} ${start} ${bend} ${end} ${RIGHT + 6} ${end}m-6 0l7 -4v8z` });
    };
    drawing.setAttribute("viewBox", `0 0 346 ${top(n) + 2}`);
    drawing.setAttribute("aria-label", `The numbers of ${n} ranks: ${values.map((row, rank) => `rank ${rank}: ${row.join(" ")}`).join("; ")}`);
    drawing.replaceChildren(text(6, 11, "r"), text(LEFT + CELLS / 2, 11, `${size(n)} numbers in ${n} chunks`), text(266, 11, "sent"),
      ...values.flatMap((row, rank) => row.flatMap((number, at) => cell(number, rank, at))),
      ...sent(n, done).flatMap((numbers, rank) => [text(6, middle(rank) + 4, rank), text(266, middle(rank) + 4, numbers)]),
      ...messages.map(arrow));
  }

  const names = ["ranks", "algorithm", "step", "parameters", "latency", "bandwidth"];
  return follow(model, names, () => {
    const state = Object.fromEntries(names.map((name) => [name, get(name)]));
    const { ranks: n, parameters } = state;
    const list = plan();
    state.step = Math.min(state.step, list.length);
    algorithm.show(state.algorithm);
    count.show(n, [2, 3, 4, 5, 6, 7, 8]);
    step.show(state.step, Array.from({ length: list.length + 1 }, (_, i) => i));
    model_size.show(parameters, steps(COUNTS, parameters));
    latency.show(state.latency, steps(LATENCIES, state.latency));
    bandwidth.show(state.bandwidth, steps(BANDWIDTHS, state.bandwidth));
    back.setAttribute("aria-disabled", state.step === 0); // marked, not disabled: the focus stays
    forward.setAttribute("aria-disabled", state.step === list.length);

    draw(n, list, state.step);
    const took = Object.keys(NAMES).map((kind) => {
      const all = schedule(kind, n);
      return [kind, all, seconds(n, all, BYTES * parameters, state.latency / 1e6, state.bandwidth * 1e9)];
    });
    const slowest = Math.max(...took.map(([, , time]) => time));
    clock.replaceChildren(...took.map(([kind, all, time]) =>
      row(`${NAMES[kind]}: ${all.length} steps, at most ${times(Math.max(...sent(n, all)) / size(n))} S`, { token: time }, slowest, inSeconds(time), kind === state.algorithm)));
    memory.replaceChildren(...STAGES.map((name, stage) => {
      const { weights, gradients, optimizer, sends } = zero(stage, parameters, n);
      const held = weights + gradients + optimizer;
      return row(`Stage ${name}; sends ${inBytes(sends)}`, { weights, value: gradients, key: optimizer }, 16 * parameters, inBytes(held));
    }));
    sentence.textContent = describe(state);
  });
}

export default { render };
